"""What models do: measurements on memories, and the theory to hold them against."""

from energynet.analysis.memory import Attractors, Recall, attractors, basin, capacity, overlap
from energynet.analysis.theory import CRITICAL_LOAD, mean_field_overlap

__all__ = [
    "CRITICAL_LOAD",
    "Attractors",
    "Recall",
    "attractors",
    "basin",
    "capacity",
    "mean_field_overlap",
    "overlap",
]
