"""Minimisers that remember their last steps and what these took off the force."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded
from energynet.solvers.here import Here
from energynet.solvers.rate import choose
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
    def combine(self, here: Here, steps: Tensor, changes: Tensor, known: Tensor) -> Tensor:
        """A direction from the last steps, the newest last, and what these took off the force.

        Parameters
        ----------
        here
            Its curvature is the mean along the steps.
        steps, changes
            ``(batch, history, units)``.
        known
            Where there is such a step, and the curvature along it was positive, ``(batch, history)``.
        """

    @final
    def blank(self, here: Here) -> State:
        zero = here.point.new_zeros(len(here.point), self.history, here.point.shape[1])
        return {"steps": zero, "changes": zero, "curvature": zero[:, :, 0]}

    def remember(
        self, memory: State, step: Tensor, change: Tensor, here: Here, confirmed: Tensor, positive: Tensor
    ) -> State:
        met = torch.where(positive, here.curvature, 0.0)
        new = {"steps": step, "changes": change, "curvature": met}
        grown = {name: torch.cat([memory[name][:, 1:], each.unsqueeze(1)], 1) for name, each in new.items()}
        return choose(confirmed, grown, memory)

    @final
    def forget(self, memory: State, stuck: Tensor) -> State:
        none = torch.where(stuck.unsqueeze(1), 0.0, memory["curvature"])  # the rest is large, and left to be
        return {**memory, "curvature": none}

    @final
    def propose(self, here: Here, memory: State) -> Tensor:
        met = memory["curvature"]
        number = (met > 0).sum(1)
        # the last step alone may be along the flattest direction, and a step over its curvature far too long
        mean = met.sum(1) / number.clamp(min=1)
        here = replace(here, curvature=torch.where(number > 0, mean, here.curvature))
        return self.combine(here, memory["steps"], memory["changes"], met > 0)
