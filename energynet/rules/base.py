"""Learning rules in the form of a loss: the value is a cost, the gradient is the rule's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.flow import EnergyFlow
from energynet.rules.contrast import by_parameter, contrast
from energynet.settle import relax
from energynet.solution import Solution, check_finite
from energynet.solvers import Solver
from energynet.state import State
from energynet.stopping import Status, Until
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Phase:
    """A settled state and the weight that its energy has in a rule.

    Attributes
    ----------
    weight
        A number, or one for each sample, ``(batch,)``.
    energy
        Of every variable of the solution's state.
    solution
        Where settling ended.
    """

    weight: float | Float[Tensor, batch]
    energy: Energy
    solution: Solution

    def opposite(self, other: Phase) -> bool:
        """Whether the weights of two phases cancel in every sample."""
        if isinstance(self.weight, Tensor) and isinstance(other.weight, Tensor):
            return torch.equal(self.weight, -other.weight)
        return not isinstance(self.weight, Tensor) and self.weight == -other.weight


class LearningRule(nn.Module):
    """An update of the parameters of an energy, as a loss.

    ``rule(**data)`` returns a number whose value is the mean cost and whose ``backward()`` leaves the rule's
    update in ``.grad`` of each parameter, where any ``torch.optim`` optimiser finds it. With gradients
    disabled only the value is computed.

    Parameters
    ----------
    energy
        What learns.

    Attributes
    ----------
    owns_gradient
        Whether the tensors that `learn` returns are nobody else's, so that ``backward()`` may leave them in
        ``.grad`` themselves and not a copy.
    """

    owns_gradient = False

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        if not isinstance(energy, Energy):
            raise TypeError(f"{type(self).__name__}: expected an energy first, got {type(energy).__name__}")
        self.energy = energy

    @abstractmethod
    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """Settle on some data: the phases whose weighted energies are the rule.

        A phase of weight zero does not teach; it may carry what `value` needs.
        """

    @abstractmethod
    def value(self, phases: Sequence[Phase]) -> Float[Tensor, ""]:
        """The mean cost, from the phases."""

    def evaluate(self, **data: Tensor) -> Float[Tensor, ""]:
        """The mean cost without learning; overridden where it takes less than all phases."""
        return self.value(self.phases(**data))

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        """The value, and the gradient of each parameter."""
        phases = self.phases(**data)
        value = self.value(phases)
        teaching = [p for p in phases if isinstance(p.weight, Tensor) or p.weight]
        return value, by_parameter(teaching[0].energy, contrast(teaching))

    @final
    def forward(self, *unnamed: Tensor, **data: Tensor) -> Float[Tensor, ""]:
        """The loss of a batch.

        Parameters
        ----------
        **data
            Variables of the energy, and the target of a cost, by name, each ``(batch, ...)``.

        Raises
        ------
        StateError
            If the data do not fit.
        """
        if unnamed:
            names = ", ".join(self.energy.variables)
            raise TypeError(
                f"{type(self).__name__}: data go by the names of variables, which are {names}; "
                f"call it as in rule({next(iter(self.energy.variables))}=...)"
            )
        if not torch.is_grad_enabled():
            return self.evaluate(**data)
        for name, tensor in data.items():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                raise StateError(
                    f"{type(self).__name__}: variable {name!r} requires grad, but a rule gives gradients "
                    "to the parameters of its energy only; pass it detached, or make what computes it a part "
                    "of the energy"
                )
        value, gradient = self.learn(data)
        given = _Given(list(gradient.values()), self.owns_gradient)
        return _Loss.apply(value.detach(), given, *gradient)  # type: ignore[no-any-return]


class _Given:
    """A gradient that may be handed out more than once.

    Autograd copies a tensor that someone else holds. An owned one is handed out as an alias instead, once;
    should the graph be walked again, its version tells whether it is still what it was.
    """

    def __init__(self, gradient: list[Tensor], owned: bool) -> None:
        self._gradient = gradient
        self._owned = owned
        self._versions: list[int] | None = None

    def times(self, slope: Tensor) -> list[Tensor]:
        if self._versions is not None:
            if self._versions != [g._version for g in self._gradient]:
                raise RuntimeError(
                    "backward() a second time, but .grad was changed in place after the first; "
                    "call the rule again"
                )
            self._gradient = [g.clone() for g in self._gradient]
            self._versions = None
        if slope.device.type != "cpu" or float(slope) != 1:
            return [g * slope for g in self._gradient]
        if not self._owned:
            return self._gradient
        self._versions = [g._version for g in self._gradient]
        return [g.detach() for g in self._gradient]


class _Loss(torch.autograd.Function):
    """A number with a given gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, given: _Given, *_: Tensor) -> Tensor:
        ctx.given = given
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return (None, None, *ctx.given.times(slopes[0]))


def settled(
    flow: EnergyFlow,
    *,
    solver: Solver | None,
    max_steps: int,
    until: Until | None,
    compile: bool = False,  # noqa: A002
) -> Solution:
    """Where a flow settles, for a phase of a rule.

    Raises
    ------
    SettlingError
        If a sample diverged: one would spoil the gradient of the whole batch. Samples that have run out of
        steps are taken as they are.
    """
    solution = relax(flow, solver=solver, max_steps=max_steps, until=until, compile=compile)
    check_finite(solution)
    return solution


def standing(flow: EnergyFlow, point: State, steps: int) -> Solution:
    """A point on the way of a flow as a solution."""
    values = {**flow.conditioned.clamp, **flow.values(point)}
    finite = torch.stack([rows(v).isfinite().all(1) for v in point.values()]).all(0)
    status = torch.where(finite, int(Status.MAX_STEPS), int(Status.DIVERGED))
    return Solution(
        state={name: values[name] for name in flow.conditioned.base.variables},
        steps=torch.full_like(status, steps),
        status=status,
        trajectory=None,
        flow=flow,
        point=point,
    )


def require(rule: object, data: Mapping[str, Tensor], names: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise `StateError` unless the data hold what a rule needs and nothing it does not know."""
    for name in names:
        if name not in data:
            raise StateError(
                f"{type(rule).__name__}: no value for {name!r} in the data; got {sorted(data) or 'nothing'}"
            )
    for name in data:
        if name not in allowed:
            raise StateError(
                f"{type(rule).__name__}: the energy has no variable {name!r}; "
                f"it has {', '.join(map(repr, allowed))}"
            )
