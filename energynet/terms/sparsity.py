"""The sparse prior of sparse coding: an absolute value."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from energynet.energy import ProximalTerm
from energynet.link import Link, SoftThreshold
from energynet.variable import Continuous, rows


@final
class Sparsity(ProximalTerm):
    """E = strength * sum of |a| over the units of one variable (Tibshirani 1996; Olshausen and Field 1996).

    Its proximal map is the soft threshold. On a variable with the link ``SoftThreshold(strength)`` mirror
    flow is the locally competitive algorithm (Rozell et al. 2008, Neural Comput. 20:2526): the force of this
    term at a = link(u) is a - u. With any other link it has a kink at zero, and `Proximal` is the solver.

    Parameters
    ----------
    strength
        Not negative.
    **variable
        The variable, by name.

    Raises
    ------
    ValueError
        If the variable has a `SoftThreshold` link of another threshold, whose fixed points would not be
        stationary points of this energy.
    """

    def __init__(self, strength: float, **variable: Continuous) -> None:
        if len(variable) != 1:
            raise TypeError(f"Sparsity: expected one variable, got {sorted(variable)}")
        if not 0 <= strength < math.inf:
            raise ValueError(f"Sparsity: the strength is a number from 0 up, got {strength!r}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        if not isinstance(declared, Continuous):
            raise TypeError(f"Sparsity: expected a continuous variable, got {declared!r}")
        self.strength = float(strength)
        self.link: Link | None = None
        if isinstance(declared.link, SoftThreshold):
            self.link = declared.link
            if declared.link.threshold != self.strength:
                raise ValueError(
                    f"Sparsity: the strength is {self.strength:g}, but the link of "
                    f"{self.variable!r} thresholds at {declared.link.threshold:g}; give both the same number"
                )

    def energy(self, **state: Tensor) -> Tensor:
        return self.strength * rows(state[self.variable].abs()).sum(1)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        return value - potential

    def slope(self, value: Tensor) -> Tensor:
        return self.strength * value.sign()

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value.sign() * (value.abs() - self.strength * step).clamp(min=0.0)
