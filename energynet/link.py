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
from torch.nn import functional

from energynet.errors import SettlingError

if TYPE_CHECKING:
    from jaxtyping import Float


class Link(ABC):
    """An increasing map from potentials to values, elementwise but for `Softmax`.

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

    def slope(self, potential: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The derivative g'(u), not negative; by autograd unless a subclass has a closed form."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = potential.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.value(leaf).sum(), leaf)
        return slope

    def log_slope(self, potential: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The logarithm of `slope`: what a density of values gains when it is written in potentials.

        Raises
        ------
        SettlingError
            If the link is constant somewhere, so that a density of potentials has none of values.
        """
        return self.slope(potential).log()

    def log_slope_gradient(self, potential: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The derivative of `log_slope`; by autograd of ``value`` unless a subclass has a closed form."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = potential.detach().clone().requires_grad_()
            (first,) = torch.autograd.grad(self.value(leaf).sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), leaf)
        return second / first.detach()

    def _fields(self) -> tuple[object, ...]:
        return ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._fields() == other._fields()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._fields()))})"


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

    def slope(self, potential: Tensor) -> Tensor:
        value = potential.sigmoid()
        return value * (1 - value)

    def log_slope(self, potential: Tensor) -> Tensor:
        return functional.logsigmoid(potential) + functional.logsigmoid(-potential)

    def log_slope_gradient(self, potential: Tensor) -> Tensor:
        return 1 - 2 * potential.sigmoid()


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

    def slope(self, potential: Tensor) -> Tensor:
        return 1 - potential.tanh().square()

    def log_slope(self, potential: Tensor) -> Tensor:
        # 1 - tanh(u)^2 = 4 sigmoid(2u) sigmoid(-2u)
        return functional.logsigmoid(2 * potential) + functional.logsigmoid(-2 * potential) + math.log(4)

    def log_slope_gradient(self, potential: Tensor) -> Tensor:
        return -2 * potential.tanh()


@final
class Power(Link):
    """a = sign(u) |u|^p, or max(u, 0)^p; the integral is |a|^(1 + 1 / p) / (1 + 1 / p).

    Its Lagrangian is |u|^(p + 1) / (p + 1), the interaction of a dense associative memory.

    Parameters
    ----------
    exponent
        p, positive.
    rectified
        Whether negative potentials give 0.
    """

    def __init__(self, exponent: float, rectified: bool = False) -> None:
        if not 0 < exponent < math.inf:
            raise ValueError(f"Power: the exponent must be a positive number, got {exponent!r}")
        self.exponent, self.rectified = float(exponent), rectified
        self.low = 0.0 if rectified else -math.inf

    def value(self, potential: Tensor) -> Tensor:
        if self.rectified:
            return potential.clamp(min=0.0) ** self.exponent
        return potential.sign() * potential.abs() ** self.exponent

    def potential(self, value: Tensor) -> Tensor:
        return value.sign() * value.abs() ** (1 / self.exponent)

    def integral(self, value: Tensor) -> Tensor:
        order = 1 + 1 / self.exponent
        return value.abs() ** order / order

    def _fields(self) -> tuple[object, ...]:
        return (self.exponent, self.rectified)


@final
class Softmax(Link):
    """a = softmax(beta u) over the last dimension: the one link whose units share a sum.

    Its Lagrangian is log-sum-exp(beta u) / beta (Krotov and Hopfield 2021, ICLR), the integral of its
    inverse the negative entropy, the sum of a log a / beta. A potential is known up to a
    constant, the same for all units. Because units are not apart it has no slope, so that solvers of mirror
    flow with explicit steps, such as `Euler` and `RungeKutta4`, can use it, and those that divide by slopes
    cannot.

    Parameters
    ----------
    beta
        Inverse temperature, positive; 1 by default.
    """

    low, high = 0.0, 1.0

    def __init__(self, beta: float = 1.0) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"Softmax: beta must be a positive number, got {beta!r}")
        self.beta = float(beta)

    def value(self, potential: Tensor) -> Tensor:
        return (self.beta * potential).softmax(-1)

    def potential(self, value: Tensor) -> Tensor:
        return value.clamp(min=torch.finfo(value.dtype).tiny).log() / self.beta

    def integral(self, value: Tensor) -> Tensor:
        return torch.special.xlogy(value, value) / self.beta

    def slope(self, potential: Tensor) -> Tensor:
        raise SettlingError(
            f"{self!r} moves all units of a layer together, so there is no slope for each; settle by Euler "
            "or RungeKutta4"
        )

    def _fields(self) -> tuple[object, ...]:
        return (self.beta,)


class Threshold(Link):
    """A link that sends an interval of potentials around zero to zero.

    Parameters
    ----------
    threshold
        Not negative: the end of the interval.
    nonnegative
        Pass positive potentials only.
    """

    def __init__(self, threshold: float, nonnegative: bool = False) -> None:
        if not 0 <= threshold < math.inf:
            raise ValueError(f"{type(self).__name__}: the threshold is a number from 0 up, got {threshold!r}")
        self.threshold = float(threshold)
        self.nonnegative = nonnegative
        self.low = 0.0 if nonnegative else -math.inf

    @final
    def slope(self, potential: Tensor) -> Tensor:
        return self._passed(potential).to(potential.dtype)

    @final
    def log_slope(self, potential: Tensor) -> Tensor:
        raise SettlingError(
            f"{self!r} sends a whole interval of potentials to zero, so values have no density that a sampler"
            " of potentials could follow; declare the variable without a link, or with a smooth one"
        )

    def _passed(self, potential: Tensor) -> Tensor:
        size = potential if self.nonnegative else potential.abs()
        return size > self.threshold

    def _fields(self) -> tuple[object, ...]:
        return (self.threshold, self.nonnegative)


@final
class SoftThreshold(Threshold):
    """a = sign(u) max(|u| - threshold, 0); the integral is a^2 / 2 + threshold |a|.

    With it and a `Sparsity` term of the same strength, mirror flow is the locally competitive algorithm
    (Rozell et al. 2008, Neural Comput. 20:2526, eq. 2.3 and 3.1). With ``nonnegative`` it is the rectified
    one, a = max(u - threshold, 0).
    """

    def value(self, potential: Tensor) -> Tensor:
        if self.nonnegative:
            return (potential - self.threshold).clamp(min=0.0)
        return functional.softshrink(potential, self.threshold)

    def potential(self, value: Tensor) -> Tensor:
        return value + self.threshold * value.sign()

    def integral(self, value: Tensor) -> Tensor:
        return 0.5 * value.square() + self.threshold * value.abs()


@final
class HardThreshold(Threshold):
    """a = u where |u| is above the threshold, else 0; the integral is (a^2 + threshold^2) / 2, and 0 at 0.

    With it and a `Sparsity` term of the prior `L0` and the strength threshold^2 / 2, mirror flow is the
    locally competitive algorithm with hard thresholds (Rozell et al. 2008, sect. 3.2.1).
    """

    def value(self, potential: Tensor) -> Tensor:
        return potential * self._passed(potential)

    def potential(self, value: Tensor) -> Tensor:
        return value

    def integral(self, value: Tensor) -> Tensor:
        return 0.5 * torch.where(value != 0, value.square() + self.threshold**2, 0.0)
