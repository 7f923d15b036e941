"""Minimisers that remember their last steps and what these took off the force."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded, Memory
from energynet.solvers.here import Here


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
    def combine(
        self, here: Here, steps: Sequence[Tensor], changes: Sequence[Tensor], known: Sequence[Tensor]
    ) -> Tensor:
        """A direction from the last steps, the newest last, and what these took off the force.

        Parameters
        ----------
        here
            Its curvature is the mean along the steps.
        steps, changes
            ``(batch, units)`` each, zero where there is no such step.
        known
            Where there is such a step, and the curvature along it was positive, ``(batch,)`` each.
        """

    @final
    def blank(self, here: Here) -> Memory:
        zero = torch.zeros_like(here.point)  # one tensor in all places: nothing is changed in place
        steps = (zero,) * self.history
        return {"steps": steps, "changes": steps, "curvature": zero.new_zeros(len(zero), self.history)}

    @final
    def remember(self, memory: Memory, step: Tensor, change: Tensor, here: Here, positive: Tensor) -> Memory:
        met = torch.where(positive, here.curvature, 0.0).unsqueeze(1)
        return {
            "steps": (*memory["steps"][1:], step),  # tensors of their own: a step moves none of them
            "changes": (*memory["changes"][1:], change),
            "curvature": torch.cat([memory["curvature"][:, 1:], met], 1),
        }

    @final
    def forget(self, memory: Memory, stuck: Tensor) -> Memory:
        none = torch.where(stuck.unsqueeze(1), 0.0, memory["curvature"])  # the rest is large, and left to be
        return {**memory, "curvature": none}

    @final
    def propose(self, here: Here, memory: Memory) -> Tensor:
        met = memory["curvature"]
        number = (met > 0).sum(1)
        # the last step alone may be along the flattest direction, and a step over its curvature far too long
        mean = met.sum(1) / number.clamp(min=1)
        here = replace(here, curvature=torch.where(number > 0, mean, here.curvature))
        return self.combine(here, memory["steps"], memory["changes"], (met > 0).unbind(1))
