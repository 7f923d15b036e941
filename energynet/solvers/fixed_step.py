"""ODE solvers with a step that the user gives."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.solvers.base import Solver, positive
from energynet.state import State


class FixedStep(Solver):
    """s <- project(s + dt * slope), where the slope is some mean of velocities.

    Parameters
    ----------
    dt
        Step, in units of the time constants.
    """

    def __init__(self, dt: float) -> None:
        positive(self, dt=dt)
        self.dt = dt

    @abstractmethod
    def slope(self, flow: Flow, state: State, first: State) -> State:
        """The mean velocity over a step, from the velocity at its start."""

    @final
    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        first = flow.velocity(state)
        new = shift(flow, state, self.slope(flow, state, first), self.dt)
        return new, carry, flow.residual(state, first)

    @final
    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        for _ in range(steps - 1):  # without the residual, which is a third of a cheap step
            state = shift(flow, state, self.slope(flow, state, flow.velocity(state)), self.dt)
        return self.step(flow, state, carry, generator)


def shift(flow: Flow, state: State, velocity: State, dt: float) -> State:
    """The point that is reached with a velocity in a time, within the domains."""
    return flow.project({name: torch.add(state[name], velocity[name], alpha=dt) for name in state})
