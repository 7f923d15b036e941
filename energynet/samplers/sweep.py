"""One sweep over units, each drawn from its distribution given all the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from energynet.conditional import ConditionalFlow
from energynet.couplings import Couplings
from energynet.samplers.base import Temperature
from energynet.samplers.noise import Randomness, numbers
from energynet.samplers.walk import ByEnergy, ByFeatures
from energynet.state import State
from energynet.units import Listed, Pair, Units, barriers, moving, rounding
from energynet.variable import rows

# Units of a sequence that are updated before the others see it: the others then take one matrix product.
_PANEL = 48


@final
@dataclass(frozen=True)
class Bath:
    """A temperature, and where random numbers come from."""

    temperature: Temperature
    randomness: Randomness

    @property
    def cold(self) -> bool:
        """Whether the temperature is 0 for all samples."""
        return not isinstance(self.temperature, Tensor) and self.temperature == 0

    def noise(self, units: Units, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """The random numbers for some units; None where the temperature is 0."""
        return None if self.cold else numbers(units.noise, tuple(shape), like, self.randomness)


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

    def __init__(self, flow: ConditionalFlow, state: State, bath: Bath) -> None:
        self._flow = flow
        self._bath = bath
        self.state = dict(state)
        self.released = self.changed = next(iter(state.values())).new_zeros(flow.batch)

    def separate(self, names: Sequence[str]) -> None:
        """All units of variables that do not read each other, at once."""
        for name, field in self._flow.gaps(names, self.state).items():
            self._choose(name, field)

    def together(self) -> None:
        """All units of all variables at once, whether or not they read each other."""
        start = dict(self.state)
        for name, field in self._flow.fields(start).items():
            if self._bath.cold and isinstance(self._flow.units[name], Pair):
                self._descend(name, field)
            else:
                self._choose(name, field, start)

    def _descend(self, name: str, field: Tensor) -> None:
        """What `_choose` does with two-valued units at T = 0, in fewer passes over the units."""
        value, units = self.state[name], self._flow.units[name]
        assert isinstance(units, Pair)
        gain = torch.where(units.high(value), -field, field)
        if name in self._flow.held:
            gain = gain.masked_fill(self._flow.held[name], 0.0)
        margin = rounding(rows(field).abs().amax(1))
        most = rows(gain).amax(1)
        flip = rows(gain) > margin.unsqueeze(1)
        finite = torch.finfo(gain.dtype).max
        self.released = torch.maximum(self.released, torch.where(most <= margin, 0.0, most).clamp(max=finite))
        self.changed = self.changed + flip.sum(1)
        self.state[name] = torch.where(flip.reshape(value.shape), 2 * units.middle - value, value)

    def _choose(self, name: str, field: Tensor, point: State | None = None) -> None:
        """Draw all units of a variable by the fields on them at a point."""
        value, units = self.state[name], self._flow.units[name]
        noise = self._bath.noise(units, rows(field).shape, field)
        new = self._drawn(
            units,
            rows(field).t(),
            self._flow.curvature(name, self.state if point is None else point),
            units.code(value),
            None if noise is None else noise.t(),
            self._flow.fixed((name,)),
        )
        self.state[name] = units.value(new, value)

    def groups(self, name: str, couplings: Couplings, groups: Iterable[Tensor]) -> None:
        """Groups of units of a variable that are not coupled, one group after the other."""
        names, units = (name,), self._flow.units[name]
        drive, code = self._flow.drive(names, self.state), self._flow.code(names, self.state)
        curvature, fixed = self._flow.curvature(name, self.state), self._flow.fixed(names)
        noise = self._bath.noise(units, code.shape, code)
        for group in groups:
            index = couplings.entries(group)
            field = drive.index_select(0, index) + couplings.pull(index, code)
            picked = [
                None if tensor is None else tensor.index_select(0, index)
                for tensor in (curvature, noise, fixed)
            ]
            new = self._drawn(units, field, picked[0], code.index_select(0, index), *picked[1:])
            code.index_copy_(0, index, new)
        self.state.update(self._flow.unpacked(names, code, self.state))

    def _drawn(
        self,
        units: Units,
        field: Tensor,
        curvature: Tensor | None,
        code: Tensor,
        noise: Tensor | None,
        fixed: Tensor | None,
    ) -> Tensor:
        new = units.drawn(field, curvature, code, noise, self._bath.temperature)
        if fixed is not None:
            new = torch.where(fixed, code, new)
        self._count(units.gain(field, curvature, code, new), units.changed(code, new))
        return new

    def sequence(self, names: Sequence[str], couplings: Couplings, order: Tensor, *, repeats: bool) -> None:
        """One two-valued unit after the other, in an order in which some come twice where it ``repeats``."""
        drive, bits = self._flow.drive(names, self.state), self._flow.code(names, self.state)
        limits = self._levels(names, bits, order)
        for index, thresholds in zip(order.split(_PANEL), limits.split(_PANEL), strict=True):
            own = bits.index_select(0, index)
            gap = drive.index_select(0, index) + couplings.pull(index, bits)
            later = couplings.among(index).tril(-1)
            margin = moving(self._bath.temperature, gap.abs().amax(0))
            level = thresholds if margin is None else thresholds + margin * (1 - 2 * own)
            change = torch.empty_like(own)
            if repeats:
                same = (index.unsqueeze(1) == index).to(own.dtype).tril(-1)
                _update_again(gap, own, level, change, later, same, margin)
            else:
                _update(gap, own, level, change, later)
            self._count(_finite(gap) * change, change.abs())
            bits.index_add_(0, index, change)
        self.state.update(self._flow.unpacked(names, bits, self.state))

    def energies(self, names: Sequence[str], order: Tensor) -> None:
        """One two-valued unit after the other, by the energies of both of its values."""
        flow = self._flow
        bits = flow.code(names, self.state)
        limits = self._levels(names, bits, order)
        if flow.featured is None:
            walk = ByEnergy(flow, names, self.state)
        else:
            walk = ByFeatures(flow.featured, self.state, flow.units)
        places = torch.arange(len(bits), device=bits.device).unsqueeze(1)
        for index, level in zip(order.split(1), limits.unbind(0), strict=True):
            own = bits.index_select(0, index).squeeze(0)
            now, then = walk.now, walk.then(bits, index)
            gap = torch.where(own > 0.5, then - now, now - then)
            margin = moving(self._bath.temperature, torch.maximum(now.abs(), then.abs()))
            new = gap > (level if margin is None else level + margin * (1 - 2 * own))
            change = new.to(own.dtype) - own
            self._count((_finite(gap) * change).unsqueeze(0), change.abs().unsqueeze(0))
            bits = bits + (places == index) * change
            walk.move(change != 0)
        self.state.update(flow.unpacked(names, bits, self.state))

    def choices(self, name: str, order: Tensor) -> None:
        """One choice among categories after the other, by the energies of all of them."""
        units, fixed = self._flow.units[name], self._flow.fixed((name,))
        assert isinstance(units, Listed)
        value = self.state[name]
        code = units.code(value).contiguous()
        noise = self._bath.noise(units, code.shape, code)
        alternatives = code.new_tensor(units.alternatives)
        unit = (torch.arange(len(code), device=code.device) // units.entries).unsqueeze(1)
        within = torch.arange(units.entries, device=code.device)
        for which in order.split(1):
            here = unit == which
            energies = []
            for entries in alternatives:
                other = torch.where(here, entries.repeat(units.count).unsqueeze(1), code)
                energies.append(self._flow.energy({**self.state, name: units.value(other, value)}))
            index = which * units.entries + within
            new = self._drawn(
                units,
                -torch.stack(energies),
                None,
                code.index_select(0, index),
                None if noise is None else noise.index_select(0, index),
                None if fixed is None else fixed.index_select(0, index),
            )
            code.index_copy_(0, index, new)
        self.state[name] = units.value(code, value)

    def _levels(self, names: Sequence[str], bits: Tensor, order: Tensor) -> Tensor:
        """The thresholds of the units of an order; out of reach where a unit is held."""
        bits = bits.index_select(0, order)
        noise = self._bath.noise(self._flow.units[names[0]], bits.shape, bits)
        level = barriers(noise, self._bath.temperature)
        level = torch.zeros_like(bits) if level is None else level
        fixed = self._flow.fixed(names)
        if fixed is None:
            return level
        return torch.where(
            fixed.index_select(0, order), torch.where(bits > 0.5, -torch.inf, torch.inf), level
        )

    def _count(self, gain: Tensor, changed: Tensor) -> None:
        """Note the energy that units, ``(units, batch)``, have released, and which have changed."""
        self.released = torch.maximum(self.released, gain.amax(0).clamp(min=0.0))
        self.changed = self.changed + changed.sum(0)


def _finite(gap: Tensor) -> Tensor:
    """Leaving a forbidden state releases infinitely much."""
    finite = torch.finfo(gap.dtype).max
    return gap.clamp(-finite, finite)


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
