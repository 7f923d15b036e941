"""Anderson's acceleration of a fixed-point iteration."""

from __future__ import annotations

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

    def combine(self, here: Here, steps: Tensor, changes: Tensor, bend: Tensor, positive: Tensor) -> Tensor:
        seen = torch.where(here.free.unsqueeze(1) & positive.unsqueeze(2), changes, 0.0)
        norm = seen.square().sum(2, keepdim=True).sqrt()
        known = norm > 0
        norm = torch.where(known, norm, 1.0)
        unit = seen / norm
        # rows of the unknown are zero; of the others ten units of rounding are what their squares can tell
        least = torch.where(known, 10 * torch.finfo(unit.dtype).eps, 1.0)
        eye = torch.eye(self.history, dtype=unit.dtype, device=unit.device)
        part, _ = torch.linalg.solve_ex(unit @ unit.mT + least * eye, -(unit @ here.force.unsqueeze(2)))
        part = part / norm
        return here.scaled(here.force + (part * seen).sum(1)) - (part * steps).sum(1)
