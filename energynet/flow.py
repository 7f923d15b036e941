"""Flows: from the force on values to the velocity of what is integrated.

Gradient flow integrates the values themselves, ``tau ds/dt = -dE/ds``, projected onto their domains.
Mirror flow integrates a potential u of each variable that has a link, ``tau du/dt = -dE/da`` at
``a = link(u)``: the dynamics of Hopfield (1984, eq. 5) and of LCA (Rozell et al. 2008, eq. 2.3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.clamp import Clamp, Partial, common, split
from energynet.derivation import Derivation
from energynet.energy import Energy, ProximalTerm
from energynet.errors import SettlingError, TraceError
from energynet.forces import EagerForces, Forces, forces_of
from energynet.hessian import Hessian
from energynet.link import Link
from energynet.programs import note_fallback
from energynet.state import State
from energynet.trace import parameters_of
from energynet.variable import Continuous, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float


class Flow(ABC):
    """What a solver advances: a velocity of a point, for a batch of samples.

    A point is a dict of tensors ``(batch, *shape)``, one for each free variable: its potential where the
    flow integrates one, else its value.

    Attributes
    ----------
    names
        The free variables.
    """

    names: tuple[str, ...]

    @abstractmethod
    def velocity(self, point: State) -> State:
        """The time derivative of the point, in units of 1 over the solver's time."""

    @abstractmethod
    def project(self, point: State) -> State:
        """The nearest point whose values are in their domains."""

    @abstractmethod
    def values(self, point: State) -> State:
        """The values of the free variables at a point."""

    @abstractmethod
    def residual(self, point: State, velocity: State) -> Float[Tensor, batch]:
        """The largest entry of the velocity of each sample, less what pushes against the end of a domain."""

    @abstractmethod
    def take(self, index: Tensor) -> Flow:
        """The flow of the samples of ``index``."""


