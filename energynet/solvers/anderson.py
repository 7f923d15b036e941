"""Anderson's acceleration of a fixed-point iteration."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Here
from energynet.solvers.secant import Secant
from energynet.state import State


@final
class Anderson(Secant):
    """Anderson acceleration of ``point + scaled force``, safeguarded as in `Guarded`.

    One evaluation a step. The last steps are combined so that the force that is expected is least, in the
    sense of least squares over all units (type II of Fang and Saad 2009, Numer. Linear Algebra Appl. 16:197,
    section 2.2), and the rest of it is followed. Where the energy does not confirm the combination, it is
    forgotten: unguarded it may cycle, or lead to a saddle point or out of a domain.

    Parameters
    ----------
    history
        Number of steps that are combined, 5 by default: more gain little, and are more nearly dependent.
    """

    def __init__(self, history: int = 5) -> None:
        super().__init__(history)

    def propose(self, here: Here, memory: State) -> Tensor:
        steps, changes = memory["steps"], memory["changes"]
        seen = torch.where(here.free.unsqueeze(1), changes, 0.0)
        norm = seen.square().sum(2).sqrt()
        known = norm > 0
        unit = seen / torch.where(known, norm, 1.0).unsqueeze(2)
        matrix = unit @ unit.mT
        eye = torch.eye(self.history, dtype=matrix.dtype, device=matrix.device)
        # unknown steps have rows of zeros; ten units of rounding are what the squares of the rest can tell
        matrix = matrix + eye * torch.where(known, 10 * torch.finfo(matrix.dtype).eps, 1.0).unsqueeze(2)
        right = -(unit @ here.force.unsqueeze(2))
        part, _ = torch.linalg.solve_ex(matrix, right)
        part = part / torch.where(known, norm, 1.0).unsqueeze(2)
        left = here.force + (part * seen).sum(1)
        return here.scaled(left) - (part * steps).sum(1)
