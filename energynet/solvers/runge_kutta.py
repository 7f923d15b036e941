"""Explicit Runge-Kutta methods with a fixed step."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.solvers.base import Solver, positive
from energynet.solvers.euler import shift
from energynet.state import State


@final
class Heun(Solver):
    """The trapezoidal predictor-corrector: second order where no domain's end is met.

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
        first = flow.velocity(state)
        second = flow.velocity(shift(flow, state, first, self.dt))
        mean = {name: 0.5 * (first[name] + second[name]) for name in first}
        return shift(flow, state, mean, self.dt), carry, flow.residual(state, first)


@final
class RungeKutta4(Solver):
    """The classical fourth-order method; fourth order where no domain's end is met.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2.785 over the largest curvature of the energy.
    """

    def __init__(self, dt: float) -> None:
        positive(self, dt=dt)
        self.dt = dt

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        first = flow.velocity(state)
        second = flow.velocity(shift(flow, state, first, self.dt / 2))
        third = flow.velocity(shift(flow, state, second, self.dt / 2))
        fourth = flow.velocity(shift(flow, state, third, self.dt))
        mean = {name: (first[name] + 2 * second[name] + 2 * third[name] + fourth[name]) / 6 for name in first}
        return shift(flow, state, mean, self.dt), carry, flow.residual(state, first)
