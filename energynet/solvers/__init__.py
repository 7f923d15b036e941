"""Solvers: what advances a flow by one step."""

from energynet.solvers.base import Solver
from energynet.solvers.block import BlockDescent
from energynet.solvers.euler import Euler
from energynet.solvers.runge_kutta import Heun, RungeKutta4

__all__ = ["BlockDescent", "Euler", "Heun", "RungeKutta4", "Solver"]
