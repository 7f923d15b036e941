"""The solver protocol: ``init`` makes a carry, ``step`` advances a point and reports the residual."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Float


class Solver(ABC):
    """Advances a flow by one step; one protocol for ODE solvers, minimisers and samplers.

    A carry is a tensor with the batch in front, or a (nested) tuple or dict of such tensors, so that
    `settle` can drop the samples that have settled.
    """

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


def positive(owner: object, **numbers: float) -> None:
    """Raise `ValueError` unless every number is positive and finite."""
    for name, value in numbers.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__}: {name} must be a positive number, got {value!r}")
