"""The prior of sparse codes as a term: a sum over units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from energynet.derivation import Derivation
from energynet.energy import Energy, ProximalTerm
from energynet.link import Link, Threshold
from energynet.prior import Prior, prior_of
from energynet.variable import Continuous, rows


@final
class Sparsity(ProximalTerm):
    """E = strength * sum of S(a) over the units of one variable, S the penalty of a `Prior`.

    With the Laplace prior S = |a| (Tibshirani 1996; Olshausen and Field 1996) and the proximal map is the
    soft threshold. On a variable with the link of the prior, ``SoftThreshold(strength)`` here, mirror flow is
    the locally competitive algorithm (Rozell et al. 2008, Neural Comput. 20:2526): the force of this term at
    a = link(u) is a - u. With any other link it has a kink at zero, and `Proximal` is the solver.

    Parameters
    ----------
    strength
        Not negative.
    prior
        ``"laplace"``, ``"l0"``, ``"cauchy"``, ``"logcosh"`` or a `Prior`.
    learn_strength
        Make the logarithm of the strength a parameter, starting at ``strength``. The energy then has the
        normaliser of the prior for each unit, log(2 / strength) for Laplace's, without which the strength
        would fall to zero. Learn it where codes are sampled, by `MonteCarloEM`. At their minimum codes are
        smaller than in the posterior, so that under `MaximumAPosteriori` the strength grows without end.
    **variable
        The variable, by name.

    Attributes
    ----------
    log_strength
        Parameter, a scalar, where the strength is learned; else None.

    Raises
    ------
    ValueError
        If the variable has a threshold link that is not that of the prior and strength, so that its fixed
        points would not be stationary points of this energy. If the strength is to be learned: if it is not
        positive, the prior is no density, the variable is neither `Real` nor `NonNegative`, so that the
        normaliser is another, or has a threshold link, which could not follow.
    """

    def __init__(
        self,
        strength: float,
        prior: str | Prior = "laplace",
        *,
        learn_strength: bool = False,
        **variable: Continuous,
    ) -> None:
        if len(variable) != 1:
            raise TypeError(f"Sparsity: expected one variable, got {sorted(variable)}")
        if not 0 <= strength < math.inf:
            raise ValueError(f"Sparsity: the strength is a number from 0 up, got {strength!r}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        if not isinstance(declared, Continuous):
            raise TypeError(f"Sparsity: expected a continuous variable, got {declared!r}")
        self._number = float(strength)
        self.prior = prior_of(self, prior)
        self.convex, self.continuous = self.prior.convex, self.prior.continuous
        self.log_strength: nn.Parameter | None = None
        self._half = declared.low >= 0
        self._units = math.prod(declared.shape)
        if learn_strength:
            if strength == 0:
                raise ValueError("Sparsity: a strength that is learned starts above 0, got 0")
            if (declared.low, declared.high) not in ((-math.inf, math.inf), (0.0, math.inf)):
                raise ValueError(
                    f"Sparsity: {self.variable!r} is {declared!r}, on which the normaliser of {self.prior!r} "
                    "is not known, so the strength cannot be learned; declare it Real or NonNegative"
                )
            start = torch.tensor(self._number)
            normaliser = self.prior.log_partition(start, nonnegative=self._half)
            if not bool(normaliser.isfinite()):
                raise ValueError(
                    f"Sparsity: {self.prior!r} is no density at a strength of {strength:g}; start higher"
                )
            self.log_strength = nn.Parameter(start.log())
        self.link: Link | None = None
        if isinstance(declared.link, Threshold):
            if learn_strength:
                raise ValueError(
                    f"Sparsity: {self.variable!r} has the link {declared.link!r}, which cannot follow a "
                    "strength that is learned; declare it without"
                )
            self.link = declared.link
            expected = self.prior.link(self._number, nonnegative=declared.link.nonnegative)
            if declared.link != expected:
                raise ValueError(
                    f"Sparsity: the strength is {self._number:g} and the prior {self.prior!r}, whose link "
                    f"is {expected!r}, but that of {self.variable!r} is {declared.link!r}; "
                    "give both the same number"
                )

    @property
    def strength(self) -> float | Tensor:
        """lambda: a number, or a scalar tensor where it is learned."""
        return self._number if self.log_strength is None else self.log_strength.exp()

    def derivation(self, links: Mapping[str, Link]) -> Derivation:
        return Energy.derivation(self, links) if self.prior.smooth else super().derivation(links)

    def energy(self, **state: Tensor) -> Tensor:
        strength = self.strength
        total = strength * rows(self.prior.penalty(state[self.variable])).sum(1)
        if not isinstance(strength, Tensor):
            return total
        return total + self._units * self.prior.log_partition(strength, nonnegative=self._half)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        return value - potential

    def slope(self, value: Tensor) -> Tensor:
        return self.strength * self.prior.slope(value)

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self.prior.proximal(value, self.strength * step)
