"""Solvers: what advances a flow by one step."""

from energynet.solvers.adaptive import Adaptive
from energynet.solvers.admm import ADMM
from energynet.solvers.anderson import Anderson
from energynet.solvers.base import Solver
from energynet.solvers.block import BlockDescent
from energynet.solvers.coordinate import CoordinateDescent
from energynet.solvers.euler import Euler
from energynet.solvers.fire import FIRE
from energynet.solvers.lbfgs import LBFGS
from energynet.solvers.momentum import Momentum
from energynet.solvers.newton import NewtonKrylov
from energynet.solvers.proximal import Proximal
from energynet.solvers.runge_kutta import Heun, RungeKutta4

__all__ = [
    "ADMM",
    "FIRE",
    "LBFGS",
    "Adaptive",
    "Anderson",
    "BlockDescent",
    "CoordinateDescent",
    "Euler",
    "Heun",
    "Momentum",
    "NewtonKrylov",
    "Proximal",
    "RungeKutta4",
    "Solver",
]
