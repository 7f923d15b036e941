"""Samplers: solvers whose states have the distribution exp(-E / T) in the end."""

from energynet.samplers.base import Sampler

__all__ = ["Sampler"]