class EnergyFlow(Flow):
    """A flow down an energy.

    Parameters
    ----------
    energy
        Of every variable, or already conditioned on some.
    clamp
        Variables that are held, whole or in part.
    state
        Values of free variables to start from; the others start from their domain's initial value.
    generator
        For initial values that are random.
    differentiable
        Keep the autograd graph from the clamp and the parameters to every velocity.

    Attributes
    ----------
    conditioned
        The energy of the free variables.
    start
        The point to start from.
    forces
        Where the forces come from.
    proximal
        For a variable in whose values exactly one term has a proximal map, its factor and the term.
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
        whole, held = split(energy, clamp or {})
        self.conditioned = energy.condition(**whole)
        self.names = tuple(self.conditioned.variables)
        self.variables = dict(self.conditioned.variables)
        for name, variable in self.variables.items():
            self._admit(name, variable)
        if not self.names:
            raise SettlingError(
                f"every variable of {energy} is clamped, so there is nothing to settle; leave one free"
            )
        self.links = self._links()
        self.proximal = self._proximal()
        given = {name: value for name, value in (state or {}).items() if name in self.variables}
        unknown = set(state or {}) - set(self.conditioned.base.variables)
        if unknown:
            self.conditioned.base.check({name: (state or {})[name] for name in unknown}, partial=True)
        self.held = {name: part.full_mask for name, part in held.items()}
        self._exactly: State = {}
        self.start = self._start(given, held, generator)
        self.batch = len(next(iter(self.start.values())))
        self.forces = self._forces(differentiable)
        self._repeated: tuple[Forces, int, EnergyFlow] | None = None

    def _admit(self, name: str, variable: Variable) -> None:
        """Raise `SettlingError` if this flow cannot move a variable."""
        if not isinstance(variable, Continuous):
            raise SettlingError(
                f"{type(self).__name__} cannot move {name!r}, which is {variable!r}: with a few values it "
                "has no direction to move in; clamp it, or use Gibbs() or Glauber(), which move continuous "
                "variables beside it if the energy is quadratic in them"
            )

    def _links(self) -> dict[str, Link]:
        return {}

    def _proximal(self) -> dict[str, tuple[float, ProximalTerm]]:
        found: dict[str, list[tuple[float, ProximalTerm]]] = {}
        for factor, part in self.conditioned.base.parts():
            if isinstance(part, ProximalTerm) and part.derivation(self.links) is Derivation.PROXIMAL:
                found.setdefault(part.variable, []).append((factor, part))
        return {
            n: terms[0]
            for n, terms in found.items()
            if n in self.names and len(terms) == 1 and terms[0][0] > 0
        }

    def _forces(self, differentiable: bool) -> Forces:
        try:
            return forces_of(
                self.conditioned, self.links, self.start, self.batch, differentiable=differentiable
            )
        except TraceError as error:
            note_fallback(self.conditioned.base, error)
            return EagerForces(self.conditioned, self.links)

    def _start(self, given: State, held: Mapping[str, Partial], generator: torch.Generator | None) -> State:
        conditioned = self.conditioned
        filled = {name: part.filled(self.variables[name]) for name, part in held.items()}
        conditioned.check({**given, **filled}, partial=True)
        known = {**conditioned.clamp, **given, **filled}
        batch, reference = common(conditioned.base, known)
        start: State = {}
        for name, variable in self.variables.items():
            value = given.get(name)
            if value is None:
                value = variable.initial(
                    batch, dtype=reference.dtype, device=reference.device, generator=generator
                )
            if name in held:
                value = torch.where(self.held[name], filled[name], value)
                if name in self.links:  # a link rounds, and does not reach the ends of its range
                    self._exactly[name] = value
            start[name] = self.links[name].potential(value) if name in self.links else value
        return start

    def velocity(self, point: State) -> State:
        return self.velocity_from(self.forces.force(point))

    def velocity_from(self, force: State) -> State:
        """The velocity that a force gives: divided by the time constant, zero where clamped."""
        for name, variable in self.variables.items():
            if variable.tau != 1:
                force[name] = force[name] / variable.tau
            if name in self.held:
                force[name] = force[name].masked_fill(self.held[name], 0.0)
        return force

    def project(self, point: State) -> State:
        return {n: v if n in self.links else self.variables[n].project(v) for n, v in point.items()}

    def values(self, point: State) -> State:
        state = {n: self.links[n].value(v) if n in self.links else v for n, v in point.items()}
        for name, value in self._exactly.items():
            state[name] = torch.where(self.held[name], value, state[name])
        return state

    def energy(self, point: State) -> Float[Tensor, batch]:
        """The energy of each sample."""
        return self.forces.energy(point)

    def hessian(self) -> Hessian | None:
        """That of the smooth part, where the trace shows that it depends on parameters alone; else None."""
        taus = {name: variable.tau for name, variable in self.variables.items()}
        return self.forces.hessian(parameters_of(self.conditioned.base), taus)

    def residual(self, point: State, velocity: State) -> Tensor:
        return largest(self.inward(point, velocity))

    def inward(self, point: State, velocity: State) -> State:
        """The velocity, less what pushes against the end of a domain within one unit of time.

        Where a term has a proximal map it is the step of forward-backward splitting instead, which vanishes
        where zero is a subgradient.
        """
        smooth = dict(velocity)
        for name, (factor, term) in self.proximal.items():
            smooth[name] = velocity[name] + (factor / self.variables[name].tau) * term.slope(point[name])
        return self.split(point, smooth)

    def split(self, point: State, smooth: State) -> State:
        """What `inward` is, from the velocity without the terms that have a proximal map."""
        result = dict(smooth)
        for name, variable in self.variables.items():
            if name in self.proximal or (name not in self.links and variable.bounded):
                result[name] = self._moved(name, point[name], smooth[name], 1.0) - point[name]
        return result

    def forward_backward(self, point: State, smooth: State, dt: float | Tensor) -> State:
        """A step with the velocity of the smooth part, then the proximal maps and the domains.

        It is the minimum of dt * (smooth part to first order + rest) + <change, change>_w / 2 within the
        domains: for each unit, a convex function is least over an interval where its minimum is projected.

        Parameters
        ----------
        point
            Entries that are held stay as they are.
        smooth
            The velocity without the terms that have a proximal map.
        dt
            In units of the time constants: one number, or one for each sample, ``(batch,)``.
        """
        return {name: self._moved(name, point[name], smooth[name], dt) for name in self.variables}

    def backward(self, point: State, dt: float | Tensor) -> State:
        """The proximal maps and the domains alone, the last part of `forward_backward`."""
        return {name: self._mapped(name, value, _paced(dt, value)) for name, value in point.items()}

    def _moved(self, name: str, value: Tensor, velocity: Tensor, dt: float | Tensor) -> Tensor:
        pace = _paced(dt, value)
        if isinstance(pace, Tensor):
            moved = torch.addcmul(value, velocity, pace)
        else:
            moved = torch.add(value, velocity, alpha=pace)
        moved = self._mapped(name, moved, pace)
        return torch.where(self.held[name], value, moved) if name in self.held else moved

    def _mapped(self, name: str, value: Tensor, pace: float | Tensor) -> Tensor:
        variable = self.variables[name]
        if name in self.proximal:
            factor, term = self.proximal[name]
            value = term.proximal(value, pace * (factor / variable.tau))
        return value if name in self.links else variable.project(value)

    def metric(self, point: State) -> State:
        """The weight of each unit in <velocity, change> such that the sum is minus the change of the energy.

        The time constant, times the slope of the link where a potential is integrated. In its inner product
        the Jacobian of the velocity is symmetric, for either flow.
        """
        result: State = {}
        for name, variable in self.variables.items():
            value = point[name]
            slope = self.links[name].slope(value) if name in self.links else torch.ones_like(value)
            result[name] = slope if variable.tau == 1 else slope * variable.tau
        return result

    def mobility(self, point: State) -> State:
        """The derivative of the value by what is integrated: 0 where a unit is held or at its end."""
        result: State = {}
        for name, variable in self.variables.items():
            value = point[name]
            if name in self.links:
                slope = self.links[name].slope(value.detach())
            else:
                slope = ((value > variable.low) & (value < variable.high)).to(value.dtype)
            result[name] = slope.masked_fill(self.held[name], 0.0) if name in self.held else slope
        return result

    def differentiable(self) -> EnergyFlow:
        """The same flow with an autograd graph from the clamp and the parameters to every velocity."""
        twin = object.__new__(self.__class__)
        vars(twin).update(vars(self))
        twin.forces = self._forces(differentiable=True)
        return twin

    def rebind(self, start: State, **clamp: Tensor) -> EnergyFlow:
        """The same flow from another point, with other values for variables clamped last.

        For phases that differ in one number, such as the strength of a nudge: nothing that depends on the
        rest is computed again. The values are not checked.
        """
        twin = object.__new__(self.__class__)
        vars(twin).update(vars(self))
        twin.conditioned = self.conditioned.rebind(clamp)
        twin.forces = self.forces.rebind(twin.conditioned)
        twin.start = start
        return twin

    def starting(self, values: State) -> EnergyFlow:
        """The same flow from other values of some variables, which are not checked."""
        twin = object.__new__(self.__class__)
        vars(twin).update(vars(self))
        twin.start = {
            **self.start,
            **{n: self.links[n].potential(v) if n in self.links else v for n, v in values.items()},
        }
        return twin

    def take(self, index: Tensor) -> EnergyFlow:
        return self.over(self.forces.take(index), index.shape[0], lambda value: value.index_select(0, index))

    def over(self, forces: Forces, batch: int, each: Callable[[Tensor], Tensor]) -> EnergyFlow:
        """The same flow of another batch, with other forces and a function of each of its other tensors."""
        twin = object.__new__(self.__class__)
        vars(twin).update(vars(self))
        twin.forces = forces
        twin.held = {name: each(mask) for name, mask in self.held.items()}
        twin._exactly = {name: each(value) for name, value in self._exactly.items()}
        twin.start = {name: each(value) for name, value in self.start.items()}
        twin.batch = batch
        return twin

    def repeat(self, times: int) -> EnergyFlow:
        """The flow of each sample several times in a row; made once, then kept."""
        made = self._repeated
        if made is None or made[0] is not self.forces or made[1] != times:
            like = next(iter(self.start.values()))
            index = torch.arange(self.batch, device=like.device).repeat_interleave(times)
            made = self._repeated = (self.forces, times, self.take(index))
        return made[2]


def _paced(dt: float | Tensor, like: Tensor) -> float | Tensor:
    """A step that broadcasts: one number, or one for each sample."""
    return dt.reshape(-1, *[1] * (like.ndim - 1)) if isinstance(dt, Tensor) and dt.ndim else dt


def largest(change: State) -> Tensor:
    """The largest entry of each sample, in magnitude."""
    found = [rows(value.abs()).amax(1) for value in change.values()]
    return found[0] if len(found) == 1 else torch.stack(found).amax(0)


@final
class GradientFlow(EnergyFlow):
    """tau ds/dt = -dE/ds, projected onto the domains; links are not used."""


@final
class MirrorFlow(EnergyFlow):
    """tau du/dt = -dE/da at a = link(u) for variables with a link; gradient flow for the others."""

    def _links(self) -> dict[str, Link]:
        return {name: v.link for name, v in self.variables.items() if v.link is not None}
