"""Hopfield networks: associative memories of spins, and of graded units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor, nn

from energynet.energy import Composite, Energy
from energynet.errors import StateError
from energynet.flow import Clamp
from energynet.link import Tanh
from energynet.models.storage import RULES
from energynet.recording import Recorder
from energynet.samplers import Glauber, Synchronous
from energynet.settle import flow_of, relax
from energynet.solution import Solution
from energynet.solvers import Euler, Solver
from energynet.terms import Coupling, Field, Leak
from energynet.variable import Continuous, Interval, Spin, Variable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def recalled(
    energy: Energy,
    cues: Float[Tensor, "batch units"],
    solver: Solver,
    *,
    clamp: Clamp | None = None,
    max_steps: int = 1000,
    record: Recorder | None = None,
    generator: torch.Generator | None = None,
) -> Solution:
    """Settle from cues of ``s``; the energy is computed when it is asked for."""
    with torch.no_grad():
        flow = flow_of(energy, clamp, {"s": cues}, solver=solver, generator=generator)
        return relax(flow, solver=solver, max_steps=max_steps, record=record, generator=generator)


class _Memory(Composite):
    """Symmetric couplings and fields, and the rules that store patterns in them."""

    def __init__(self, variable: Variable, mask: Tensor | None) -> None:
        super().__init__(s=variable)
        self.coupling = Coupling(mask, s=variable)
        self.field = Field(s=variable)
        self.diagonal: Tensor
        self.register_buffer("diagonal", torch.zeros(variable.shape))

    @property
    def weight(self) -> nn.Parameter:
        """W, of shape (n, n)."""
        return self.coupling.weight

    @property
    def bias(self) -> nn.Parameter:
        """b, of shape (n,)."""
        return self.field.bias

    def store(self, patterns: Tensor, rule: str = "hebb") -> Self:
        r"""Add patterns to the memory.

        Parameters
        ----------
        patterns
            Spins, of shape ``(count, n)``, or ``(n,)`` for one.
        rule
            ``"hebb"`` (Hopfield 1982), the default: local and incremental; up to 0.138 n random patterns
            are recalled. ``"storkey"`` (Storkey and Valabregue 1999): local, incremental, and more of
            them. ``"pseudoinverse"`` (Personnaz, Guyon and Dreyfus 1985): up to n linearly independent
            patterns, however correlated. ``"perceptron"`` (Diederich and Opper 1987): couplings for which
            these patterns are stable, if it finds any, by repetition. With the first three it is the same
            whether patterns are stored one at a time or all at once; the perceptron rule looks only at the
            patterns of one call.

        Returns
        -------
        The model itself.

        Raises
        ------
        StateError
            If the patterns are not spins of the right number.
        ValueError
            If the rule is unknown, or cannot go on from the couplings that are there.
        """
        if rule not in RULES:
            raise ValueError(f"store: rule must be one of {', '.join(map(repr, RULES))}, got {rule!r}")
        with torch.no_grad():
            spins = checked_patterns("store", patterns, self.weight)
            mask = self.coupling.mask
            weight, diagonal = RULES[rule](self.coupling.matrix(), self.diagonal, spins, mask)
            self.weight.copy_(weight)
            self.diagonal.copy_(diagonal)
        return self

    def forget(self) -> Self:
        """Set all couplings to zero; the fields stay."""
        with torch.no_grad():
            self.weight.zero_()
            self.diagonal.zero_()
        return self


def checked_patterns(owner: str, patterns: Tensor, like: Tensor) -> Float[Tensor, "count units"]:
    """Patterns as a matrix of spins, in the dtype and on the device of the weight."""
    if not isinstance(patterns, Tensor):
        raise StateError(f"{owner}: expected patterns as a torch.Tensor, got {type(patterns).__name__}")
    spins = patterns.unsqueeze(0) if patterns.ndim == 1 else patterns
    if spins.ndim != 2 or spins.shape[1] != like.shape[-1]:
        raise StateError(
            f"{owner}: expected patterns of shape (count, {like.shape[-1]}), got {tuple(patterns.shape)}"
        )
    if spins.dtype == torch.bool or not bool((spins.abs() == 1).all()):
        raise StateError(
            f"{owner}: expected patterns of the values -1 and +1; threshold others, as in "
            "torch.where(x > 0.5, 1.0, -1.0)"
        )
    return spins.to(like)


@final
class Hopfield(_Memory):
    """A network of spins that recalls what it stores (Hopfield 1982, PNAS 79:2554).

    E = -1/2 s . W s - b . s, W symmetric with zero diagonal; the variable is ``s``. All couplings are zero at
    first.

    Parameters
    ----------
    n
        Number of units.
    mask
        Symmetric boolean matrix (n, n) of the couplings that are there, for sparse and diluted networks;
        None, the default, for all. Sweeps over sparse couplings go by lists of neighbours.

    Attributes
    ----------
    weight, bias
        Parameters W, (n, n), and b, (n,).
    """

    def __init__(self, n: int, mask: Bool[Tensor, "n n"] | None = None) -> None:
        super().__init__(Spin(n), mask)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return (1.0, self.coupling), (1.0, self.field)

    def recall(
        self,
        cues: Float[Tensor, "batch n"],
        *,
        temperature: float = 0.0,
        synchronous: bool = False,
        clamp: Clamp | None = None,
        max_steps: int | None = None,
        record: Recorder | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Settle from cues.

        Parameters
        ----------
        cues
            Spins to start from.
        temperature
            T, 0 by default, where it ends once nothing moves. Above, states follow exp(-E / T).
        synchronous
            Update all units at once (`Synchronous`): one product a step, but the energy may rise and a sample
            may end in a cycle of two states, which its status says. False, the default, updates one unit
            after the other (`Glauber`), so that the energy never rises.
        clamp
            What to hold, such as the known half of an image: ``{"s": Partial(image, known)}``.
        max_steps
            The most steps, each of as many updates as there are units; by default 1000 at T = 0, and 100
            above it.
        record, generator
            As in `settle`.

        Returns
        -------
        Solution
            Its state is ``s``; its energy and residual are computed when asked for.
        """
        solver = Synchronous(temperature) if synchronous else Glauber(temperature)
        steps = (100 if temperature else 1000) if max_steps is None else max_steps
        return recalled(self, cues, solver, clamp=clamp, max_steps=steps, record=record, generator=generator)


