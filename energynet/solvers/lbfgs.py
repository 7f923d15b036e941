"""The limited-memory BFGS method."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

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

    def remember(
        self, memory: State, step: Tensor, change: Tensor, here: Here, confirmed: Tensor, positive: Tensor
    ) -> State:
        return super().remember(memory, step, change, here, confirmed & positive, positive)

    def combine(self, here: Here, steps: Tensor, changes: Tensor, known: Tensor) -> Tensor:
        """The two-loop recursion, of which each loop is a triangular system in the products of the steps.

        With U the upper triangle of <step i, change j>: parts = U^-1 <step, force>, the vector between the
        loops is H0 (force - sum parts change), and the rest U^-T (diagonal parts - <change, vector>).
        """
        products = here.weighted(steps) @ changes.mT
        diagonal = products.diagonal(dim1=1, dim2=2)
        seen = (known & (diagonal > 0)).to(steps.dtype)  # weights change, and with them the products
        upper = (products * seen.unsqueeze(1) * seen.unsqueeze(2)).triu() + torch.diag_embed(1 - seen)
        seen = seen.unsqueeze(1)  # rows: torch is slow at products of matrices with columns
        right = seen * (here.weighted(here.force).unsqueeze(1) @ steps.mT)
        parts = torch.linalg.solve_triangular(upper.mT, right, upper=False, left=False)
        vector = here.scaled(here.force - (parts @ changes).squeeze(1))
        right = seen * (diagonal.unsqueeze(1) * parts - here.weighted(vector).unsqueeze(1) @ changes.mT)
        rest = torch.linalg.solve_triangular(upper, right, upper=True, left=False)
        return vector + (rest @ steps).squeeze(1)
