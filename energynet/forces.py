"""Where a flow gets its forces: from the trace, or from autograd where there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from energynet.derivation import Derivation, forces, weighted
from energynet.energy import Conditioned, Energy, usable
from energynet.errors import TraceError
from energynet.link import Link
from energynet.programs import program_of, signature
from energynet.state import State
from energynet.trace import (
    BoundKernel,
    Combination,
    Environment,
    Kernel,
    Program,
    Traced,
    curvature,
    dependence,
)


@dataclass(frozen=True)
class Block:
    """Variables that do not read each other's force, so that they may move at the same time.

    Attributes
    ----------
    exact
        Variables whose every unit has a quadratic energy given the rest: the minimum is in closed form.
    separable
        Variables whose units do not read each other, with some other energy in each unit.
    coupled
        Variables whose units read each other, or about which nothing is known.
    """

    exact: tuple[str, ...]
    separable: tuple[str, ...]
    coupled: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.exact + self.separable + self.coupled


@dataclass(frozen=True, eq=False)
class Curvature:
    """The second derivative of the energy in each unit, where it does not depend on the unit.

    Attributes
    ----------
    value
        One number, or one for each unit.
    convex
        Whether it is positive everywhere.
    """

    value: Tensor | float
    convex: bool


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
    def blocks(self) -> tuple[Block, ...]:
        """A partition of the free variables into blocks."""

    @abstractmethod
    def force(self, point: State) -> State:
        """The force on every free variable."""

    @abstractmethod
    def energy(self, point: State) -> Tensor:
        """The energy of each sample."""

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
    def take(self, index: Tensor) -> Forces:
        """The forces on the samples of ``index``."""

    @abstractmethod
    def rebind(self, conditioned: Conditioned) -> Forces:
        """The same forces under other values of the clamp."""


class _Dynamics:
    """What the trace of a flow tells, whatever the values of its inputs."""

    def __init__(self, program: Program, energy: Energy, free: tuple[str, ...], links: Mapping[str, Link]):
        self._program = program
        self._key = ("flow", free, tuple(links.items()))
        self._function = forces(energy, free, links)
        self.free = free
        self.rates: dict[str, Combination] = {}
        self.force = self._kernel([f"force {name}" for name in free])
        self.energy = self._kernel(["energy"])
        self._block: dict[int, Kernel] = {}

    def _kernel(self, outputs: Sequence[str], zero: Sequence[str] = ()) -> Kernel:
        return self._program.kernel(self._key, self._function, outputs, self.free, zero)

    def block(self, number: int) -> Kernel:
        """The fields of the exact variables, the forces on the others."""
        if number not in self._block:
            block = self.blocks[number]
            self._block[number] = self._kernel([f"force {name}" for name in block.names], block.exact)
        return self._block[number]

    def separable(self, number: int) -> Kernel:
        """The curvature of the separable variables."""
        return self._curvature_kernel(self.blocks[number].separable)

    def _curvature_kernel(self, names: tuple[str, ...]) -> Kernel:
        function = self._function

        def second(point: State) -> State:
            result = {}
            for name in names:

                def total(moving: Tensor, name: str = name) -> Tensor:
                    return function({**point, name: moving})[f"force {name}"].sum()

                result[name] = -torch.func.grad(total)(point[name])
            return result

        return self._program.kernel((*self._key, "curvature", names), second, names, self.free)

    def _curvature_traces(self, name: str) -> bool:
        """Whether the second derivative can be traced; torch fixes the size of the batch in that of abs."""
        try:
            self._curvature_kernel((name,))
        except TraceError:
            return False
        return True

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The colours of the graph of couplings, each with its variables by kind."""
        traced = self._program.traced(self._key, self._function)
        blocks = []
        for group in _colour(traced, self.free):
            kinds: dict[str, list[str]] = {"exact": [], "separable": [], "coupled": []}
            for name in group:
                output = f"force {name}"
                if dependence(traced, output, name) == "mixed":
                    kinds["coupled"].append(name)
                    continue
                rate = curvature(traced, output, name)
                if rate is not None:
                    kinds["exact"].append(name)
                    self.rates[name] = rate
                elif self._curvature_traces(name):
                    kinds["separable"].append(name)
                else:
                    kinds["coupled"].append(name)
            blocks.append(Block(*(tuple(kinds[kind]) for kind in ("exact", "separable", "coupled"))))
        return tuple(blocks)

    def curvatures(
        self, number: int, environment: Environment, *, convex: bool | None = None
    ) -> tuple[Curvature, ...]:
        """The curvature of the exact variables of a block; ``convex`` tells its sign where that is known."""
        found = []
        for name in self.blocks[number].exact:
            rate = self.rates[name]
            if rate.uniform:
                found.append(Curvature(rate.constant, rate.constant > 0))
            else:
                value = environment.get(self._program.node(rate))
                found.append(Curvature(value, bool((value > 0).all()) if convex is None else convex))
        return tuple(found)


