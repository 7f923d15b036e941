"""Anderson's acceleration of a fixed-point iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from energynet.solvers.here import Here
from energynet.solvers.secant import Secant


@final
class Anderson(Secant):
    """Anderson acceleration of ``point + force / curvature``, safeguarded as in `Guarded`.

    One evaluation a step. The last steps are combined so that the force that is expected after them is least,
    in the sense of least squares over all units that can move (type II of Fang and Saad 2009, Numer. Linear
    Algebra Appl. 16:197, eq. 24), and what is left of it is followed. Steps along which the energy is not
    convex are left out: they lead to saddle points. Unguarded it may cycle or lead out of a domain.

    Parameters
    ----------
    history
        Number of steps that are combined, 8 by default.
    """

    def __init__(self, history: int = 8) -> None:
        super().__init__(history)

    def combine(
        self, here: Here, steps: Sequence[Tensor], changes: Sequence[Tensor], known: Sequence[Tensor]
    ) -> Tensor:
        seen = torch.stack([here.movable(change) for change in changes], 1)
        products = seen @ seen.mT
        norm = products.diagonal(dim1=1, dim2=2).sqrt()
        convex = torch.stack([*known], 1) & (norm > 0)
        norm = torch.where(convex, norm, math.inf).unsqueeze(2)
        # rows of the unknown are zero; of the others ten units of rounding are what their squares can tell
        least = (~convex).to(norm.dtype).clamp(min=10 * torch.finfo(norm.dtype).eps)
        matrix = products / norm / norm.mT + torch.diag_embed(least)
        part, _ = torch.linalg.solve_ex(matrix, -(here.force.unsqueeze(1) @ seen.mT).mT / norm)
        part = (part / norm).mT
        return here.scaled(here.force + (part @ seen).squeeze(1)) - (part @ torch.stack([*steps], 1)).squeeze(
            1
        )
