"""The limited-memory BFGS method."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Here, choose
from energynet.solvers.secant import Secant
from energynet.state import State


@final
class LBFGS(Secant):
    """The limited-memory BFGS method, safeguarded as in `Guarded` (Nocedal 1980, Math. Comput. 35:773).

    One evaluation a step. The inverse of the curvature is built up from the last steps, in the inner product
    in which it is symmetric: with a link that is the slope of the link, and potentials on a flat piece of it
    follow the others. For problems with many units and a curvature that varies between them.

    Parameters
    ----------
    history
        Number of steps that are remembered, 8 by default: what most of its users take, between 5 and 10.
        On a quadratic energy of that many units it needs about one step a unit.
    """

    def __init__(self, history: int = 8) -> None:
        super().__init__(history)

    def remember(self, memory: State, step: Tensor, change: Tensor, positive: Tensor) -> State:
        return choose(positive, super().remember(memory, step, change, positive), memory)

    def propose(self, here: Here, memory: State) -> Tensor:
        steps, changes = memory["steps"], memory["changes"]
        bend, _, positive = here.bend(steps, changes)
        rate = torch.where(positive, 1 / torch.where(positive, bend, 1.0), 0.0)
        weighted = here.weight.unsqueeze(1)
        left, right = weighted * steps, weighted * changes
        vector, parts = here.force, []
        for i in reversed(range(self.history)):
            part = rate[:, i] * (left[:, i] * vector).sum(1)
            vector = torch.addcmul(vector, part.unsqueeze(1), changes[:, i], value=-1)
            parts.append(part)
        vector = here.scaled(vector)
        for i in range(self.history):
            part = parts.pop() - rate[:, i] * (right[:, i] * vector).sum(1)
            vector = torch.addcmul(vector, part.unsqueeze(1), steps[:, i])
        return vector