def _colour(traced: Traced, free: Sequence[str]) -> list[list[str]]:
    """Colour the graph of couplings greedily, in the order of declaration: chains get two colours."""
    reads = {
        name: {other for other in free if dependence(traced, f"force {name}", other) != "none"}
        for name in free
    }
    groups: list[list[str]] = []
    for name in free:
        for group in groups:
            if all(other not in reads[name] and name not in reads[other] for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


@final
class TracedForces(Forces):
    """Forces by the kernels of a trace, in an environment of known values."""

    def __init__(self, dynamics: _Dynamics, environment: Environment) -> None:
        self.free = dynamics.free
        self.work = dynamics.force.work
        self._dynamics = dynamics
        self._environment = environment
        self._block: dict[int, BoundKernel] = {}
        self._exact: dict[int, tuple[Curvature, ...]] = {}
        self._force: BoundKernel | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self._dynamics.blocks

    def force(self, point: State) -> State:
        if self._force is None:
            self._force = self._dynamics.force.bind(self._environment)
        results = self._force(*[point[name] for name in self.free])
        return dict(zip(self.free, results, strict=True))

    def energy(self, point: State) -> Tensor:
        return self._dynamics.energy.bind(self._environment)(*[point[name] for name in self.free])[0]

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        kernel = self._block.get(number)
        if kernel is None:
            kernel = self._block[number] = self._dynamics.block(number).bind(self._environment)
        return kernel(*[point[name] for name in self.free])

    def exact(self, number: int) -> tuple[Curvature, ...]:
        found = self._exact.get(number)
        if found is None:
            found = self._exact[number] = self._dynamics.curvatures(number, self._environment)
        return found

    def separable(self, number: int, point: State) -> tuple[Tensor, ...]:
        kernel = self._dynamics.separable(number).bind(self._environment)
        return kernel(*[point[name] for name in self.free])

    def take(self, index: Tensor) -> TracedForces:
        taken = TracedForces(self._dynamics, self._environment.take(index))
        for number, found in self._exact.items():
            if all(curvature.convex for curvature in found):
                # what is convex for every sample is so for some, without looking at the values again
                taken._exact[number] = self._dynamics.curvatures(number, taken._environment, convex=True)
        return taken

    def rebind(self, conditioned: Conditioned) -> TracedForces:
        return TracedForces(self._dynamics, conditioned.environment(self._environment.batch))


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
        self._links = dict(links)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block((), (), self.free),)

    def _state(self, point: State) -> State:
        return {n: self._links[n].value(v) if n in self._links else v for n, v in point.items()}

    def force(self, point: State) -> State:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            state = {
                n: v if v.requires_grad else usable(v).requires_grad_() for n, v in self._state(point).items()
            }
            force = self._smooth(state, create_graph=keep)
            for factor, part in self._conditioned.base.parts():
                if self._from_potential(part):
                    for name in force.keys() & part.variables:
                        force[name] = force[name] + factor * part.potential_force(point[name], state[name])
        return force

    def _smooth(self, state: State, *, create_graph: bool) -> State:
        """The force of the terms whose force is not known from the potential."""
        parts = [p for p in self._conditioned.base.parts() if not self._from_potential(p[1])]
        if not parts:
            return {name: torch.zeros_like(value) for name, value in state.items()}
        total = weighted(parts, {**self._conditioned.clamp, **state}).sum()
        slopes = torch.autograd.grad(
            total, list(state.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return {name: -slope for name, slope in zip(state, slopes, strict=True)}

    def _from_potential(self, part: Energy) -> bool:
        return part.derivation(self._links) is Derivation.POTENTIAL

    def energy(self, point: State) -> Tensor:
        return self._conditioned.energy(**self._state(point))

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        force = self.force(point)
        return tuple(force[name] for name in self.free)

    def exact(self, number: int) -> tuple[Curvature, ...]:
        return ()

    def separable(self, number: int, point: State) -> tuple[Tensor, ...]:
        return ()

    def take(self, index: Tensor) -> EagerForces:
        clamp = {name: value.index_select(0, index) for name, value in self._conditioned.clamp.items()}
        return EagerForces(Conditioned(self._conditioned.base, clamp), self._links)

    def rebind(self, conditioned: Conditioned) -> EagerForces:
        return EagerForces(conditioned, self._links)


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
        program.facts[key] = _Dynamics(program, conditioned.base, free, links)
    return TracedForces(program.facts[key], conditioned.environment(batch, fresh=differentiable))
