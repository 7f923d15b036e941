"""Minimisers that remember their last steps and what these took off the force."""

from __future__ import annotations

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded, Here
from energynet.state import State


class Secant(Guarded):
    """A minimiser that learns the curvature from its last steps.

    Parameters
    ----------
    history
        Number of steps that are remembered.
    """

    def __init__(self, history: int) -> None:
        if not isinstance(history, int) or isinstance(history, bool) or history < 1:
            raise ValueError(
                f"{type(self).__name__}: history must be a whole number above 0, got {history!r}"
            )
        self.history = history

    def blank(self, here: Here) -> State:
        zero = here.point.new_zeros(len(here.point), self.history, here.point.shape[1])
        return {"steps": zero, "changes": zero}  # the newest last

    def remember(self, memory: State, step: Tensor, change: Tensor, positive: Tensor) -> State:
        new = {"steps": step, "changes": change}
        return {name: torch.cat([memory[name][:, 1:], new[name].unsqueeze(1)], 1) for name in memory}
