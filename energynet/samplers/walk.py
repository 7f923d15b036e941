"""The energies of samples whose two-valued units change one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from energynet.conditional import ConditionalFlow
from energynet.overlaps import FeatureEnergy
from energynet.state import State
from energynet.units import Units
from energynet.variable import rows


class Walk(ABC):
    """The energies of samples whose units change one at a time.

    Attributes
    ----------
    now
        The energies, ``(batch,)``.
    """

    now: Tensor

    @abstractmethod
    def then(self, bits: Tensor, index: Tensor) -> Tensor:
        """The energies were one unit the other way."""

    @abstractmethod
    def move(self, changed: Tensor) -> None:
        """Let that be so in some of the samples."""


@final
class ByEnergy(Walk):
    """Any energy: it is evaluated for every unit."""

    def __init__(self, flow: ConditionalFlow, names: Sequence[str], state: State) -> None:
        self._flow, self._names, self._state = flow, names, state
        self.now = self._then = flow.energy(state)

    def then(self, bits: Tensor, index: Tensor) -> Tensor:
        here = torch.arange(len(bits), device=bits.device).unsqueeze(1) == index
        other = self._flow.unpacked(self._names, torch.where(here, 1 - bits, bits), self._state)
        self._then = self._flow.energy({**self._state, **other})
        return self._then

    def move(self, changed: Tensor) -> None:
        self.now = torch.where(changed, self._then, self.now)


@final
class ByFeatures(Walk):
    """An energy of linear features, which are followed."""

    def __init__(
        self,
        featured: tuple[float, FeatureEnergy],
        state: State,
        units: Mapping[str, Units],
    ) -> None:
        self._factor, self._part = featured
        self._width = units[self._part.variable].width
        directions = self._part.directions()
        self._columns = directions.t().contiguous()
        self._features = self._other = rows(state[self._part.variable]) @ directions.t()
        self.now = self._then = self._factor * self._part.of_features(self._features)

    def then(self, bits: Tensor, index: Tensor) -> Tensor:
        way = self._width * (1 - 2 * bits.index_select(0, index))
        self._other = torch.addmm(self._features, way.t(), self._columns.index_select(0, index))
        self._then = self._factor * self._part.of_features(self._other)
        return self._then

    def move(self, changed: Tensor) -> None:
        self._features = torch.where(changed.unsqueeze(1), self._other, self._features)
        self.now = torch.where(changed, self._then, self.now)
