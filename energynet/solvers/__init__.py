"""Solvers: what advances a flow by one step."""

from energynet.solvers.admm import ADMM
from energynet.solvers.base import Solver
from energynet.solvers.block import BlockDescent
from energynet.solvers.euler import Euler
from energynet.solvers.proximal import Proximal
from energynet.solvers.runge_kutta import Heun, RungeKutta4

__all__ = ["ADMM", "BlockDescent", "Euler", "Heun", "Proximal", "RungeKutta4", "Solver"]
from energynet.solvers.adaptive import Adaptive
from energynet.solvers.fire import FIRE
from energynet.solvers.momentum import Momentum

__all__ = ["FIRE", "Adaptive", "BlockDescent", "Euler", "Heun", "Momentum", "RungeKutta4", "Solver"]
from energynet.solvers.anderson import Anderson
from energynet.solvers.lbfgs import LBFGS
from energynet.solvers.newton import NewtonKrylov

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
