"""Models: energies of the literature, assembled from terms."""

from energynet.models.layered import LayeredHopfield

__all__ = ["LayeredHopfield"]
