"""Samplers: solvers whose states have the distribution exp(-E / T) in the end."""

from energynet.samplers.base import Sampler
from energynet.samplers.hamiltonian import MALA, HamiltonianMonteCarlo
from energynet.samplers.langevin import Langevin
from energynet.samplers.underdamped import Underdamped

__all__ = ["MALA", "HamiltonianMonteCarlo", "Langevin", "Sampler", "Underdamped"]
