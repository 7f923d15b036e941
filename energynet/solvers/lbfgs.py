"""The limited-memory BFGS method."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import choose
from energynet.solvers.here import Here
from energynet.solvers.secant import Secant
from energynet.state import State


@final
class LBFGS(Secant):
    """The limited-memory BFGS method, safeguarded as in `Guarded` (Nocedal 1980, Math. Comput. 35:773).

    One evaluation a step. The inverse of the curvature is built up from the last steps, in the inner product
    in which it is symmetric: where there is a link, that of its slopes. It is the minimiser to try first
    where an energy has no exact blocks for `BlockDescent`.

    Parameters
    ----------
    history
        Number of steps that are remembered, 8 by default: the usual 3 to 20 (Nocedal and Wright 2006,
        section 7.2). More help where the curvature has many scales, and cost memory and time in proportion.
    """

    def __init__(self, history: int = 8) -> None:
        super().__init__(history)

    def remember(self, memory: State, step: Tensor, change: Tensor, positive: Tensor) -> State:
        return choose(positive, super().remember(memory, step, change, positive), memory)

    def combine(self, here: Here, steps: Tensor, changes: Tensor, bend: Tensor, positive: Tensor) -> Tensor:
        rate = torch.where(positive, 1 / torch.where(positive, bend, 1.0), 0.0)
        weighted = here.weight.unsqueeze(1) * rate.unsqueeze(2)
        left, right = weighted * steps, weighted * changes
        vector, parts = here.force, []
        for i in reversed(range(self.history)):
            part = (left[:, i] * vector).sum(1, keepdim=True)
            vector = torch.addcmul(vector, part, changes[:, i], value=-1)
            parts.append(part)
        vector = here.scaled(vector)
        for i in range(self.history):
            part = parts.pop() - (right[:, i] * vector).sum(1, keepdim=True)
            vector = torch.addcmul(vector, part, steps[:, i])
        return vector
