"""The solver protocol: ``init`` makes a carry, ``step`` advances a point and reports the residual."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.derivation import Derivation
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow, GradientFlow, MirrorFlow
from energynet.state import State
from energynet.stopping import Stationary, Until
from energynet.variable import Continuous

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class Shared(NamedTuple):
    """A tensor of a carry that all samples share, and that has no batch in front."""

    value: Tensor


class Solver(ABC):
    """Advances a flow by one step; one protocol for ODE solvers, minimisers and samplers.

    A carry is a tensor with the batch in front, or a (nested) tuple or dict of such tensors, so that
    `settle` can drop the samples that have settled; what they have in common is `Shared`. No step may ask a
    tensor for a number: a look at the values would wait for the device, and what runs must not depend on
    them to be compiled.
    """

    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> EnergyFlow:
        """The flow of an energy that this solver advances; the arguments are those of `EnergyFlow`.

        Mirror flow where a free variable has a link, else gradient flow.

        Raises
        ------
        SettlingError
            If the solver cannot move a variable that is free.
        """
        kind = MirrorFlow if has_link(energy, clamp) else GradientFlow
        flow = kind(energy, clamp, state, generator=generator, differentiable=differentiable)
        for _, term in flow.conditioned.base.parts():
            names = [name for name in term.variables if name in flow.names]
            if not names or term.derivation(flow.links) is not Derivation.PROXIMAL:
                continue
            raise SettlingError(
                f"{type(self).__name__} needs a smooth energy, but {term} has a kink, at which its steps "
                f"would go to and fro; use Proximal(), or declare {names[0]!r} with a link that fits it, "
                "such as SoftThreshold(strength) for Sparsity"
            )
        return flow

    def until(self) -> Until:
        """When settling ends if the user does not say."""
        return Stationary()

    def init(self, flow: Flow, state: State) -> Any:
        """The carry before the first step; the empty tuple for solvers without a memory."""
        return ()

    @abstractmethod
    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        """One step.

        Returns
        -------
        state, carry
            After the step.
        residual
            How far each sample was from stationary: the largest entry of the projected velocity.
        """

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        """Several steps; the residual is that of the last. ``steps`` is at least 1."""
        for _ in range(steps - 1):
            state, carry, _ = self.step(flow, state, carry, generator)
        return self.step(flow, state, carry, generator)

    def kept(self, carry: Any) -> State:
        """What chains that persist must keep beside their state, by name; nothing by default."""
        return {}

    def resume(self, flow: Flow, state: State, kept: State) -> Any:
        """The carry of chains that go on: by default that of `init`, for the energy may have changed."""
        return self.init(flow, state)

    def statistics(self, carry: Any) -> dict[str, Float[Tensor, batch]]:
        """What the carry tells of each sample, such as its rate of acceptance; for `Solution.statistics`."""
        return {}

    def cycling(self, carry: Any) -> Bool[Tensor, batch] | None:
        """Which samples go round in a cycle and will never settle; None for solvers that do not look.

        Once true of a sample it must stay true: `settle` does not look after every step.
        """
        return None

    def __repr__(self) -> str:
        settings = (f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(settings)})"


def has_link(energy: Energy, clamp: Clamp | None) -> bool:
    """Whether a variable that is free, at least in part, has a link."""
    return any(
        isinstance(v, Continuous) and v.link is not None and not isinstance((clamp or {}).get(n), Tensor)
        for n, v in energy.variables.items()
    )


def energy_flow(solver: Solver, flow: Flow) -> EnergyFlow:
    """The flow, if it is that of an energy; else `SettlingError`."""
    if not isinstance(flow, EnergyFlow):
        raise SettlingError(
            f"{type(solver).__name__} needs the energy of a flow; use Euler for a flow without one"
        )
    return flow


def column(each: Tensor, like: Tensor) -> Tensor:
    """One number for each sample, shaped to broadcast against a tensor ``(batch, ...)``."""
    return each.reshape(-1, *[1] * (like.ndim - 1))


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A nested tuple or dict of tensors, such as a carry, with a function of each tensor in its place.

    What is `Shared` stays: it has no samples.
    """
    if isinstance(tree, Shared):
        return tree
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    return tuple(mapped(function, value) for value in tree)


def positive(owner: object, **numbers: float) -> None:
    """Raise `ValueError` unless every number is positive and finite."""
    for name, value in numbers.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__}: {name} must be a positive number, got {value!r}")
