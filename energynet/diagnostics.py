"""Diagnostics of recorded chains, by arviz-stats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from energynet.optional import require

if TYPE_CHECKING:
    from jaxtyping import Float

_FEWEST = 4  # records; two halves of two


def effective_sample_size(trajectory: Float[Tensor, "times chains *any"]) -> Float[Tensor, "*any"]:
    """The bulk effective sample size of each number that chains recorded."""
    return _of_chains("ess", trajectory, "bulk")


def r_hat(trajectory: Float[Tensor, "times chains *any"]) -> Float[Tensor, "*any"]:
    """The rank-normalised split R-hat of each number that chains recorded."""
    if trajectory.shape[1] < 2:
        raise ValueError("r_hat compares chains: settle a batch of at least two, got one")
    return _of_chains("rhat", trajectory, "rank")


def diagnose(diagnostic: Callable[[Tensor], Tensor], trajectory: Any, discard: int) -> Any:
    """A diagnostic of what was recorded, less its first records; name by name for a dict.

    Raises
    ------
    ValueError
        If there is no tensor ``(times, batch, ...)``, or fewer than 4 records are left.
    """
    if isinstance(trajectory, dict):
        return {name: diagnose(diagnostic, value, discard) for name, value in trajectory.items()}
    if not isinstance(trajectory, Tensor) or trajectory.ndim < 2:
        raise ValueError(
            f"{diagnostic.__name__} needs a trajectory of tensors (times, batch, ...), such as settle(..., "
            f'record="state") makes; got {_described(trajectory)}'
        )
    if not isinstance(discard, int) or discard < 0:
        raise ValueError(f"{diagnostic.__name__}: discard is a whole number from 0 up, got {discard!r}")
    left = len(trajectory) - discard
    if left < _FEWEST:
        raise ValueError(
            f"{diagnostic.__name__} needs at least {_FEWEST} records, got {len(trajectory)} less {discard} "
            "that are discarded; run longer, record more often or discard less"
        )
    return diagnostic(trajectory[discard:])


def _described(trajectory: Any) -> str:
    if trajectory is None:
        return "none: nothing was recorded"
    return f"shape {tuple(trajectory.shape)}" if isinstance(trajectory, Tensor) else type(trajectory).__name__


def _of_chains(name: str, trajectory: Tensor, method: str) -> Tensor:
    stats = require("arviz_stats.base", "diagnostics", "the diagnosis of chains").array_stats
    values = trajectory.detach().to("cpu", torch.float64).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):  # constants have no variance
        found = getattr(stats, name)(values, chain_axis=1, draw_axis=0, method=method)
    return torch.as_tensor(np.asarray(found, dtype=np.float64))
