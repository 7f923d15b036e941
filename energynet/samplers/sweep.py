"""Sweeps over units, each drawn from its distribution given all the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from energynet.conditional import ConditionalFlow
from energynet.couplings import Couplings
from energynet.packing import Listed, Packing, Piece
from energynet.samplers.base import Temperature
from energynet.samplers.noise import Randomness, numbers
from energynet.samplers.walk import ByEnergy, ByFeatures
from energynet.solvers.base import column
from energynet.state import State
from energynet.units import Choice, Pair, Units, barriers, finite, moving, rounding
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
    """Updates of some units after the others, for one sweep or several.

    Attributes
    ----------
    released
        The most energy that one update of the last sweep has released, for each sample; not a number where an
        energy is none.
    changed
        How many updates have changed their unit, for each sample.
    """

    def __init__(self, flow: ConditionalFlow, state: State, bath: Bath) -> None:
        self._flow = flow
        self._bath = bath
        self._state = dict(state)
        self._packed: _Packed | None = None
        self._watched = True
        self.released = self.changed = next(iter(state.values())).new_zeros(flow.batch)

    @property
    def state(self) -> State:
        """The values, so far."""
        if self._packed is not None:
            self._state[self._packed.name] = self._packed.value(self._flow, self._state)
            self._packed = None
        return self._state

    def begin(self, *, last: bool) -> None:
        """Another sweep; what updates release is only looked at in the last one."""
        self._watched = last

    def separate(self, names: Sequence[str]) -> None:
        """All units of variables that do not read each other, at once."""
        if not names:
            return
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
        """What `_choose` does with two-valued units at T = 0, in passes that torch does quickly."""
        value, units = self.state[name], self._flow.units[name]
        assert isinstance(units, Pair)
        way = value if units.width == 2 and units.middle == 0 else (value - units.middle) * (2 / units.width)
        cost = field * way  # of flipping a unit
        if name in self._flow.held:
            cost = cost.masked_fill(self._flow.held[name], 0.0)
        margin = rounding(rows(field).abs().amax(1))
        least = rows(cost).amin(1)
        flip = cost.lt_(-column(margin, cost))
        released = finite(torch.where(least >= -margin, 0.0, -least))
        self._note(released)
        self.changed = self.changed + rows(flip).sum(1)
        self.state[name] = torch.addcmul(value, way, flip, value=-units.width)

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

    def groups(self, name: str, packing: Packing) -> None:
        """Groups of units of a variable that are not coupled, one group after the other."""
        packed = self._packed
        if packed is None or packed.name != name or packed.packing is not packing:
            packed = _Packed.of(self._flow, name, packing, self.state)
        self._pieces(self._flow.units[name], packing.pieces, packed)
        self._packed = packed
        if self._flow.names != (
            name,
        ):  # the fields on the units depend on other variables, and theirs on them
            _ = self.state

    def one_by_one(self, name: str, couplings: Couplings, order: Tensor) -> None:
        """The units of a variable in an order."""
        flow, names = self._flow, (name,)
        packed = _Packed(
            name, None, flow.drive(names, self.state), flow.code(names, self.state),
            flow.curvature(name, self.state), flow.fixed(names),
        )  # fmt: skip
        self._pieces(flow.units[name], [Listed(couplings, unit) for unit in order.split(1)], packed)
        self.state[name] = packed.value(flow, self.state)

    def _pieces(self, units: Units, pieces: Iterable[Piece], packed: _Packed) -> None:
        code = packed.code
        noise = self._bath.noise(units, code.shape, code)
        for piece in pieces:
            curvature, some, fixed = (
                None if rows is None else piece.of(rows) for rows in (packed.curvature, noise, packed.fixed)
            )
            field = piece.pull(code).add_(piece.of(packed.drive))
            piece.put(code, self._drawn(units, field, curvature, piece.of(code), some, fixed))

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
        if self._watched:
            self._note(units.gain(field, curvature, code, new).amax(0))
        self.changed = self.changed + units.changed(code, new).sum(0)
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
            if self._watched:
                self._note((finite(gap) * change).amax(0))
            self.changed = self.changed + change.abs().sum(0)
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
            if self._watched:
                self._note(finite(gap) * change)
            self.changed = self.changed + change.abs()
            bits = bits + (places == index) * change
            walk.move(change != 0)
        self.state.update(flow.unpacked(names, bits, self.state))

    def choices(self, name: str, order: Tensor) -> None:
        """One choice among categories after the other, by the energies of all of them."""
        units, fixed = self._flow.units[name], self._flow.fixed((name,))
        assert isinstance(units, Choice)
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

    def _note(self, released: Tensor) -> None:
        """Keep the most energy that one of some updates has released, at least 0."""
        self.released = torch.maximum(self.released, released)


@dataclass
class _Packed:
    """A variable in the order of its groups, and what its fields are made of."""

    name: str
    packing: Packing | None
    drive: Tensor
    code: Tensor
    curvature: Tensor | None
    fixed: Tensor | None

    @classmethod
    def of(cls, flow: ConditionalFlow, name: str, packing: Packing, state: State) -> _Packed:
        curvature, fixed = flow.curvature(name, state), flow.fixed((name,))
        return cls(
            name,
            packing,
            packing.packed(flow.drive((name,), state)),
            packing.packed(flow.code((name,), state)),
            None if curvature is None else packing.packed(curvature),
            None if fixed is None else packing.packed(fixed),
        )

    def value(self, flow: ConditionalFlow, state: State) -> Tensor:
        code = self.code if self.packing is None else self.packing.unpacked(self.code)
        return flow.units[self.name].value(code, state[self.name])


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
