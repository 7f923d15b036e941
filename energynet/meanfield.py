"""Mean field: the best factorised law in place of exp(-E), as an energy of the means of its units."""

from __future__ import annotations

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
            self.reactions.extend(
                Reaction(factor, part, relaxed, temperature)
                for factor, part in energy.parts()
                if not isinstance(part, Field)
            )

    def reaction_gradient(self, state: State) -> dict[nn.Parameter, Tensor]:
        """The gradient of the batch mean of the reaction in the parameters; empty for ``order=1``."""
        parameters = list(self.reactions.parameters())
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
    """The second order of one pairwise term: -W^2 times the variances of the two units, over 2 T."""

    def __init__(
        self, factor: float, term: Energy, variables: dict[str, Variable], temperature: float
    ) -> None:
        squared_couplings(term)  # refuses what it does not know
        super().__init__(**{name: variables[name] for name in term.variables})
        self.term = term
        self.scale = -(factor**2) / (2 * temperature)

    def energy(self, **state: Tensor) -> Tensor:
        sources, targets, squares, pairs = squared_couplings(self.term)
        first, second = (
            torch.cat([_variance(self.variables[name], rows(state[name])) for name in names], 1)
            for names in (sources, targets)
        )
        return self.scale * pairs * (second * functional.linear(first, squares)).sum(1)


@singledispatch
def squared_couplings(term: Energy) -> tuple[list[str], list[str], Tensor, float]:
    """Variables of two sides of a pairwise term, W^2 as (second, first), and the weight of a pair."""
    raise StateError(
        f"MeanField: order 2 knows the couplings of Bilinear and Coupling terms, not of {term}; use order=1"
    )


@squared_couplings.register
def _(term: Bilinear) -> tuple[list[str], list[str], Tensor, float]:
    return [term.source], [term.target], term.weight.square(), 1.0


@squared_couplings.register
def _(term: Coupling) -> tuple[list[str], list[str], Tensor, float]:
    names = list(term.variables)
    return names, names, term.matrix().square(), 0.5  # each pair is met twice


def _variance(variable: Variable, mean: Tensor) -> Tensor:
    return (variable.high - mean) * (mean - variable.low)


def _relaxed(variable: Variable) -> Variable:
    if isinstance(variable, Bit):
        return Unit(*variable.shape, link=Sigmoid())
    if isinstance(variable, Spin):
        return Interval(*variable.shape, low=-1.0, high=1.0, link=Tanh())
    return variable
