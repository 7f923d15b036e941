"""Recall of a Hopfield network against vectorised numpy: 256 cues, 1000 units, 100 patterns, 10 % flips."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

import energynet as en

if TYPE_CHECKING:
    from torch import Tensor

    from conftest import Versus

CUES, UNITS, PATTERNS, FLIPS = 256, 1000, 100, 0.1


@functools.cache
def problem() -> tuple[en.models.Hopfield, Tensor]:
    """A network that has stored random patterns, and cues."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 2, (PATTERNS, UNITS), generator=generator) * 2.0 - 1
    which = torch.randint(0, PATTERNS, (CUES,), generator=generator)
    flipped = torch.rand(CUES, UNITS, generator=generator) < FLIPS
    return en.models.Hopfield(UNITS).store(patterns), torch.where(flipped, -1.0, 1.0) * patterns[which]


def numpy_synchronous(W: np.ndarray, cues: np.ndarray) -> np.ndarray:
    """All units at once; fixed points and cycles of two states are retired after every step."""
    state = before = cues
    out, moving = cues.copy(), np.arange(len(cues))
    while len(moving):
        field = state @ W
        new = np.where(field > 0, 1, np.where(field < 0, -1, state)).astype(np.float32)
        done = (new == state).all(1) | (new == before).all(1)
        out[moving] = new
        moving, before, state = moving[~done], state[~done], new[~done]
    return out


def numpy_asynchronous(W: np.ndarray, cues: np.ndarray) -> np.ndarray:
    """One unit after the other in random order, for all cues; the field is updated where a unit flips."""
    rng = np.random.default_rng(0)
    state = np.ascontiguousarray(cues.T)
    field = W @ state
    while True:
        moved = False
        for unit in rng.permutation(len(W)):
            new = np.where(field[unit] > 0, 1, np.where(field[unit] < 0, -1, state[unit])).astype(np.float32)
            change = new - state[unit]
            where = np.flatnonzero(change)
            if len(where):
                field[:, where] += np.outer(W[:, unit], change[where])
                state[unit], moved = new, True
        if not moved:
            return state.T


def bench_synchronous(versus: Versus) -> None:
    model, cues = problem()
    W, numbers = model.weight.detach().numpy(), cues.numpy()
    statuses = model.recall(cues, synchronous=True).status.bincount(minlength=4).tolist()
    versus(
        "synchronous recall of 256 cues, 1000 units, 100 patterns, against numpy with retirement",
        lambda: numpy_synchronous(W, numbers),
        lambda: model.recall(cues, synchronous=True),
        goal="at most 1",
        note=f"{statuses[en.Status.CONVERGED]} fixed points, {statuses[en.Status.CYCLE]} cycles of two",
    )


def bench_asynchronous(versus: Versus) -> None:
    model, cues = problem()
    W, numbers = model.weight.detach().numpy(), cues.numpy()
    generator = torch.Generator().manual_seed(1)
    versus(
        "asynchronous recall of 256 cues, 1000 units, 100 patterns, against numpy with an incremental field",
        lambda: numpy_asynchronous(W, numbers),
        lambda: model.recall(cues, generator=generator),
        goal="at most 1",
        rounds=9,
    )
