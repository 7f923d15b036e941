"""energynet: energy-based models as scalar functions of named variables, settled by generic solvers."""

from importlib import import_module as _import_module
from typing import Any as _Any

from energynet import backends, exact, models, samplers, terms
from energynet.annealing import AnnealedImportanceSampling, PartitionEstimate, Tractable
from energynet.clamp import Partial
from energynet.conditional import ConditionalFlow
from energynet.cost import Cost, CrossEntropy, SquaredError
from energynet.energy import Energy, ProximalTerm, Sum
from energynet.errors import EagerFallback, SettlingError, StateError, TraceError
from energynet.flow import Flow, GradientFlow, MirrorFlow
from energynet.lifted import LiftedFlow
from energynet.link import HardThreshold, Link, Power, Sigmoid, Softmax, SoftThreshold, Tanh
from energynet.meanfield import MeanField
from energynet.one_hot import OneHot
from energynet.prior import L0, Cauchy, Laplace, LogCosh, Prior
from energynet.rules import (
    ZIL,
    Backprop,
    ContrastiveDivergence,
    ContrastiveHebbian,
    EquilibriumPropagation,
    FixedPrediction,
    ImplicitDifferentiation,
    IncrementalPC,
    LearningRule,
    MaximumAPosteriori,
    MaximumLikelihood,
    MonteCarloEM,
    Phase,
    Unrolled,
)
from energynet.samplers import (
    MALA,
    Annealed,
    Gibbs,
    Glauber,
    HamiltonianMonteCarlo,
    Langevin,
    ParallelTempering,
    Sampler,
    Synchronous,
    Underdamped,
)
from energynet.settle import settle
from energynet.solution import Solution
from energynet.solvers import (
    ADMM,
    FIRE,
    LBFGS,
    Adaptive,
    Anderson,
    BlockDescent,
    CoordinateDescent,
    Euler,
    Heun,
    Momentum,
    NewtonKrylov,
    Proximal,
    RungeKutta4,
    Solver,
)
from energynet.state import State
from energynet.stopping import Never, Stationary, Status, Until
from energynet.variable import Bit, Interval, NonNegative, Real, Spin, Unit, Variable

__version__ = "0.1.0"

__all__ = [
    "ADMM",
    "FIRE",
    "L0",
    "LBFGS",
    "MALA",
    "ZIL",
    "Adaptive",
    "Anderson",
    "Annealed",
    "AnnealedImportanceSampling",
    "Backprop",
    "Bit",
    "BlockDescent",
    "Cauchy",
    "ConditionalFlow",
    "ContrastiveDivergence",
    "ContrastiveHebbian",
    "CoordinateDescent",
    "Cost",
    "CrossEntropy",
    "EagerFallback",
    "Energy",
    "EquilibriumPropagation",
    "Euler",
    "FixedPrediction",
    "Flow",
    "Gibbs",
    "Glauber",
    "GradientFlow",
    "HamiltonianMonteCarlo",
    "HardThreshold",
    "Heun",
    "ImplicitDifferentiation",
    "IncrementalPC",
    "Interval",
    "Langevin",
    "Laplace",
    "LearningRule",
    "LiftedFlow",
    "Link",
    "LogCosh",
    "MaximumAPosteriori",
    "MaximumLikelihood",
    "MeanField",
    "MirrorFlow",
    "Momentum",
    "MonteCarloEM",
    "Never",
    "NewtonKrylov",
    "NonNegative",
    "OneHot",
    "ParallelTempering",
    "Partial",
    "PartitionEstimate",
    "Phase",
    "Power",
    "Prior",
    "Proximal",
    "ProximalTerm",
    "Real",
    "RungeKutta4",
    "Sampler",
    "SettlingError",
    "Sigmoid",
    "SoftThreshold",
    "Softmax",
    "Solution",
    "Solver",
    "Spin",
    "SquaredError",
    "State",
    "StateError",
    "Stationary",
    "Status",
    "Sum",
    "Synchronous",
    "Tanh",
    "TraceError",
    "Tractable",
    "Underdamped",
    "Unit",
    "Unrolled",
    "Until",
    "Variable",
    "__version__",
    "backends",
    "exact",
    "models",
    "samplers",
    "settle",
    "terms",
]


def __getattr__(name: str) -> _Any:
    if name in ("analysis", "sklearn", "testing"):  # imported when used: two of them need optional packages
        return _import_module(f"energynet.{name}")
    raise AttributeError(f"module 'energynet' has no attribute {name!r}")
