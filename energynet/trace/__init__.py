"""Partial evaluation of scalar functions: trace, simplify, compute the constant part once, run the rest."""

from energynet.trace.capture import PARAMETER, Spec, Traced, parameters_of, swapped, versions
from energynet.trace.degree import degree
from energynet.trace.difference import difference
from energynet.trace.graph import Combination, Dim
from energynet.trace.kernel import BoundKernel, Environment, Kernel
from energynet.trace.program import Program
from energynet.trace.structure import affine, curvature, dependence

__all__ = [
    "PARAMETER",
    "BoundKernel",
    "Combination",
    "Dim",
    "Environment",
    "Kernel",
    "Program",
    "Spec",
    "Traced",
    "affine",
    "curvature",
    "degree",
    "dependence",
    "difference",
    "parameters_of",
    "swapped",
    "versions",
]
