"""Explicit Runge-Kutta methods with a fixed step."""

from __future__ import annotations

from typing import final

from energynet.flow import Flow
from energynet.solvers.fixed_step import FixedStep, shift
from energynet.state import State


@final
class Heun(FixedStep):
    """The trapezoidal predictor-corrector: second order where no domain's end is met.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2 over the largest curvature of the energy.
    """

    def slope(self, flow: Flow, state: State, first: State) -> State:
        second = flow.velocity(shift(flow, state, first, self.dt))
        return {name: 0.5 * (first[name] + second[name]) for name in first}


@final
class RungeKutta4(FixedStep):
    """The classical fourth-order method; fourth order where no domain's end is met.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2.785 over the largest curvature of the energy.
    """

    def slope(self, flow: Flow, state: State, first: State) -> State:
        second = flow.velocity(shift(flow, state, first, self.dt / 2))
        third = flow.velocity(shift(flow, state, second, self.dt / 2))
        fourth = flow.velocity(shift(flow, state, third, self.dt))
        return {name: (first[name] + 2 * second[name] + 2 * third[name] + fourth[name]) / 6 for name in first}
