"""Mean field: the best factorised law in place of exp(-E), as an energy of the means of its units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import Composite, Conditioned, Energy
from energynet.errors import StateError
from energynet.link import Sigmoid, Tanh
from energynet.state import State
from energynet.terms import Bilinear, Coupling, Field, Leak
from energynet.variable import Bit, Continuous, Interval, Spin, Unit, Variable, rows

ORDERS = (1, 2)


@final
class MeanField(Composite):
    r"""The free energy of a factorised law, as an energy of its means (Peterson and Anderson 1987).

    .. math:: F(m) = E(m) - T \sum_i S(m_i)

    Bits become `Unit` variables with a sigmoid link, spins intervals with a hyperbolic tangent, and S is the
    entropy of a unit, but for a constant of log 2 for each spin. Where E is affine in each unit, E(m) is its
    expectation, so F is an upper bound of -T log Z, and it is stationary where each unit is at the mean that
    the means of the others give it: m = sigmoid(-(E(1) - E(0)) / T). Settled with the default solver this is
    the fixed-point iteration of Salakhutdinov and Hinton (2009, AISTATS, eq. 7), block by block, so that F
    never rises.

    With ``order=2`` the reaction of Thouless, Anderson and Palmer (1977) is added, the next term of the
    expansion of log Z in the couplings (Plefka 1982, J. Phys. A 15:1971):

    .. math:: -\frac{1}{2T} \sum_{i<j} W_{ij}^2 \operatorname{var}(m_i) \operatorname{var}(m_j)

    It is nearer to the truth where couplings are weak, and no longer a bound. With strong couplings it need
    not have a minimum inside the domain.

    Parameters
    ----------
    energy
        Of bits, spins, and continuous variables that are given; it must be affine in each unit.
    order
        1, the default, for the bound; 2 for the reaction too, of energies that are made of `terms.Bilinear`,
        `terms.Coupling` and `terms.Field`.
    temperature
        T, 1 by default.

    Raises
    ------
    StateError
        If no variable is discrete, or ``order=2`` meets a term whose couplings it does not know.

    Examples
    --------
    >>> means = en.settle(en.MeanField(machine), clamp={"v": images})
    """

    def __init__(self, energy: Energy, order: int = 1, temperature: float = 1.0) -> None:
        if isinstance(energy, Conditioned):
            raise TypeError("MeanField: take the mean field of the whole energy, then condition it")
        if order not in ORDERS:
            raise ValueError(f"MeanField: order must be 1 or 2, got {order!r}")
        if not temperature > 0:
            raise ValueError(f"MeanField: the temperature is a positive number, got {temperature!r}")
        relaxed = {name: _relaxed(variable) for name, variable in energy.variables.items()}
        super().__init__(**relaxed)
        self.base = energy
        self.order = order
        self.temperature = float(temperature)
        moved = {n: v for n, v in relaxed.items() if v != energy.variables[n] and isinstance(v, Continuous)}
        if not moved:
            raise StateError(f"MeanField: {energy} has no discrete variable; settle it as it is")
        self.entropies = nn.ModuleList(Leak(**{name: variable}) for name, variable in moved.items())
        self.reactions = nn.ModuleList()
        if order == 2:
            pairwise = [(factor, part) for factor, part in energy.parts() if not isinstance(part, Field)]
            self.reactions.append(Reaction(pairwise, moved, self.temperature))

    def reaction_gradient(self, state: State) -> dict[nn.Parameter, Tensor]:
        """The gradient of the batch mean of the reaction in the parameters; empty for ``order=1``."""
        parameters = [p for p in self.reactions.parameters() if p.requires_grad]
        if not parameters:
            return {}
        with torch.enable_grad():
            total = torch.stack(
                [
                    part.energy(**{name: state[name].detach() for name in part.variables}).mean()
                    for part in self.reactions
                    if isinstance(part, Energy)
                ]
            ).sum()
            slopes = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        return dict(zip(parameters, slopes, strict=True))

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        entropies = ((self.temperature, part) for part in self.entropies if isinstance(part, Energy))
        reactions = ((1.0, part) for part in self.reactions if isinstance(part, Energy))
        return (*self.base.parts(), *entropies, *reactions)


@final
class Reaction(Energy):
    """The second order of all pairwise terms: -W^2 times the variances of the two units, over 2 T.

    Parameters
    ----------
    terms
        With their factors.
    variables
        Of the units that have a variance; what is given has none.
    temperature
        T.
    """

    def __init__(
        self,
        terms: Sequence[tuple[float, Energy]],
        variables: Mapping[str, Variable],
        temperature: float,
    ) -> None:
        for _, term in terms:
            pair_couplings(term)  # refuses what it does not know
        super().__init__(**variables)
        self.factors = tuple(factor for factor, _ in terms)
        self.pairs = nn.ModuleList(term for _, term in terms)
        self.temperature = temperature

    def energy(self, **state: Tensor) -> Tensor:
        spread = {name: _variance(self.variables[name], rows(value)) for name, value in state.items()}
        like = next(iter(spread.values()))
        total = like.new_zeros(like.shape[0])
        for (first, second), weight in self._couplings().items():
            twice = 0.5 if first == second else 1.0  # a pair within a variable is met twice
            total = total + twice * (spread[second] * functional.linear(spread[first], weight.square())).sum(
                1
            )
        return total / (-2 * self.temperature)

    def _couplings(self) -> dict[tuple[str, str], Tensor]:
        """W of each two variables, ``(second, first)``: what several terms couple counts once, as a sum."""
        found: dict[tuple[str, str], Tensor] = {}
        for factor, term in zip(self.factors, self.pairs, strict=True):
            assert isinstance(term, Energy)
            for (first, second), matrix in pair_couplings(term).items():
                if first not in self.variables or second not in self.variables:
                    continue
                turned = (second, first) in found
                key = (second, first) if turned else (first, second)
                weight = factor * (matrix.t() if turned else matrix)
                found[key] = found[key] + weight if key in found else weight
        return found


@singledispatch
def pair_couplings(term: Energy) -> dict[tuple[str, str], Tensor]:
    """W of each two variables of a pairwise term, ``(units of the second, units of the first)``."""
    raise StateError(
        f"MeanField: order 2 knows the couplings of Bilinear and Coupling terms, not of {term}; use order=1"
    )


@pair_couplings.register
def _(term: Bilinear) -> dict[tuple[str, str], Tensor]:
    return {(term.source, term.target): term.weight}


@pair_couplings.register
def _(term: Coupling) -> dict[tuple[str, str], Tensor]:
    names = list(term.variables)
    sizes = [math.prod(term.variables[name].shape) for name in names]
    parts = [part.split(sizes, 1) for part in term.matrix().split(sizes)]
    return {(names[i], names[j]): parts[j][i] for j in range(len(names)) for i in range(j + 1)}


def _variance(variable: Variable, mean: Tensor) -> Tensor:
    return (variable.high - mean) * (mean - variable.low)


def _relaxed(variable: Variable) -> Variable:
    if isinstance(variable, Bit):
        return Unit(*variable.shape, link=Sigmoid())
    if isinstance(variable, Spin):
        return Interval(*variable.shape, low=-1.0, high=1.0, link=Tanh())
    return variable
