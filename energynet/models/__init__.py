"""Models: energies of the literature, assembled from terms."""

from energynet.models.boltzmann import BoltzmannMachine
from energynet.models.deep_boltzmann import DeepBoltzmannMachine
from energynet.models.dense import DenseAssociativeMemory
from energynet.models.hetero import BidirectionalMemory, SequenceMemory
from energynet.models.hierarchical import HierarchicalMemory
from energynet.models.hopfield import GradedHopfield, Hopfield
from energynet.models.layered import LayeredHopfield
from energynet.models.modern import ModernHopfield
from energynet.models.predictive import PredictiveCoding
from energynet.models.rbm import ConditionalRBM, RestrictedBoltzmannMachine

__all__ = [
    "BidirectionalMemory",
    "BoltzmannMachine",
    "ConditionalRBM",
    "DeepBoltzmannMachine",
    "DenseAssociativeMemory",
    "GradedHopfield",
    "HierarchicalMemory",
    "Hopfield",
    "LayeredHopfield",
    "ModernHopfield",
    "PredictiveCoding",
    "RestrictedBoltzmannMachine",
    "SequenceMemory",
]
