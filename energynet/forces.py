"""Where a flow gets its forces: from the trace, or from autograd where there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from energynet.derivation import Derivation, weighted
from energynet.dynamics import Block, Curvature, Dynamics
from energynet.energy import Conditioned, Energy, usable
from energynet.errors import SettlingError, TraceError
from energynet.hessian import Hessian
from energynet.link import Link
from energynet.programs import program_of, signature
from energynet.quadratic import Quadratic
from energynet.state import State
from energynet.trace import BoundKernel, Environment, Kernel


class Forces(ABC):
    """The force -dE/ds on the free variables of a conditioned energy, at a point of potentials.

    Attributes
    ----------
    free
        Names of the free variables, in the order of the arguments.
    work
        About how many multiplications one evaluation takes for each sample.
    """

    free: tuple[str, ...]
    work: int

    @property
    @abstractmethod
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The free variables in groups that do not read each other; all in one where nothing is known."""

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The same groups, each with its variables by kind."""

    @abstractmethod
    def force(self, point: State) -> State:
        """The force on every free variable."""

    @abstractmethod
    def some(self, names: Sequence[str], point: State) -> State:
        """The force on some of the free variables."""

    @abstractmethod
    def quadratic(self, names: Sequence[str]) -> Quadratic | None:
        """What is known of some variables together, if the energy is quadratic in them; else None."""

    @abstractmethod
    def energy(self, point: State) -> Tensor:
        """The energy of each sample."""

    @abstractmethod
    def energy_and_force(self, point: State) -> tuple[Tensor, State]:
        """Both at once, for less than one after the other."""

    @abstractmethod
    def smooth(self, point: State) -> tuple[Tensor, State]:
        """Energy and force without the terms that have a proximal map."""

    @property
    @abstractmethod
    def affine(self) -> bool:
        """Whether it is known that the smooth force is affine in the point, for every sample."""

    def hessian(self, parameters: Mapping[str, Tensor], taus: Mapping[str, float]) -> Hessian | None:
        """That of the smooth part, where it is known to depend on parameters alone; see `Dynamics`."""
        return None

    @abstractmethod
    def product(self, point: State, direction: State) -> State:
        """Minus the gradient of the force's inner product with a direction, by the point.

        The product of the Hessian and the direction where the point holds values; where it holds potentials,
        that product times the slope of the link.
        """

    @abstractmethod
    def smooth_product(self, point: State, direction: State) -> State:
        """The same without the terms that have a proximal map."""

    @abstractmethod
    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        """For each exact variable of a block its field, the force at zero; for each other one its force."""

    @abstractmethod
    def exact(self, number: int) -> tuple[Curvature, ...]:
        """The curvature of each exact variable of a block."""

    @abstractmethod
    def separable(self, number: int, point: State) -> tuple[Tensor, ...]:
        """The second derivative of the energy in each unit of each separable variable of a block."""

    @abstractmethod
    def curvature(self, name: str, point: State) -> Tensor:
        """The second derivative of the energy in each unit of a variable, if they do not read each other."""

    @abstractmethod
    def take(self, index: Tensor) -> Forces:
        """The forces on the samples of ``index``."""

    @abstractmethod
    def rebind(self, conditioned: Conditioned) -> Forces:
        """The same forces under other values of the clamp."""


@final
class TracedForces(Forces):
    """Forces by the kernels of a trace, in an environment of known values."""

    def __init__(
        self, dynamics: Dynamics, environment: Environment, eager: Callable[[], EagerForces]
    ) -> None:
        self.free = dynamics.free
        self.work = dynamics.force.work
        self.dynamics = dynamics
        self.environment = environment
        self._make_eager = eager
        self._exact: dict[int, tuple[Curvature, ...]] = {}
        self._bound: dict[Kernel, BoundKernel] = {}

    @cached_property
    def _eager(self) -> EagerForces:
        """For second derivatives that torch cannot trace, such as that of abs."""
        return self._make_eager()

    def _run(self, kernel: Kernel, *points: State) -> tuple[Tensor, ...]:
        bound = self._bound.get(kernel)
        if bound is None:
            bound = self._bound[kernel] = kernel.bind(self.environment)
        return bound(*[point[name] for point in points for name in self.free])

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return self.dynamics.groups

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.dynamics.blocks

    def force(self, point: State) -> State:
        return dict(zip(self.free, self._run(self.dynamics.force, point), strict=True))

    def some(self, names: Sequence[str], point: State) -> State:
        kernel = self.dynamics.kernel([f"force {name}" for name in names])
        return dict(zip(names, self._run(kernel, point), strict=True))

    def quadratic(self, names: Sequence[str]) -> Quadratic | None:
        return self.dynamics.quadratic(tuple(names))

    def energy(self, point: State) -> Tensor:
        return self._run(self.dynamics.energy, point)[0]

    def energy_and_force(self, point: State) -> tuple[Tensor, State]:
        return self._valued(point, "")

    def smooth(self, point: State) -> tuple[Tensor, State]:
        return self._valued(point, "smooth ")

    def _valued(self, point: State, kind: str) -> tuple[Tensor, State]:
        kernel = self.dynamics.kernel([f"{kind}energy", *(f"{kind}force {name}" for name in self.free)])
        energy, *force = self._run(kernel, point)
        return energy, dict(zip(self.free, force, strict=True))

    def product(self, point: State, direction: State) -> State:
        try:
            kernel = self.dynamics.product
        except TraceError:
            return self._eager.product(point, direction)
        return dict(zip(self.free, self._run(kernel, point, direction), strict=True))

    def smooth_product(self, point: State, direction: State) -> State:
        try:
            kernel = self.dynamics.smooth_product
        except TraceError:
            return self._eager.smooth_product(point, direction)
        return dict(zip(self.free, self._run(kernel, point, direction), strict=True))

    @property
    def affine(self) -> bool:
        return self.dynamics.affine

    def hessian(self, parameters: Mapping[str, Tensor], taus: Mapping[str, float]) -> Hessian | None:
        return self.dynamics.hessian(parameters, taus)

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        return self._run(self.dynamics.block(number), point)

    def exact(self, number: int) -> tuple[Curvature, ...]:
        found = self._exact.get(number)
        if found is None:
            found = self._exact[number] = self.dynamics.curvatures(number, self.environment)
        return found

    def separable(self, number: int, point: State) -> tuple[Tensor, ...]:
        return self._run(self.dynamics.separable(number), point)

    def curvature(self, name: str, point: State) -> Tensor:
        return self._run(self.dynamics.second((name,)), point)[0]

    @property
    def convexity(self) -> dict[int, tuple[bool, ...]]:
        """For each block whose curvatures have been asked for, which of them are positive everywhere."""
        return {number: tuple(c.convex for c in found) for number, found in self._exact.items()}

    def within(
        self,
        environment: Environment,
        convexity: Mapping[int, Sequence[bool]],
        eager: Callable[[], EagerForces],
    ) -> TracedForces:
        """The same forces in another environment.

        Parameters
        ----------
        environment
            Of the same inputs.
        convexity
            What is known of the signs of curvatures in it.
        eager
            Makes the forces that serve where a second derivative cannot be traced.
        """
        twin = TracedForces(self.dynamics, environment, eager)
        for number, convex in convexity.items():
            twin._exact[number] = self.dynamics.curvatures(number, environment, convex=convex)
        return twin

    def take(self, index: Tensor) -> TracedForces:
        # what is convex for every sample is so for some, without looking at the values again
        convex = {number: signs for number, signs in self.convexity.items() if all(signs)}
        return self.within(self.environment.take(index), convex, lambda: self._eager.take(index))

    def rebind(self, conditioned: Conditioned) -> TracedForces:
        return self.within(
            conditioned.environment(self.environment.batch), {}, lambda: self._eager.rebind(conditioned)
        )


@final
class EagerForces(Forces):
    """Forces by autograd of the scalar energy at every step, for energies that cannot be traced."""

    def __init__(self, conditioned: Conditioned, links: Mapping[str, Link]) -> None:
        self.free = tuple(conditioned.variables)
        self.work = sum(p.numel() for p in conditioned.parameters())
        if any(value.is_inference() for value in conditioned.clamp.values()):
            with torch.inference_mode(False):
                clamp = {name: usable(value) for name, value in conditioned.clamp.items()}
                conditioned = Conditioned(conditioned.base, clamp)
        self._conditioned = conditioned
        self.links = dict(links)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (self.free,)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block((), (), self.free),)

    def _state(self, point: State) -> State:
        return {n: self.links[n].value(v) if n in self.links else v for n, v in point.items()}

    def force(self, point: State) -> State:
        return self._force(point, self._conditioned.base.parts(), graph=torch.is_grad_enabled())

    def _force(self, point: State, parts: Sequence[tuple[float, Energy]], *, graph: bool) -> State:
        kinds: dict[Derivation, list[tuple[float, Energy]]] = {kind: [] for kind in Derivation}
        for factor, part in parts:
            kind = part.derivation(self.links)
            kinds[Derivation.AUTOGRAD if kind is Derivation.CLOSED else kind].append((factor, part))
        with torch.inference_mode(False), torch.enable_grad():
            state = {
                n: v if v.requires_grad else usable(v).requires_grad_() for n, v in self._state(point).items()
            }
            force = self._smooth(state, kinds[Derivation.AUTOGRAD], create_graph=graph)
            for factor, part in kinds[Derivation.POTENTIAL]:
                for name in force.keys() & part.variables:
                    force[name] = force[name] + factor * part.potential_force(point[name], state[name])
            for factor, part in kinds[Derivation.PROXIMAL]:
                for name in force.keys() & part.variables:
                    force[name] = force[name] - factor * part.slope(state[name])
        return force if graph else {name: value.detach() for name, value in force.items()}

    def _smooth(self, state: State, parts: Sequence[tuple[float, Energy]], *, create_graph: bool) -> State:
        """The force of some terms by autograd."""
        if not parts:
            return {name: torch.zeros_like(value) for name, value in state.items()}
        total = weighted(parts, {**self._conditioned.clamp, **state}).sum()
        slopes = torch.autograd.grad(
            total, list(state.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return {name: -slope for name, slope in zip(state, slopes, strict=True)}

    def some(self, names: Sequence[str], point: State) -> State:
        force = self.force(point)
        return {name: force[name] for name in names}

    def quadratic(self, names: Sequence[str]) -> None:
        return None

    def energy(self, point: State) -> Tensor:
        return self._conditioned.energy(**self._state(point))

    def energy_and_force(self, point: State) -> tuple[Tensor, State]:
        return self.energy(point), self.force(point)

    def _smooth_parts(self) -> list[tuple[float, Energy]]:
        proximal = Derivation.PROXIMAL
        return [p for p in self._conditioned.base.parts() if p[1].derivation(self.links) is not proximal]

    def smooth(self, point: State) -> tuple[Tensor, State]:
        parts = self._smooth_parts()
        force = self._force(point, parts, graph=torch.is_grad_enabled())
        if not parts:
            return torch.zeros_like(self.energy(point)), force
        return weighted(parts, {**self._conditioned.clamp, **self._state(point)}), force

    @property
    def affine(self) -> bool:
        return False

    def product(self, point: State, direction: State) -> State:
        return self._product(point, direction, self._conditioned.base.parts())

    def smooth_product(self, point: State, direction: State) -> State:
        return self._product(point, direction, self._smooth_parts())

    def _product(self, point: State, direction: State, parts: Sequence[tuple[float, Energy]]) -> State:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: usable(value).requires_grad_() for name, value in point.items()}
            force = self._force(leaves, parts, graph=True)
            curved = [name for name in self.free if force[name].requires_grad]
            if not curved:  # a linear energy
                return {name: torch.zeros_like(value) for name, value in point.items()}
            slopes = torch.autograd.grad(
                [force[name] for name in curved],
                [leaves[name] for name in self.free],
                [direction[name] for name in curved],
                allow_unused=True,
                materialize_grads=True,
            )
        return {name: -slope for name, slope in zip(self.free, slopes, strict=True)}

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        force = self.force(point)
        return tuple(force[name] for name in self.free)

    def exact(self, number: int) -> tuple[Curvature, ...]:
        return ()

    def separable(self, number: int, point: State) -> tuple[Tensor, ...]:
        return ()

    def curvature(self, name: str, point: State) -> Tensor:
        raise SettlingError(f"the energy cannot be traced, so that its curvature in {name!r} is not known")

    def take(self, index: Tensor) -> EagerForces:
        clamp = {name: value.index_select(0, index) for name, value in self._conditioned.clamp.items()}
        return EagerForces(Conditioned(self._conditioned.base, clamp), self.links)

    def rebind(self, conditioned: Conditioned) -> EagerForces:
        return EagerForces(conditioned, self.links)


def forces_of(
    conditioned: Conditioned, links: Mapping[str, Link], point: State, batch: int, *, differentiable: bool
) -> TracedForces:
    """The traced forces of a conditioned energy at points like ``point``.

    Raises
    ------
    TraceError
        If the energy cannot be traced.
    """
    program = program_of(conditioned.base, signature({**conditioned.clamp, **point}))
    free = tuple(conditioned.variables)
    key = ("dynamics", free, tuple(links.items()))
    if key not in program.facts:
        program.facts[key] = Dynamics(program, conditioned.base, free, links)
    environment = conditioned.environment(batch, fresh=differentiable)
    return TracedForces(program.facts[key], environment, lambda: EagerForces(conditioned, links))
