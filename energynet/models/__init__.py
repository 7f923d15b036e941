"""Models: energies of the literature, assembled from terms."""

from energynet.models.layered import LayeredHopfield
from energynet.models.predictive import PredictiveCoding

__all__ = ["LayeredHopfield", "PredictiveCoding"]
