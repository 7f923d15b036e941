"""Energies to build with."""

from energynet.terms.bilinear import Bilinear
from energynet.terms.coupling import Coupling
from energynet.terms.dense import Dense
from energynet.terms.errors import ErrorCoordinates
from energynet.terms.field import Field
from energynet.terms.lattice import Lattice
from energynet.terms.leak import Leak
from energynet.terms.prediction import Prediction
from energynet.terms.reconstruction import Reconstruction
from energynet.terms.shrinkage import Shrinkage
from energynet.terms.sparsity import Sparsity
from energynet.terms.synapse import Synapse

__all__ = [
    "Bilinear",
    "Coupling",
    "Dense",
    "ErrorCoordinates",
    "Field",
    "Lattice",
    "Leak",
    "Prediction",
    "Reconstruction",
    "Shrinkage",
    "Sparsity",
    "Synapse",
]