@final
class GradedHopfield(_Memory):
    r"""The same memory of graded units (Hopfield 1984, PNAS 81:3088).

    .. math:: E = -\tfrac12 s \cdot W s - b \cdot s
                  + \tfrac1g \sum_i \int_0^{s_i} \operatorname{artanh}

    Mirror flow of it is (1/g) du/dt = -u/g + W s + b, s = tanh(u), the time constant being 1/g. It is
    stationary where s = tanh(g (W s + b)): the mean field of `Hopfield` at the temperature 1 / g.

    Parameters
    ----------
    n
        Number of units.
    gain
        g, 10 by default, at which patterns stored by the Hebb rule are stationary but for a little.
    mask
        As for `Hopfield`.

    Attributes
    ----------
    weight, bias
        Parameters W, (n, n), and b, (n,).
    """

    def __init__(self, n: int, gain: float = 10.0, mask: Bool[Tensor, "n n"] | None = None) -> None:
        if not gain > 0:
            raise ValueError(f"GradedHopfield: gain must be a positive number, got {gain!r}")
        unit: Continuous = Interval(n, low=-1.0, high=1.0, tau=1.0 / gain, link=Tanh())
        super().__init__(unit, mask)
        self.gain = float(gain)
        self.leak = Leak(s=unit)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return (1.0, self.coupling), (1.0, self.field), (1.0 / self.gain, self.leak)

    def recall(
        self,
        cues: Float[Tensor, "batch n"],
        *,
        solver: Solver | None = None,
        clamp: Clamp | None = None,
        max_steps: int = 1000,
        record: Recorder | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Settle from cues in [-1, 1], by default by `Euler(0.5)`; further arguments as in `settle`."""
        return recalled(
            self,
            cues,
            Euler(0.5) if solver is None else solver,
            clamp=clamp,
            max_steps=max_steps,
            record=record,
            generator=generator,
        )
