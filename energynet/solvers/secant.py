"""Minimisers that remember their last steps and what these took off the force."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded
from energynet.solvers.here import Here
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

    @abstractmethod
    def combine(self, here: Here, steps: Tensor, changes: Tensor, bend: Tensor, positive: Tensor) -> Tensor:
        """A direction from the last steps, the newest last, and what these took off the force.

        Parameters
        ----------
        here
            Its curvature is the mean along the steps.
        steps, changes
            ``(batch, history, units)``.
        bend, positive
            What `Here.along` says of them, ``(batch, history)``. What is unknown is not positive.
        """

    @final
    def blank(self, here: Here) -> State:
        zero = here.point.new_zeros(len(here.point), self.history, here.point.shape[1])
        return {"steps": zero, "changes": zero}

    def remember(self, memory: State, step: Tensor, change: Tensor, positive: Tensor) -> State:
        new = {"steps": step, "changes": change}
        return {name: torch.cat([memory[name][:, 1:], new[name].unsqueeze(1)], 1) for name in memory}

    @final
    def propose(self, here: Here, memory: State) -> Tensor:
        steps, changes = memory["steps"], memory["changes"]
        bend, positive, found = here.along(steps, changes)
        number = positive.sum(1)
        # the last step alone may be along the flattest direction, and a step over its curvature far too long
        mean = torch.where(positive, found, 0.0).sum(1) / number.clamp(min=1)
        here = replace(here, curvature=torch.where(number > 0, mean, here.curvature))
        return self.combine(here, steps, changes, bend, positive)
