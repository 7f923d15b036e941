"""Samplers: solvers whose states have the distribution exp(-E / T) in the end."""

from energynet.samplers.annealed import Annealed, geometric, linear
from energynet.samplers.base import Sampler
from energynet.samplers.tempering import ParallelTempering

__all__ = ["Annealed", "ParallelTempering", "Sampler", "geometric", "linear"]
