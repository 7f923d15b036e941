"""The explicit Euler method."""

from __future__ import annotations

from typing import final

from energynet.flow import Flow
from energynet.solvers.fixed_step import FixedStep
from energynet.state import State


@final
class Euler(FixedStep):
    """s <- project(s + dt * velocity): first order; projected gradient descent on an energy.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2 over the largest curvature of the energy.
    """

    def slope(self, flow: Flow, state: State, first: State) -> State:
        return first
