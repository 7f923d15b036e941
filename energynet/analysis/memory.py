"""Measurements on associative memories of spins: overlaps, basins of attraction, attractors, capacity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.solution import Solution

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Recall = Callable[[Tensor], Solution]
"""A memory's method ``recall``, perhaps with arguments bound by `functools.partial`."""

_MIXED = 20  # patterns among which mixtures of three are looked for


def overlap(
    states: Float[Tensor, "batch units"], patterns: Float[Tensor, "count units"]
) -> Float[Tensor, "batch count"]:
    """The mean over units of state times pattern: 1 where they agree, -1 where all units are flipped."""
    return states @ patterns.to(states).t() / states.shape[-1]


def _noisy(patterns: Tensor, flips: float, generator: torch.Generator | None) -> Tensor:
    """Patterns with exactly the same number of units flipped in each, chosen at random."""
    count = round(flips * patterns.shape[1])
    lots = torch.rand(patterns.shape, generator=generator, dtype=torch.float64).to(patterns.device)
    flipped = lots.argsort(1).argsort(1) < count
    return torch.where(flipped, -patterns, patterns)


def basin(
    recall: Recall,
    patterns: Float[Tensor, "count units"],
    flips: Sequence[float],
    *,
    trials: int = 10,
    tolerance: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "flips count"]:
    """How often a pattern is recalled from cues of which a part is flipped: its basin of attraction.

    Parameters
    ----------
    recall
        Of the memory.
    patterns
        Those to look for.
    flips
        Parts of the units to flip, from 0 to 1.
    trials
        Cues for each pattern and part.
    tolerance
        The part of the units that may be wrong in the end; 0 by default. Near the capacity of the Hebb rule a
        recalled pattern has some wrong, so that 0.05 is of more use there.
    generator
        For what is flipped.

    Returns
    -------
    Tensor
        From 0 to 1; a row for each part.
    """
    found = []
    for part in flips:
        if not 0 <= part <= 1:
            raise ValueError(f"basin: flips are parts from 0 to 1, got {part!r}")
        target = patterns.repeat(trials, 1)
        end = recall(_noisy(target, part, generator)).state["s"]
        wrong = (end != target).to(torch.float64).mean(1)
        found.append((wrong <= tolerance).to(torch.float64).view(trials, -1).mean(0))
    return torch.stack(found)


@dataclass(frozen=True, eq=False)
class Attractors:
    """Where cues end.

    Attributes
    ----------
    states
        Each once, the most frequent first, ``(some, units)``.
    count
        How many cues ended there, ``(some,)``.
    energy
        Of each, ``(some,)``.
    kind
        ``"pattern"``; ``"inverse"``, a pattern with all units flipped; ``"mixture"``, the majority of three
        patterns or of their inverses; ``"other"``, of which at high load most are spin-glass states. All but
        the first are spurious.
    """

    states: Float[Tensor, "some units"]
    count: Int[Tensor, " some"]
    energy: Float[Tensor, " some"]
    kind: tuple[str, ...]

    def share(self, kind: str) -> float:
        """The part of the cues that ended in states of a kind; NaN where no cue has settled."""
        chosen = torch.tensor([k == kind for k in self.kind], dtype=torch.bool, device=self.count.device)
        return float(self.count[chosen].sum() / self.count.sum())


def attractors(
    recall: Recall,
    patterns: Float[Tensor, "count units"],
    *,
    cues: int = 1000,
    generator: torch.Generator | None = None,
) -> Attractors:
    """The states that random cues end in, and which of them are spurious.

    Parameters
    ----------
    recall
        Of the memory.
    patterns
        What it has stored. Mixtures are looked for among the first 20.
    cues
        How many random states to start from; those that do not settle are left out.
    generator
        For the cues.
    """
    lots = torch.rand(cues, patterns.shape[1], generator=generator, dtype=torch.float64)
    start = torch.where(lots.to(patterns.device) < 0.5, 1.0, -1.0).to(patterns.dtype)
    solution = recall(start)
    settled = solution.status == 0
    states, place, count = solution.state["s"][settled].unique(dim=0, return_inverse=True, return_counts=True)
    energy = solution.energy[settled].new_zeros(len(states)).index_copy(0, place, solution.energy[settled])
    order = count.argsort(descending=True, stable=True)
    states, count, energy = states[order], count[order], energy[order]
    own = (states.unsqueeze(1) == patterns).all(2).any(1)
    inverse = (states.unsqueeze(1) == -patterns).all(2).any(1)
    mixed = torch.zeros_like(own)
    some = patterns[:_MIXED]
    for trio in combinations(range(len(some)), 3):
        for signs in ((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)):
            majority = (some[list(trio)] * torch.tensor(signs).to(some).unsqueeze(1)).sum(0).sign()
            mixed |= (states == majority).all(1) | (states == -majority).all(1)
    kinds = tuple(
        "pattern" if a else "inverse" if b else "mixture" if c else "other"
        for a, b, c in zip(own.tolist(), inverse.tolist(), mixed.tolist(), strict=True)
    )
    return Attractors(states, count, energy, kinds)


def capacity(
    memory: Callable[[Tensor], Recall],
    units: int,
    counts: Sequence[int],
    *,
    flips: float = 0.0,
    cues: int = 50,
    trials: int = 1,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "counts trials"]:
    """The overlap of recalled with stored patterns, by how many random ones are stored.

    Parameters
    ----------
    memory
        From patterns to the method ``recall`` of a memory that has stored them, as in
        ``lambda patterns: en.models.Hopfield(n).store(patterns).recall``.
    units
        In each pattern.
    counts
        How many patterns to store.
    flips
        The part of the units that is flipped in the cues; 0 by default, which asks whether there is an
        attractor near each pattern.
    cues
        The most patterns that are recalled each time.
    trials
        Memories for each count, of patterns of their own.
    dtype
        Of the patterns.
    generator
        For patterns and flips.

    Returns
    -------
    Tensor
        Mean overlaps over the cues, in float64.
    """
    table = torch.zeros(len(counts), trials, dtype=torch.float64)
    for row, count in enumerate(counts):
        for trial in range(trials):
            bits = torch.randint(0, 2, (count, units), generator=generator)
            patterns = (2 * bits - 1).to(dtype)
            target = patterns[:cues]
            end = memory(patterns)(_noisy(target, flips, generator)).state["s"]
            table[row, trial] = (end * target).to(torch.float64).mean()
    return table
