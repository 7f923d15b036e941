"""energynet: energy-based models as scalar functions of named variables, settled by generic solvers."""

from energynet import models, terms
from energynet.cost import Cost, CrossEntropy, SquaredError
from energynet.energy import Energy, State, Sum
from energynet.errors import EagerFallback, SettlingError, StateError, TraceError
from energynet.flow import Flow, GradientFlow, MirrorFlow, Partial
from energynet.link import Link, Sigmoid, Tanh
from energynet.rules import (
    Backprop,
    ContrastiveHebbian,
    EquilibriumPropagation,
    ImplicitDifferentiation,
    LearningRule,
    Phase,
    Unrolled,
)
from energynet.settle import Never, Solution, Stationary, Status, Until, settle
from energynet.solvers import BlockDescent, Euler, Heun, RungeKutta4, Solver
from energynet.variable import Bit, Interval, NonNegative, Real, Spin, Unit, Variable

__version__ = "0.1.0"
