"""The leak: what pulls every unit back to rest."""

from __future__ import annotations

from typing import final

from torch import Tensor

from energynet.energy import LinkTerm
from energynet.link import Link
from energynet.variable import Continuous, rows


@final
class Leak(LinkTerm):
    """The integral of the inverse link, summed over units (Hopfield 1984, eq. 5); 1/2 |s|^2 without one.

    With it a unit under a field f is stationary at s = link(f), and at s = f, clipped to its domain, without
    a link. So the same bilinear network is a Hopfield network of sigmoid, tanh or hard sigmoid units.

    Parameters
    ----------
    **variable
        The variable, by name; its own link is the one that is integrated.
    """

    def __init__(self, **variable: Continuous) -> None:
        if len(variable) != 1:
            raise TypeError(f"Leak: expected one variable, got {sorted(variable)}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        if not isinstance(declared, Continuous):
            raise TypeError(f"Leak: expected a continuous variable, got {declared!r}")
        self.link: Link | None = declared.link

    def energy(self, **state: Tensor) -> Tensor:
        value = rows(state[self.variable])
        each = 0.5 * value.square() if self.link is None else self.link.integral(value)
        return each.sum(1)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        return -potential
