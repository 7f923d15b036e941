"""What models do: measurements on memories and dictionaries, and the theory to hold them against."""

from energynet.analysis.gabor import Gabor, gabor_fit
from energynet.analysis.memory import Attractors, Recall, attractors, basin, capacity, overlap
from energynet.analysis.theory import CRITICAL_LOAD, mean_field_overlap

__all__ = [
    "CRITICAL_LOAD",
    "Attractors",
    "Gabor",
    "Recall",
    "attractors",
    "basin",
    "capacity",
    "gabor_fit",
    "mean_field_overlap",
    "overlap",
]
