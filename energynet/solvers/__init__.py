"""Solvers: what advances a flow by one step."""

from energynet.solvers.anderson import Anderson
from energynet.solvers.base import Solver
from energynet.solvers.block import BlockDescent
from energynet.solvers.euler import Euler
from energynet.solvers.lbfgs import LBFGS
from energynet.solvers.newton import NewtonKrylov
from energynet.solvers.runge_kutta import Heun, RungeKutta4

__all__ = [
    "LBFGS",
    "Anderson",
    "BlockDescent",
    "Euler",
    "Heun",
    "NewtonKrylov",
    "RungeKutta4",
    "Solver",
]
