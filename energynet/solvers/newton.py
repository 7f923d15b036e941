"""Newton's method with truncated conjugate gradients."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from energynet.solvers.guarded import Guarded, Here
from energynet.state import State


@final
class NewtonKrylov(Guarded):
    """Newton's method by truncated conjugate gradients, safeguarded as in `Guarded`.

    A step takes one evaluation and ``products`` products with the Hessian, each about as dear as two
    evaluations. The Newton equation is solved on the units that can move, from zero, as far as that many
    products lead; at a direction of negative curvature a sample stops where it is (Steihaug 1983, SIAM J.
    Numer. Anal. 20:626), and follows the scaled force if it is still at the start. Units on a flat piece of
    their link, which the energy does not see, follow their force.

    Parameters
    ----------
    products
        Products in a step, 10 by default.
    """

    def __init__(self, products: int = 10) -> None:
        if not isinstance(products, int) or isinstance(products, bool) or products < 1:
            raise ValueError(f"NewtonKrylov: products must be a whole number above 0, got {products!r}")
        self.products = products

    def propose(self, here: Here, memory: State) -> Tensor:
        eps = torch.finfo(here.point.dtype).eps
        seen = here.weight > torch.finfo(here.point.dtype).tiny / eps
        left = direction = torch.where(seen, here.force, 0.0)
        solution = torch.zeros_like(left)
        norm = here.dot(left, left)
        goal = (4 * eps) ** 2 * norm
        active = started = norm > 0
        for number in range(self.products):
            image = curvature_product(here, direction, seen)
            bend = here.dot(direction, image)
            size = here.dot(direction, direction) * here.dot(image, image)
            active = active & (bend > eps * size.sqrt()) & (norm > goal)
            started = active if number == 0 else started
            rate = torch.where(active, norm / torch.where(active, bend, 1.0), 0.0).unsqueeze(1)
            solution = solution + rate * direction
            left = left - rate * image
            fresh = here.dot(left, left)
            more = torch.where(active, fresh / torch.where(active, norm, 1.0), 0.0).unsqueeze(1)
            direction = left + more * direction
            norm = torch.where(active, fresh, norm)
        return torch.where(seen & started.unsqueeze(1), solution, here.scaled(here.force))


def curvature_product(here: Here, direction: Tensor, seen: Tensor) -> Tensor:
    """Minus the Jacobian of the force times a direction, on units that are seen.

    `Forces.product` multiplies with its transpose. Since the Jacobian J is symmetric under the weights w,
    that is ``w J = J' w``, the product is ``J' (w direction) / w``.
    """
    product = here.chart.product(here.point, torch.where(seen, here.weight * direction, 0.0))
    return torch.where(seen, product / torch.where(seen, here.weight, 1.0), 0.0)
