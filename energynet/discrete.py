"""The flow that samplers of two-valued variables follow: what the energy gains where a unit changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.couplings import Couplings
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.forces import Forces
from energynet.overlaps import FeatureEnergy
from energynet.state import State
from energynet.trace import parameters_of
from energynet.variable import Discrete, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float

_ROUNDING = 32.0  # differences below so many units of rounding of the largest count as none
_NO_DERIVATIVE = (
    "values that jump have no derivative by the parameters; use a rule that contrasts samples instead, "
    "such as ContrastiveDivergence, or continuous variables"
)
_FEATURES = 2**22  # features that are held at once
_REPLICAS = 2**20  # entries of the states whose energies are evaluated at once


class Kind(Enum):
    """How the units of a variable are updated."""

    SEPARATE = "all at once, by the force at the midpoint"
    COUPLED = "by the matrix of their couplings"
    OTHER = "by energies"


@final
class DiscreteFlow(EnergyFlow):
    """The energy differences of units with two values, each given all others as they are.

    A point holds the values. Where the trace shows that the energy is quadratic in a variable, a difference
    is minus the force at the midpoint of the unit times the distance of its two values, which is exact; units
    that do not read each other are evaluated together. Otherwise it is the difference of two energies.

    Raises
    ------
    SettlingError
        If a free variable is continuous.
    """

    def __init__(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise SettlingError(_NO_DERIVATIVE)
        super().__init__(energy, clamp, state, generator=generator)
        self._kinds: dict[str, Kind] = {}
        self._drive: Tensor | None = None

    def _admit(self, name: str, variable: Variable) -> None:
        if not isinstance(variable, Discrete):
            raise SettlingError(
                f"Gibbs and Glauber need discrete variables; {name!r} is {variable!r}: clamp it, or use a "
                "sampler of continuous variables such as Langevin"
            )

    def _forces(self, differentiable: bool) -> Forces:
        self.conditioned.share()  # the couplings are kept between calls, too
        return super()._forces(differentiable)

    def differences(self, point: State) -> State:
        """E(unit at its high value) - E(unit at its low value), for every unit given all the others."""
        found: State = {}
        for group in self.forces.groups:
            separate = [name for name in group if self.kind(name) is Kind.SEPARATE]
            found.update({name: -gap for name, gap in self.gaps(separate, point).items()})
            for name in group:
                if self.kind(name) is Kind.COUPLED:
                    found[name] = self._coupled(name, point)
                elif self.kind(name) is Kind.OTHER:
                    featured = self.featured
                    found[name] = (
                        self._replicated(name, point) if featured is None else self._changed(featured, point)
                    )
        return {name: found[name] for name in self.names}

    def velocity(self, point: State) -> State:
        """The energy that flipping each unit would release: positive where that lowers it; 0 where held."""
        result: State = {}
        for name, difference in self.differences(point).items():
            released = torch.where(self.high(name, point[name]), difference, -difference)
            result[name] = released.masked_fill(self.held[name], 0.0) if name in self.held else released
        return result

    def residual(self, point: State, velocity: State) -> Float[Tensor, batch]:
        """The most that flipping one unit would release; 0 where that is no more than rounding."""
        largest = []
        for name in self.names:
            released = rows(velocity[name])
            scale = released.abs().amax(1)
            if self.kind(name) is Kind.OTHER:
                scale = torch.maximum(scale, self.energy(point).abs())
            most = released.amax(1).clamp(min=0.0)
            largest.append(torch.where(most <= rounding(scale), 0.0, most))
        return largest[0] if len(largest) == 1 else torch.stack(largest).amax(0)

    def inward(self, point: State, velocity: State) -> State:
        return velocity

    def kind(self, name: str) -> Kind:
        """How the units of a variable are updated."""
        if name not in self._kinds:
            known = self.forces.quadratic((name,))
            if known is not None and known.separate:
                self._kinds[name] = Kind.SEPARATE
            else:
                self._kinds[name] = Kind.OTHER if self.couplings((name,)) is None else Kind.COUPLED
        return self._kinds[name]

    @property
    def featured(self) -> tuple[float, FeatureEnergy] | None:
        """The energy as one of linear features of the only variable, and its factor; None where it is not."""
        parts = self.conditioned.base.parts()
        ((factor, part), *rest) = parts
        return (factor, part) if isinstance(part, FeatureEnergy) and not rest else None

    def couplings(self, names: Sequence[str]) -> Couplings | None:
        """The couplings of all units of some variables; None where they depend on more than parameters."""
        known = self.forces.quadratic(names)
        if known is None:
            return None
        return known.couplings(parameters_of(self.conditioned.base), self.variables)

    def gaps(self, names: Sequence[str], point: State) -> State:
        """E(low) - E(high) of every unit of variables whose units do not read each other."""
        if not names:
            return {}
        middle = {name: torch.full_like(point[name], self._middle(name)) for name in names}
        return {
            name: force * self._width(name)
            for name, force in self.forces.some(names, {**point, **middle}).items()
        }

    def drive(self, names: Sequence[str], point: State) -> Float[Tensor, units * batch]:
        """E(low) - E(high) of every unit of coupled variables while all units of theirs are low."""
        whole = tuple(names) == self.names
        if whole and self._drive is not None:
            return self._drive
        couplings = self.couplings(names)
        assert couplings is not None
        low = {name: torch.full_like(point[name], self.variables[name].low) for name in names}
        force = self.forces.some(names, {**point, **low})
        width = torch.cat([force[name].new_full((self.size(name),), self._width(name)) for name in names])
        columns = torch.cat([rows(force[name]) for name in names], 1).t().contiguous()
        drive = (columns + (0.5 * couplings.own * width).unsqueeze(1)) * width.unsqueeze(1)
        if whole:  # it depends on nothing that moves
            self._drive = drive
        return drive

    def bits(self, names: Sequence[str], point: State) -> Float[Tensor, units * batch]:
        """Some variables as bits, 1 where a unit is at its high value; one row for each unit."""
        each = [self.high(name, rows(point[name])) for name in names]
        return torch.cat(each, 1).t().to(point[names[0]].dtype).contiguous()

    def high(self, name: str, value: Tensor) -> Tensor:
        """Where a variable is at its high value."""
        return value > self._middle(name)

    def unpacked(self, names: Sequence[str], bits: Tensor, like: State) -> State:
        """The values that bits stand for."""
        parts = bits.split([self.size(name) for name in names])
        return {
            name: self.chosen(name, part).t().contiguous().reshape(like[name].shape)
            for name, part in zip(names, parts, strict=True)
        }

    def chosen(self, name: str, bits: Tensor) -> Tensor:
        """The values of a variable that bits stand for."""
        return bits * self._width(name) + self.variables[name].low

    def flipped(self, name: str, value: Tensor, flip: Tensor) -> Tensor:
        """Values of a variable, some of them replaced by the other value."""
        return torch.where(flip, 2 * self._middle(name) - value, value)

    def fixed(self, names: Sequence[str]) -> Tensor | None:
        """Which units are held, ``(units, batch)``; None where none of these variables is held in part."""
        if not any(name in self.held for name in names):
            return None
        masks = [self.held.get(name, torch.zeros_like(self.start[name], dtype=torch.bool)) for name in names]
        return torch.cat([rows(mask) for mask in masks], 1).t()

    def size(self, name: str) -> int:
        """The number of units of a variable."""
        return math.prod(self.variables[name].shape)

    def _middle(self, name: str) -> float:
        return (self.variables[name].low + self.variables[name].high) / 2

    def _width(self, name: str) -> float:
        return self.variables[name].high - self.variables[name].low

    def _coupled(self, name: str, point: State) -> Tensor:
        couplings = self.couplings((name,))
        assert couplings is not None
        value, force = point[name], self.forces.some((name,), point)[name]
        if not couplings.hollow:
            force = force + couplings.own.reshape(value.shape[1:]) * (self._middle(name) - value)
        return force * -self._width(name)

    def _changed(self, featured: tuple[float, FeatureEnergy], point: State) -> Tensor:
        """Energy differences by the changes of features, of as many units at once as fit."""
        factor, part = featured
        value = rows(point[part.variable])
        directions = part.directions()
        features = value @ directions.t()
        other = 2 * (self._middle(part.variable) - value)
        most = max(1, _FEATURES // max(1, features.numel()))
        then = [
            part.of_features(features.unsqueeze(1) + step.unsqueeze(2) * change)
            for step, change in zip(other.split(most, 1), directions.t().split(most), strict=True)
        ]
        gained = factor * (torch.cat(then, 1) - part.of_features(features).unsqueeze(1))
        return torch.where(other < 0, -gained, gained).reshape(point[part.variable].shape)

    def _replicated(self, name: str, point: State) -> Tensor:
        """Energy differences, of as many units at once as fit."""
        value = point[name]
        batch, units = len(value), self.size(name)
        most = max(1, _REPLICAS // max(1, sum(other.numel() for other in point.values())))
        found: list[Tensor] = []
        forces = None
        for first in range(0, units, most):
            here = range(first, min(units, first + most))
            which = torch.arange(batch, device=value.device).repeat(len(here))
            if forces is None or len(which) != batch * most:
                forces = self.forces.take(which)
            copies = {n: v.index_select(0, which) for n, v in point.items()}
            places = torch.arange(here.start, here.stop, device=value.device).repeat_interleave(batch)
            energies = []
            for end in (self.variables[name].high, self.variables[name].low):
                changed = rows(copies[name]).scatter(1, places.unsqueeze(1), end)
                energies.append(forces.energy({**copies, name: changed.reshape(copies[name].shape)}))
            found.append((energies[0] - energies[1]).reshape(len(here), batch).t())
        return torch.cat(found, 1).reshape(value.shape)

    def differentiable(self) -> EnergyFlow:
        raise SettlingError(_NO_DERIVATIVE)

    def rebind(self, start: State, **clamp: Tensor) -> EnergyFlow:
        twin = super().rebind(start, **clamp)
        assert isinstance(twin, DiscreteFlow)
        twin._drive = None
        return twin

    def take(self, index: Tensor) -> EnergyFlow:
        taken = super().take(index)
        assert isinstance(taken, DiscreteFlow)
        taken._drive = None if self._drive is None else self._drive.index_select(1, index)
        return taken

    def over(self, forces: Forces, batch: int, each: Callable[[Tensor], Tensor]) -> EnergyFlow:
        twin = super().over(forces, batch, each)
        assert isinstance(twin, DiscreteFlow)
        twin._drive = None
        return twin


def rounding(scale: Tensor) -> Tensor:
    """The size below which a difference is rounding, where the largest is ``scale``; above zero."""
    limits = torch.finfo(scale.dtype)
    return (_ROUNDING * limits.eps * scale).clamp(min=limits.tiny)


def is_discrete(variables: Mapping[str, Variable]) -> bool:
    """Whether there are variables and all of them are discrete."""
    return bool(variables) and all(isinstance(v, Discrete) for v in variables.values())
