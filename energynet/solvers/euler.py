"""The explicit Euler method."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.solvers.base import Solver, positive
from energynet.state import State


@final
class Euler(Solver):
    """s <- project(s + dt * velocity): first order; projected gradient descent on an energy.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2 over the largest curvature of the energy.
    """

    def __init__(self, dt: float) -> None:
        positive(self, dt=dt)
        self.dt = dt

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        velocity = flow.velocity(state)
        return shift(flow, state, velocity, self.dt), carry, flow.residual(state, velocity)

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        for _ in range(steps - 1):  # without the residual, which is a third of a cheap step
            state = shift(flow, state, flow.velocity(state), self.dt)
        return self.step(flow, state, carry, generator)


def shift(flow: Flow, state: State, velocity: State, dt: float) -> State:
    """The point that is reached with a velocity in a time, within the domains."""
    return flow.project({name: torch.add(state[name], velocity[name], alpha=dt) for name in state})
