"""The prior of sparse codes as a term: a sum over units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from torch import Tensor

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
        ``"laplace"``, ``"l0"``, ``"cauchy"`` or a `Prior`.
    **variable
        The variable, by name.

    Raises
    ------
    ValueError
        If the variable has a threshold link that is not that of the prior and strength, so that its fixed
        points would not be stationary points of this energy.
    """

    def __init__(self, strength: float, prior: str | Prior = "laplace", **variable: Continuous) -> None:
        if len(variable) != 1:
            raise TypeError(f"Sparsity: expected one variable, got {sorted(variable)}")
        if not 0 <= strength < math.inf:
            raise ValueError(f"Sparsity: the strength is a number from 0 up, got {strength!r}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        if not isinstance(declared, Continuous):
            raise TypeError(f"Sparsity: expected a continuous variable, got {declared!r}")
        self.strength = float(strength)
        self.prior = prior_of(self, prior)
        self.link: Link | None = None
        if isinstance(declared.link, Threshold):
            self.link = declared.link
            expected = self.prior.link(self.strength, nonnegative=declared.link.nonnegative)
            if declared.link != expected:
                raise ValueError(
                    f"Sparsity: the strength is {self.strength:g} and the prior {self.prior!r}, whose link "
                    f"is {expected!r}, but that of {self.variable!r} is {declared.link!r}; "
                    "give both the same number"
                )

    def derivation(self, links: Mapping[str, Link]) -> Derivation:
        return Energy.derivation(self, links) if self.prior.smooth else super().derivation(links)

    def energy(self, **state: Tensor) -> Tensor:
        return self.strength * rows(self.prior.penalty(state[self.variable])).sum(1)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        return value - potential

    def slope(self, value: Tensor) -> Tensor:
        return self.strength * self.prior.slope(value)

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self.prior.proximal(value, self.strength * step)
