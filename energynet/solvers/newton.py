"""Newton's method with truncated conjugate gradients."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded, Memory
from energynet.solvers.here import Here


@final
class NewtonKrylov(Guarded):
    """Newton's method by truncated conjugate gradients, safeguarded as in `Guarded`.

    A step takes one evaluation and ``products`` products with the Hessian, each about as dear as two
    evaluations. The Newton equation is solved on the units that can move, as far as that many products lead.
    A sample stops before that at a direction of negative curvature or at the limit that a refused step has
    set, which it follows up to the limit (Steihaug 1983, SIAM J. Numer. Anal. 20:626). Units on a flat piece
    of their link, which the energy does not see, follow their force.

    Parameters
    ----------
    products
        Products in a step, 10 by default: with fewer, steps are inexact far beyond the noise of their model;
        with more, those far from the solution are solved in vain. As many as there are units solve the
        equation.
    """

    def __init__(self, products: int = 10) -> None:
        if not isinstance(products, int) or isinstance(products, bool) or products < 1:
            raise ValueError(f"NewtonKrylov: products must be a whole number above 0, got {products!r}")
        self.products = products

    def propose(self, here: Here, memory: Memory) -> Tensor:
        info = torch.finfo(here.point.dtype)
        seen = here.weight > info.tiny / info.eps
        left = direction = torch.where(seen, here.force, 0.0)
        solution = torch.zeros_like(left)
        norm = here.dot(left, left)
        goal = (4 * info.eps) ** 2 * norm
        active = norm > 0
        for _ in range(self.products):
            image = curvature_product(here, direction, seen)
            bend, size = here.dot(direction, image), here.dot(direction, direction) * here.dot(image, image)
            convex = bend > info.eps * size.sqrt()
            whole = torch.where(convex, norm / torch.where(convex, bend, 1.0), math.inf)
            rate = torch.minimum(whole, _room(solution, direction, here.limit))
            step = torch.where(active & (rate < math.inf), rate, 0.0).unsqueeze(1)
            solution = solution + step * direction
            left = left - step * image
            new = here.dot(left, left)
            active = active & (whole <= rate) & (whole < math.inf) & (new > goal)
            more = torch.where(active, new / torch.where(active, norm, 1.0), 0.0).unsqueeze(1)
            direction = left + more * direction
            norm = torch.where(active, new, norm)
        moved = (solution != 0).any(1, keepdim=True)
        return torch.where(seen & moved, solution, here.scaled(here.force))


def _room(solution: Tensor, direction: Tensor, limit: Tensor) -> Tensor:
    """How far one can go along a direction until the solution is as long as the limit."""
    a, b = direction.square().sum(1), (solution * direction).sum(1)
    c = (limit.square() - solution.square().sum(1)).clamp(min=0.0)
    return torch.where(a > 0, ((b.square() + a * c).sqrt() - b) / torch.where(a > 0, a, 1.0), 0.0)


def curvature_product(here: Here, direction: Tensor, seen: Tensor) -> Tensor:
    """Minus the Jacobian of the force times a direction, on units that are seen.

    `Forces.product` multiplies with its transpose. Since the Jacobian J is symmetric under the weights w,
    that is ``w J = J' w``, the product is ``J' (w direction) / w``.
    """
    product = here.chart.product(here.point, torch.where(seen, here.weight * direction, 0.0))
    return torch.where(seen, product / torch.where(seen, here.weight, 1.0), 0.0)
