"""When a sample has settled, and how its settling ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.state import State
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Float


class Status(IntEnum):
    """How settling ended for a sample.

    It converged, ran out of steps, diverged, or goes to and fro for ever between states that it has been in.
    """

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    CYCLE = 3


class Until(ABC):
    """When a sample has settled."""

    @abstractmethod
    def settled(self, residual: Float[Tensor, batch], point: State) -> Tensor | None:
        """Which samples have settled, shape ``(batch,)``; None where none ever does."""


@final
class Stationary(Until):
    """A sample has settled when its residual is at most ``atol + rtol * max |u|``.

    The residual is the largest entry of the projected velocity, and u what is integrated: the potential
    where a variable has a link, else the value.

    Parameters
    ----------
    atol, rtol
        Absolute and relative tolerance. By default 1e-6 and 1e-6 in float32, where rounding makes smaller
        ones unreachable, and 1e-10 and 1e-10 in float64. If one is given the other is zero.
    """

    def __init__(self, atol: float | None = None, rtol: float | None = None) -> None:
        for name, value in (("atol", atol), ("rtol", rtol)):
            if value is not None and not value >= 0:
                raise ValueError(f"Stationary: {name} must be a number from 0 up, got {value!r}")
        self.atol, self.rtol = atol, rtol

    def settled(self, residual: Tensor, point: State) -> Tensor:
        atol, rtol = self.atol, self.rtol
        if atol is None and rtol is None:
            atol = rtol = 1e-10 if residual.dtype == torch.float64 else 1e-6
        if not rtol:
            return residual <= (atol or 0.0)
        size = torch.stack([rows(value.abs()).amax(1) for value in point.values()]).amax(0)
        return residual <= (atol or 0.0) + rtol * size


@final
class Never(Until):
    """Run for ``max_steps``."""

    def settled(self, residual: Tensor, point: State) -> None:
        return None
