"""Energies that read a variable through linear features: what flipping a unit does needs no product."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from energynet.energy import Energy
from energynet.variable import Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float


class FeatureEnergy(Energy):
    """E(s) = function(A s), such as a dense associative memory in the overlaps of s with its patterns.

    Changing one unit changes the features by a column of A, so that samplers of two-valued variables follow
    the features instead of evaluating the energy from the start for every unit.
    """

    variable: str

    def __init__(self, **variable: Variable) -> None:
        if len(variable) != 1:
            raise TypeError(f"{type(self).__name__}: expected one variable, got {sorted(variable)}")
        super().__init__(**variable)
        ((self.variable, _),) = variable.items()

    @abstractmethod
    def directions(self) -> Float[Tensor, "features units"]:
        """A."""

    @abstractmethod
    def of_features(self, features: Float[Tensor, "*any features"]) -> Float[Tensor, "*any"]:
        """The energy from A s, for any dimensions in front."""

    def energy(self, **state: Tensor) -> Tensor:
        return self.of_features(rows(state[self.variable]) @ self.directions().t())
