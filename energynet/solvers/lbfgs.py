"""The limited-memory BFGS method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from energynet.solvers.here import Here
from energynet.solvers.secant import Secant


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

    def combine(
        self, here: Here, steps: Sequence[Tensor], changes: Sequence[Tensor], known: Sequence[Tensor]
    ) -> Tensor:
        """The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4) over the steps that are known."""
        left = here.force
        loop = []
        for step, change, seen in zip(reversed(steps), reversed(changes), reversed(known), strict=True):
            bend = here.dot(step, change)
            # weights change, and with them the products
            inverse = torch.where(seen & (bend > 0), bend, math.inf).reciprocal()
            part = inverse * here.dot(step, left)
            left = torch.addcmul(left, change, part.unsqueeze(1), value=-1)
            loop.append((step, change, inverse, part))
        vector = here.scaled(left)
        for step, change, inverse, part in reversed(loop):
            rest = part - inverse * here.dot(change, vector)
            vector = torch.addcmul(vector, step, rest.unsqueeze(1))
        return vector
