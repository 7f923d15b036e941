"""One sweep over units with two values, each drawn from its distribution given all the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from energynet.couplings import Couplings
from energynet.discrete import DiscreteFlow, rounding
from energynet.overlaps import FeatureEnergy
from energynet.samplers.base import Temperature
from energynet.samplers.noise import Randomness, uniform
from energynet.state import State
from energynet.variable import Variable, rows

# Units of a sequence that are updated before the others see it: the others then take one matrix product.
_PANEL = 48


@final
@dataclass(frozen=True)
class HeatBath:
    """A unit is high with probability 1 / (1 + exp(-gap / T)), where gap = E(low) - E(high).

    A uniform number is compared with that probability, in the form of a threshold on the gap. At T = 0 the
    unit goes where the energy is lower, and stays where both are the same up to rounding.
    """

    temperature: Temperature
    randomness: Randomness

    def thresholds(self, gap: Tensor, batch: int) -> Tensor:
        """What each gap is compared with; the samples lie along the dimension ``batch``."""
        temperature = self.temperature
        if not isinstance(temperature, Tensor):
            if temperature == 0:
                return torch.zeros_like(gap)
            return temperature * uniform(tuple(gap.shape), gap, self.randomness).logit()
        each = temperature if batch else temperature.unsqueeze(1)
        noise = uniform(tuple(gap.shape), gap, self.randomness).logit()
        return torch.where(each > 0, each * noise, 0.0)

    def margin(self, scale: Tensor) -> Tensor | None:
        """How much lower the energy must be for a unit to move: above rounding at T = 0, nothing above."""
        if isinstance(self.temperature, Tensor):
            return torch.where(self.temperature > 0, 0.0, rounding(scale))
        return None if self.temperature else rounding(scale)


@final
class Sweep:
    """Updates of some units after the others.

    Attributes
    ----------
    state
        The values, so far.
    released
        The most energy that one update has released, for each sample; not a number where an energy is none.
    changed
        How many updates have changed their unit, for each sample.
    """

    def __init__(self, flow: DiscreteFlow, state: State, bath: HeatBath) -> None:
        self._flow = flow
        self._bath = bath
        self.state = dict(state)
        self.released = self.changed = next(iter(state.values())).new_zeros(flow.batch)

    def separate(self, names: Sequence[str]) -> None:
        """All units of variables that do not read each other, at once."""
        for name, gap in self._flow.gaps(names, self.state).items():
            self._choose(name, rows(gap))

    def together(self) -> None:
        """All units of all variables at once, whether or not they read each other."""
        cold = not isinstance(self._bath.temperature, Tensor) and self._bath.temperature == 0
        for name, difference in self._flow.differences(self.state).items():
            if cold:
                self._descend(name, difference)
            else:
                self._choose(name, -rows(difference))

    def _descend(self, name: str, difference: Tensor) -> None:
        """What `_choose` does at T = 0, in fewer passes over the units."""
        value = self.state[name]
        gain = torch.where(self._flow.high(name, value), difference, -difference)
        if name in self._flow.held:
            gain = gain.masked_fill(self._flow.held[name], 0.0)
        margin = rounding(rows(difference).abs().amax(1))
        most = rows(gain).amax(1)
        flip = rows(gain) > margin.unsqueeze(1)
        finite = torch.finfo(gain.dtype).max
        self.released = torch.maximum(self.released, torch.where(most <= margin, 0.0, most).clamp(max=finite))
        self.changed = self.changed + flip.sum(1)
        self.state[name] = self._flow.flipped(name, value, flip.reshape(value.shape))

    def _choose(self, name: str, gap: Tensor) -> None:
        """Set a variable by the gaps of its units."""
        high = self._flow.high(name, rows(self.state[name])).to(gap.dtype)
        level = self._bath.thresholds(gap, 0)
        margin = self._bath.margin(gap.abs().amax(1))
        if margin is not None:
            level = level + margin.unsqueeze(1) * (1 - 2 * high)
        if name in self._flow.held:
            level = _hold(level, rows(self._flow.held[name]), high)
        new = (gap > level).to(gap.dtype)
        self._count(gap, new - high, 1)
        self.state[name] = self._flow.chosen(name, new).reshape(self.state[name].shape)

    def groups(self, names: Sequence[str], couplings: Couplings, groups: Iterable[Tensor]) -> None:
        """Groups of units that are not coupled, one group after the other."""
        drive = self._flow.drive(names, self.state)
        bits = self._flow.bits(names, self.state)
        levels = self._levels(names, bits)
        for index in groups:
            own = bits.index_select(0, index)
            gap = drive.index_select(0, index) + couplings.pull(index, bits)
            level = levels.index_select(0, index)
            margin = self._bath.margin(gap.abs().amax(0))
            new = (gap > (level if margin is None else level + margin * (1 - 2 * own))).to(gap.dtype)
            self._count(gap, new - own, 0)
            bits.index_copy_(0, index, new)
        self.state.update(self._flow.unpacked(names, bits, self.state))

    def sequence(self, names: Sequence[str], couplings: Couplings, order: Tensor, *, repeats: bool) -> None:
        """One unit after the other, in an order that has some of them twice where it ``repeats``."""
        drive = self._flow.drive(names, self.state)
        bits = self._flow.bits(names, self.state)
        levels = self._levels(names, bits, order)
        for index, thresholds in zip(order.split(_PANEL), levels.split(_PANEL), strict=True):
            own = bits.index_select(0, index)
            gap = drive.index_select(0, index) + couplings.pull(index, bits)
            later = couplings.among(index).tril(-1)
            margin = self._bath.margin(gap.abs().amax(0))
            level = thresholds if margin is None else thresholds + margin * (1 - 2 * own)
            change = torch.empty_like(own)
            if repeats:
                same = (index.unsqueeze(1) == index).to(own.dtype).tril(-1)
                _update_again(gap, own, level, change, later, same, margin)
            else:
                _update(gap, own, level, change, later)
            self._count(gap, change, 0)
            bits.index_add_(0, index, change)
        self.state.update(self._flow.unpacked(names, bits, self.state))

    def energies(self, names: Sequence[str], order: Tensor) -> None:
        """One unit after the other, by the energies of both of its values."""
        bits = self._flow.bits(names, self.state)
        levels = self._levels(names, bits, order)
        featured = self._flow.featured
        walk = (
            _ByEnergy(self._flow, names, self.state)
            if featured is None
            else _ByFeatures(featured, self.state, self._flow.variables)
        )
        places = torch.arange(len(bits), device=bits.device).unsqueeze(1)
        for index, level in zip(order.split(1), levels.unbind(0), strict=True):
            own = bits.index_select(0, index).squeeze(0)
            now, then = walk.now, walk.then(bits, index)
            gap = torch.where(own > 0.5, then - now, now - then)
            margin = self._bath.margin(torch.maximum(now.abs(), then.abs()))
            new = gap > (level if margin is None else level + margin * (1 - 2 * own))
            change = new.to(own.dtype) - own
            self._count(gap.unsqueeze(0), change.unsqueeze(0), 0)
            bits = bits + (places == index) * change
            walk.move(change != 0)
        self.state.update(self._flow.unpacked(names, bits, self.state))

    def _levels(self, names: Sequence[str], bits: Tensor, order: Tensor | None = None) -> Tensor:
        """The thresholds of every unit, or of those of an order; out of reach where a unit is held."""
        fixed = self._flow.fixed(names)
        if order is not None:
            bits = bits.index_select(0, order)
            fixed = None if fixed is None else fixed.index_select(0, order)
        level = self._bath.thresholds(bits, 1)
        return level if fixed is None else _hold(level, fixed, bits)

    def _count(self, gap: Tensor, change: Tensor, units: int) -> None:
        finite = torch.finfo(gap.dtype).max  # leaving a forbidden state releases infinitely much
        gain = (gap.clamp(-finite, finite) * change).amax(units)
        self.released = torch.maximum(self.released, gain.clamp(min=0.0))
        self.changed = self.changed + change.abs().sum(units)


class _Walk(ABC):
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
class _ByEnergy(_Walk):
    """Any energy: it is evaluated for every unit."""

    def __init__(self, flow: DiscreteFlow, names: Sequence[str], state: State) -> None:
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
class _ByFeatures(_Walk):
    """An energy of linear features, which are followed."""

    def __init__(
        self,
        featured: tuple[float, FeatureEnergy],
        state: State,
        variables: Mapping[str, Variable],
    ) -> None:
        self._factor, self._part = featured
        variable = variables[self._part.variable]
        self._width = variable.high - variable.low
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


def _hold(level: Tensor, fixed: Tensor, high: Tensor) -> Tensor:
    """Thresholds that a held unit is always above or below."""
    return torch.where(fixed, torch.where(high > 0.5, -torch.inf, torch.inf), level)


def _update(gap: Tensor, own: Tensor, level: Tensor, change: Tensor, later: Tensor) -> None:
    """Set the change of each unit in turn; gaps become those that the units met."""
    for gaps, levels, bits, moved, pull in zip(
        gap.unbind(0), level.unbind(0), own.unbind(0), change.unbind(0), later.unbind(1), strict=True
    ):
        torch.gt(gaps, levels, out=moved).sub_(bits)
        gap.addr_(pull, moved)


def _update_again(
    gap: Tensor,
    own: Tensor,
    level: Tensor,
    change: Tensor,
    later: Tensor,
    same: Tensor,
    margin: Tensor | None,
) -> None:
    """The same for units that may come again, and then have the value that they were given before."""
    own, level = own.clone(), level.clone()
    for gaps, levels, bits, moved, pull, again in zip(
        gap.unbind(0), level.unbind(0), own.unbind(0), change.unbind(0), later.unbind(1), same.unbind(1),
        strict=True,
    ):  # fmt: skip
        torch.gt(gaps, levels, out=moved).sub_(bits)
        gap.addr_(pull, moved)
        own.addr_(again, moved)
        if margin is not None:
            level.addr_(again, moved * margin, alpha=-2.0)
