"""Models: energies of the literature, assembled from terms."""

from energynet.models.hopfield import GradedHopfield, Hopfield
from energynet.models.layered import LayeredHopfield
from energynet.models.predictive import PredictiveCoding

__all__ = ["GradedHopfield", "Hopfield", "LayeredHopfield", "PredictiveCoding"]
