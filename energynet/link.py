"""Links: the map from the potential u that is integrated to the value a that the energy sees.

A link is an increasing function a = g(u). Its inverse is the gradient of a convex function, the link's
integral, which is the leak of Hopfield (1984, PNAS 81:3088, eq. 5): d/da integral(a) = g^-1(a).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


class Link(ABC):
    """An increasing, elementwise map from potentials to values.

    Attributes
    ----------
    low, high
        The closure of the range of the map.
    """

    low: float = -math.inf
    high: float = math.inf

    @abstractmethod
    def value(self, potential: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The value a = g(u)."""

    @abstractmethod
    def potential(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """A potential whose value is ``value``; finite also at the ends of the range."""

    @abstractmethod
    def integral(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The convex function, per unit, whose derivative is the inverse of the link."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _interior(value: Tensor, low: float, high: float) -> Tensor:
    """Keep ``value`` far enough from the ends for the inverse of a saturating link to stay finite."""
    margin = torch.finfo(value.dtype).eps * (high - low)
    return value.clamp(low + margin, high - margin)


@final
class Sigmoid(Link):
    """a = 1 / (1 + exp(-u)); the integral is the negative entropy a log a + (1 - a) log(1 - a)."""

    low, high = 0.0, 1.0

    def value(self, potential: Tensor) -> Tensor:
        return potential.sigmoid()

    def potential(self, value: Tensor) -> Tensor:
        return _interior(value, 0.0, 1.0).logit()

    def integral(self, value: Tensor) -> Tensor:
        return torch.special.xlogy(value, value) + torch.special.xlogy(1 - value, 1 - value)


@final
class Tanh(Link):
    """a = tanh(u); the integral is ((1 + a) log(1 + a) + (1 - a) log(1 - a)) / 2."""

    low, high = -1.0, 1.0

    def value(self, potential: Tensor) -> Tensor:
        return potential.tanh()

    def potential(self, value: Tensor) -> Tensor:
        return _interior(value, -1.0, 1.0).atanh()

    def integral(self, value: Tensor) -> Tensor:
        up, down = 1 + value, 1 - value
        return 0.5 * (torch.special.xlogy(up, up) + torch.special.xlogy(down, down))
