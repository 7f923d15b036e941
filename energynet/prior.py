"""Priors of codes: what a unit costs, and the proximal map and the link that follow from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional

from energynet.link import HardThreshold, Link, SoftThreshold

if TYPE_CHECKING:
    from jaxtyping import Float


class Prior(ABC):
    """What a unit of a code costs, S(a): minus the logarithm of a density, up to a constant.

    Attributes
    ----------
    smooth
        Whether S has a derivative everywhere, so that every solver can follow it; else its kinks are known
        by the proximal map, and a unit is exactly zero where the map says so.
    convex
        Whether S is convex, so that every solver finds the same least energy.
    continuous
        Whether S has no jumps: the force of one that jumps does not tell of it, and samplers refuse it.
    """

    smooth: bool
    convex: bool
    continuous: bool = True

    @abstractmethod
    def penalty(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """S of each unit, not negative and zero at zero."""

    @abstractmethod
    def slope(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The derivative of S in each unit; zero at a kink at zero."""

    def proximal(self, value: Float[Tensor, "*any"], step: float | Tensor) -> Float[Tensor, "*any"]:
        """Argmin over s of step * S(s) + (s - value)^2 / 2 of each unit; a tensor step broadcasts.

        By default the root of s + step * slope(s) = value, by bisection, and zero where the sum jumps over
        the value at a kink at zero; right where S is even and that
        sum rises in s.
        """
        size = value.abs()
        low, high = torch.zeros_like(size), size
        for _ in range(torch.finfo(size.dtype).bits):
            middle = 0.5 * (low + high)
            below = middle + step * self.slope(middle) < size
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return value.sign() * torch.where(low > 0, 0.5 * (low + high), 0.0)

    def link(self, strength: float, *, nonnegative: bool = False) -> Link | None:
        """The threshold through which mirror flow settles where ``strength`` * S has its minimum: LCA.

        It is the proximal map at a step of 1 (Rozell et al. 2008, Neural Comput. 20:2526, eq. 3.1). None
        where S is smooth, for gradient flow needs no link.
        """
        return None

    def log_partition(self, strength: Float[Tensor, ""], *, nonnegative: bool = False) -> Float[Tensor, ""]:
        """The logarithm of the integral of exp(-strength * S) over one unit: what a learned strength needs.

        Raises
        ------
        ValueError
            If there is no such integral at any strength, so that the strength has no likelihood.
        """
        raise ValueError(
            f"{self!r} is no density at any strength, so it cannot be learned: the integral of exp(-S) is "
            "infinite; learn that of another prior, or give the strength"
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@final
class Laplace(Prior):
    """S = |a|: the lasso (Tibshirani 1996); the map is the soft threshold."""

    smooth, convex = False, True

    def penalty(self, value: Tensor) -> Tensor:
        return value.abs()

    def slope(self, value: Tensor) -> Tensor:
        return value.sign()

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        if isinstance(step, Tensor):
            return value - value.minimum(step).maximum(-step)
        return functional.softshrink(value, step)

    def link(self, strength: float, *, nonnegative: bool = False) -> SoftThreshold:
        return SoftThreshold(strength, nonnegative)

    def log_partition(self, strength: Tensor, *, nonnegative: bool = False) -> Tensor:
        return -strength.log() if nonnegative else math.log(2) - strength.log()


@final
class L0(Prior):
    """S = 1 where a unit is not zero, else 0: it counts; the map is the hard threshold.

    Not convex: what is found depends on the start and on the solver.
    """

    smooth, convex, continuous = False, False, False

    def penalty(self, value: Tensor) -> Tensor:
        return (value != 0).to(value.dtype)

    def slope(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value)

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value * (value.square() > 2 * step)

    def link(self, strength: float, *, nonnegative: bool = False) -> HardThreshold:
        # a unit beyond the threshold costs threshold^2 / 2
        return HardThreshold((2 * strength) ** 0.5, nonnegative)


@final
class Cauchy(Prior):
    """S = log(1 + a^2), heavy in the tails (Olshausen and Field 1996, Nature 381:607).

    Its proximal map is one root of a cubic, the only one at steps up to 4.
    """

    smooth, convex = True, False

    def penalty(self, value: Tensor) -> Tensor:
        return value.square().log1p()

    def slope(self, value: Tensor) -> Tensor:
        return 2 * value / (1 + value.square())

    def log_partition(self, strength: Tensor, *, nonnegative: bool = False) -> Tensor:
        """Finite for a strength above 1/2: a t distribution of 2 * strength - 1 degrees of freedom."""
        whole = 0.5 * math.log(math.pi) + (strength - 0.5).lgamma() - strength.lgamma()
        # the logarithm of a gamma function left of zero is that of its magnitude
        whole = torch.where(strength > 0.5, whole, math.inf)
        return whole - math.log(2) if nonnegative else whole


@final
class LogCosh(Prior):
    """S = log cosh a, of the hyperbolic secant: quadratic near zero, linear far from it; for ICA."""

    smooth, convex = True, True

    def penalty(self, value: Tensor) -> Tensor:
        return torch.logaddexp(value, -value) - math.log(2)

    def slope(self, value: Tensor) -> Tensor:
        return value.tanh()

    def log_partition(self, strength: Tensor, *, nonnegative: bool = False) -> Tensor:
        half = 0.5 * strength
        whole = 0.5 * math.log(math.pi) + half.lgamma() - (half + 0.5).lgamma()
        return whole - math.log(2) if nonnegative else whole


PRIORS: dict[str, Prior] = {"laplace": Laplace(), "l0": L0(), "cauchy": Cauchy(), "logcosh": LogCosh()}


def prior_of(owner: object, prior: str | Prior) -> Prior:
    """The prior of a name; a prior is itself.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if isinstance(prior, Prior):
        return prior
    if prior not in PRIORS:
        raise ValueError(
            f"{type(owner).__name__}: prior must be one of {', '.join(map(repr, PRIORS))} or a Prior, "
            f"got {prior!r}"
        )
    return PRIORS[prior]
