"""Energies to build with."""

from energynet.terms.bilinear import Bilinear
from energynet.terms.field import Field
from energynet.terms.leak import Leak
from energynet.terms.reconstruction import Reconstruction
from energynet.terms.sparsity import Sparsity

__all__ = ["Bilinear", "Field", "Leak", "Reconstruction", "Sparsity"]
