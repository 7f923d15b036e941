"""Annealed importance sampling: partition functions, along a path from a law whose own is known."""

from energynet.annealing.importance import AnnealedImportanceSampling, PartitionEstimate
from energynet.annealing.tractable import Standard, Tractable, Uncoupled

__all__ = ["AnnealedImportanceSampling", "PartitionEstimate", "Standard", "Tractable", "Uncoupled"]
