"""The flow that samplers of single units follow: what changing a unit does, given all the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.couplings import Couplings
from energynet.energies import by_energies, by_features
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.forces import Forces
from energynet.link import Link
from energynet.overlaps import FeatureEnergy
from energynet.state import State
from energynet.trace import parameters_of
from energynet.units import Graded, Linked, Listed, Pair, Units, rounding, units_of
from energynet.variable import Discrete, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float

_NO_DERIVATIVE = (
    "values that jump have no derivative by the parameters; use a rule that contrasts samples instead, "
    "such as ContrastiveDivergence, or continuous variables"
)
_WAY_OUT = "clamp it, or use a sampler of continuous variables such as Langevin with the others clamped"


class Kind(Enum):
    """How the units of a variable are updated."""

    SEPARATE = "all at once, by the force at one value"
    COUPLED = "by the matrix of their couplings"
    OTHER = "by energies"


@final
class ConditionalFlow(EnergyFlow):
    """The field on each unit, given all others as they are: what `Gibbs` and `Glauber` draw units by.

    A point holds the values, of variables with a link the potentials. Where the trace shows that the energy
    is quadratic in a variable, the field on a two-valued unit is the force at the midpoint times the distance
    of its two values, which is exact, as are the force at 1/2 for the entries of a choice, and the force at
    zero and the curvature for a graded unit; units that do not read each other are evaluated together.
    Otherwise the energies of the values of a discrete unit are compared.

    Raises
    ------
    SettlingError
        If the energy is not quadratic in a continuous variable that is free.
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
        self.units: dict[str, Units] = {}
        super().__init__(energy, clamp, state, generator=generator)
        self._kinds: dict[str, Kind] = {}
        self._drive: Tensor | None = None
        for name, units in self.units.items():
            if isinstance(units, Graded | Linked) and self.kind(name) is Kind.OTHER:
                leak = "" if isinstance(units, Graded) else ", but for a Leak through its link,"
                raise SettlingError(
                    f"Gibbs and Glauber draw units of a continuous variable from normal distributions; the "
                    f"trace does not show that the energy{leak} is quadratic in {name!r}, which is "
                    f"{self.variables[name]!r}, with couplings of its units that depend on parameters alone: "
                    f"{_WAY_OUT}"
                )

    def _links(self) -> dict[str, Link]:
        return {name: v.link for name, v in self.variables.items() if v.link is not None}

    def _admit(self, name: str, variable: Variable) -> None:
        self.units[name] = units_of(name, variable)

    def check_curvature(self, point: State) -> None:
        """Raise `SettlingError` where the energy has no minimum in a graded unit given all others."""
        for name in self.names:
            curvature = self.curvature(name, point)
            if curvature is not None and not bool((curvature > 0).all()):
                raise SettlingError(
                    f"variable {name!r}: given all others its units have no normal distribution, for the "
                    f"curvature of the energy in them is not positive, but {float(curvature.min()) + 0.0:g}; "
                    f"add a Leak, or {_WAY_OUT}"
                )

    def _forces(self, differentiable: bool) -> Forces:
        self.conditioned.shared = True  # the couplings are kept between calls, too
        return super()._forces(differentiable)

    def fields(self, point: State) -> State:
        """The field on every entry, given all others: E(low) - E(high) for two-valued units.

        For a choice it is what each entry lowers the energy by, up to a number that all entries of a unit
        share; for a graded unit the force at zero.
        """
        found: State = {}
        for group in self.forces.groups:
            found.update(self.gaps([name for name in group if self.kind(name) is Kind.SEPARATE], point))
            for name in group:
                if self.kind(name) is Kind.COUPLED:
                    found[name] = self._coupled(name, point)
                elif self.kind(name) is Kind.OTHER:
                    found[name] = self._compared(name, point)
        return {name: found[name] for name in self.names}

    def velocity(self, point: State) -> State:
        """The energy that changing each unit would release: positive where that lowers it; 0 where held.

        Of a two-valued unit it is that of flipping it, of an entry of a choice that of choosing it, of a
        graded unit that of going to the minimum.
        """
        result: State = {}
        for name, field in self.fields(point).items():
            units, value = self.units[name], point[name]
            released = units.released(rows(field).t(), self.curvature(name, point), units.code(value))
            released = released.t().reshape(value.shape)
            result[name] = released.masked_fill(self.held[name], 0.0) if name in self.held else released
        return result

    def residual(self, point: State, velocity: State) -> Float[Tensor, batch]:
        """The most that changing one unit would release; 0 where that is no more than rounding."""
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
            if isinstance(self.units[name], Linked):
                exact = any(name in block.exact for block in self.forces.blocks)
                self._kinds[name] = Kind.SEPARATE if exact else Kind.OTHER
            elif known is not None and known.separate:
                self._kinds[name] = Kind.SEPARATE
            else:
                self._kinds[name] = Kind.OTHER if self.couplings((name,)) is None else Kind.COUPLED
        return self._kinds[name]

    @property
    def courses(self) -> tuple[tuple[str, ...], ...]:
        """The variables by whether their units can be updated in one order: all two-valued ones can."""
        pairs = tuple(name for name in self.names if isinstance(self.units[name], Pair))
        others = [(name,) for name in self.names if name not in pairs]
        return (pairs, *others) if pairs else tuple(others)

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
        return known.couplings(parameters_of(self.conditioned.base), self.units)

    def curvature(self, name: str, point: State) -> Float[Tensor, units * batch] | None:
        """The second derivative of the energy in graded units; None for discrete ones.

        Of units with a link it is the rate at which the force falls with the potential.
        """
        if not isinstance(self.units[name], Graded | Linked):
            return None
        if self.kind(name) is Kind.SEPARATE:
            return rows(self.forces.curvature(name, point).expand(point[name].shape)).t()
        couplings = self.couplings((name,))
        assert couplings is not None
        return -couplings.own.unsqueeze(1)

    def gaps(self, names: Sequence[str], point: State) -> State:
        """The field on every entry of variables whose units do not read each other."""
        if not names:
            return {}
        middle = {name: torch.full_like(point[name], self.units[name].middle) for name in names}
        found = self.forces.some(names, {**point, **middle})
        forces = {name: force.detach() for name, force in found.items()}  # what jumps has no derivative
        widths = {name: self.units[name].width for name in names}
        return {name: force if widths[name] == 1 else force * widths[name] for name, force in forces.items()}

    def drive(self, names: Sequence[str], point: State) -> Float[Tensor, units * batch]:
        """The field on every entry of coupled variables while all codes of theirs are zero.

        One column for each sample, or a single one for all of them where these are all variables there are.
        """
        whole = tuple(names) == self.names
        if whole and self._drive is not None:
            return self._drive
        couplings = self.couplings(names)
        assert couplings is not None
        forces = self.forces
        if whole and self.batch and not self.conditioned.clamp:
            first = torch.zeros(1, dtype=torch.int64, device=couplings.own.device)
            forces, point = forces.take(first), {name: point[name][:1] for name in names}
        units = [self.units[name] for name in names]
        origin = {name: torch.full_like(point[name], self.units[name].origin) for name in names}
        force = forces.some(names, {**point, **origin})
        own = couplings.own
        half = torch.cat([own.new_full((one.size,), one.middle - one.origin) for one in units])
        width = torch.cat([own.new_full((one.size,), one.width) for one in units])
        columns = torch.cat([rows(force[name]).detach() for name in names], 1).t().contiguous()
        drive = (columns + (own * half).unsqueeze(1)) * width.unsqueeze(1)
        if whole:  # it depends on nothing that moves
            self._drive = drive
        return drive

    def code(self, names: Sequence[str], point: State) -> Float[Tensor, units * batch]:
        """Some variables in the terms that couplings are written in; one row for each entry."""
        each = [self.units[name].code(point[name]) for name in names]
        return each[0].contiguous() if len(each) == 1 else torch.cat(each)

    def unpacked(self, names: Sequence[str], code: Tensor, like: State) -> State:
        """The values that a code stands for."""
        parts = code.split([self.units[name].size for name in names])
        return {
            name: self.units[name].value(part, like[name]) for name, part in zip(names, parts, strict=True)
        }

    def fixed(self, names: Sequence[str]) -> Tensor | None:
        """Which entries are held, ``(entries, batch)``; None where none of the variables is held in part."""
        if not any(name in self.held for name in names):
            return None
        masks = [self.held.get(name, torch.zeros_like(self.start[name], dtype=torch.bool)) for name in names]
        return torch.cat([rows(mask) for mask in masks], 1).t()

    def _coupled(self, name: str, point: State) -> Tensor:
        couplings, units = self.couplings((name,)), self.units[name]
        assert couplings is not None
        value = point[name]
        if units.entries > 1:
            every = torch.arange(units.size, device=value.device)
            field = self.drive((name,), point) + couplings.pull(every, self.code((name,), point))
            return field.t().reshape(value.shape)
        force = self.forces.some((name,), point)[name]
        if not couplings.hollow:
            force = force + couplings.own.reshape(value.shape[1:]) * (units.middle - value)
        return force * units.width

    def _compared(self, name: str, point: State) -> Tensor:
        units, featured = self.units[name], self.featured
        assert isinstance(units, Listed)
        if featured is not None and isinstance(units, Pair):
            return by_features(*featured, units, point[name])
        return by_energies(self.forces, units, name, point)

    def differentiable(self) -> EnergyFlow:
        raise SettlingError(_NO_DERIVATIVE)

    def rebind(self, start: State, **clamp: Tensor) -> EnergyFlow:
        twin = super().rebind(start, **clamp)
        assert isinstance(twin, ConditionalFlow)
        twin._drive = None
        return twin

    def take(self, index: Tensor) -> EnergyFlow:
        taken = super().take(index)
        assert isinstance(taken, ConditionalFlow)
        if self._drive is not None and self._drive.shape[1] > 1:
            taken._drive = self._drive.index_select(1, index)
        else:
            taken._drive = self._drive
        return taken

    def over(self, forces: Forces, batch: int, each: Callable[[Tensor], Tensor]) -> EnergyFlow:
        twin = super().over(forces, batch, each)
        assert isinstance(twin, ConditionalFlow)
        twin._drive = None
        return twin


def is_discrete(variables: Mapping[str, Variable]) -> bool:
    """Whether there are variables and all of them are discrete."""
    return bool(variables) and all(isinstance(v, Discrete) for v in variables.values())
