"""Models: energies of the literature, assembled from terms."""

from energynet.models.atoms import Homeostasis
from energynet.models.boltzmann import BoltzmannMachine
from energynet.models.deep_boltzmann import DeepBoltzmannMachine
from energynet.models.dense import DenseAssociativeMemory
from energynet.models.dynamic import DynamicBoltzmannMachine
from energynet.models.dynamic_gaussian import GaussianDynamicBoltzmannMachine
from energynet.models.factorisation import (
    Clusters,
    factorise,
    independent_components,
    nonnegative_factors,
    principal_components,
)
from energynet.models.hetero import BidirectionalMemory, SequenceMemory
from energynet.models.hierarchical import HierarchicalMemory
from energynet.models.hopfield import GradedHopfield, Hopfield
from energynet.models.layered import LayeredHopfield
from energynet.models.linear import LinearModel
from energynet.models.modern import ModernHopfield
from energynet.models.predictive import PredictiveCoding
from energynet.models.rbm import ConditionalRBM, RestrictedBoltzmannMachine
from energynet.models.sparse_coding import SparseCoding
from energynet.models.spike_slab import SpikeSlabCoding

__all__ = [
    "BidirectionalMemory",
    "BoltzmannMachine",
    "Clusters",
    "ConditionalRBM",
    "DeepBoltzmannMachine",
    "DenseAssociativeMemory",
    "DynamicBoltzmannMachine",
    "GaussianDynamicBoltzmannMachine",
    "GradedHopfield",
    "HierarchicalMemory",
    "Homeostasis",
    "Hopfield",
    "LayeredHopfield",
    "LinearModel",
    "ModernHopfield",
    "PredictiveCoding",
    "RestrictedBoltzmannMachine",
    "SequenceMemory",
    "SparseCoding",
    "SpikeSlabCoding",
    "factorise",
    "independent_components",
    "nonnegative_factors",
    "principal_components",
]
