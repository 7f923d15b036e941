"""Energies to build with."""

from energynet.terms.bilinear import Bilinear
from energynet.terms.field import Field
from energynet.terms.leak import Leak

__all__ = ["Bilinear", "Field", "Leak"]
