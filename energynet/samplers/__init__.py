"""Samplers: solvers whose states have the distribution exp(-E / T) in the end."""

from energynet.samplers.annealed import Annealed, geometric, linear
from energynet.samplers.base import Sampler
from energynet.samplers.gibbs import Gibbs
from energynet.samplers.glauber import Glauber
from energynet.samplers.hamiltonian import MALA, HamiltonianMonteCarlo
from energynet.samplers.langevin import Langevin
from energynet.samplers.synchronous import Synchronous
from energynet.samplers.tempering import ParallelTempering
from energynet.samplers.underdamped import Underdamped

__all__ = [
    "MALA",
    "Annealed",
    "Gibbs",
    "Glauber",
    "HamiltonianMonteCarlo",
    "Langevin",
    "ParallelTempering",
    "Sampler",
    "Synchronous",
    "Underdamped",
    "geometric",
    "linear",
]
