"""Learning rules: weighted sums of energies at settled states, and the exact gradients to compare with."""

from energynet.rules.backprop_equivalent import ZIL, FixedPrediction
from energynet.rules.base import LearningRule, Phase
from energynet.rules.divergence import ContrastiveDivergence
from energynet.rules.equilibrium import EquilibriumPropagation
from energynet.rules.feedforward import Backprop
from energynet.rules.hebbian import ContrastiveHebbian
from energynet.rules.likelihood import MaximumLikelihood
from energynet.rules.monte_carlo import MonteCarloEM
from energynet.rules.predictive import IncrementalPC, MaximumAPosteriori
from energynet.rules.reference import ImplicitDifferentiation, Unrolled

__all__ = [
    "ZIL",
    "Backprop",
    "ContrastiveDivergence",
    "ContrastiveHebbian",
    "EquilibriumPropagation",
    "FixedPrediction",
    "ImplicitDifferentiation",
    "IncrementalPC",
    "LearningRule",
    "MaximumAPosteriori",
    "MaximumLikelihood",
    "MonteCarloEM",
    "Phase",
    "Unrolled",
]
