"""Where a flow gets its forces: from the trace, or from autograd where there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from energynet.energy import Conditioned, State, forces, usable
from energynet.errors import TraceError
from energynet.link import Link
from energynet.programs import program_of, signature
from energynet.trace import BoundKernel, Environment, Program, Traced, curvature, dependence


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


class Forces(ABC):
    """The force -dE/ds on the free variables of a conditioned energy, at a point of potentials.

    Attributes
    ----------
    free
        Names of the free variables, in the order of the arguments.
    blocks
        A partition of them into blocks.
    """

    free: tuple[str, ...]
    blocks: tuple[Block, ...]

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
    def block_curvature(self, number: int, point: State) -> tuple[Tensor | float, ...]:
        """The second derivative in each unit, for the exact and the separable variables of a block."""

    @abstractmethod
    def convex(self, name: str) -> bool:
        """Whether the energy is convex in each unit of an exact variable."""

    @abstractmethod
    def take(self, index: Tensor) -> Forces:
        """The forces on the samples of ``index``."""


@final
class TracedForces(Forces):
    """Forces by the kernels of a trace.

    Raises
    ------
    TraceError
        If the energy cannot be traced.
    """

    def __init__(
        self,
        program: Program,
        conditioned: Conditioned,
        links: Mapping[str, Link],
        environment: Environment,
    ) -> None:
        self.free = tuple(conditioned.variables)
        self._program = program
        self._environment = environment
        self._conditioned = conditioned
        self._links = dict(links)
        self._key = ("flow", self.free, tuple(links.items()))
        self._function = forces(conditioned.base, self.free, links)
        self._bound: dict[object, BoundKernel] = {}
        self._convex: dict[str, bool] = {}
        self._force_names = [f"force {name}" for name in self.free]
        self.blocks = self._structure()

    def _kernel(self, outputs: Sequence[str], zero: Sequence[str] = ()) -> BoundKernel:
        key = (tuple(outputs), tuple(zero))
        if key not in self._bound:
            kernel = self._program.kernel(self._key, self._function, outputs, self.free, zero)
            self._bound[key] = kernel.bind(self._environment)
        return self._bound[key]

    def _arguments(self, point: State) -> list[Tensor]:
        return [point[name] for name in self.free]

    def force(self, point: State) -> State:
        results = self._kernel(self._force_names)(*self._arguments(point))
        return dict(zip(self.free, results, strict=True))

    def energy(self, point: State) -> Tensor:
        return self._kernel(["energy"])(*self._arguments(point))[0]

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        block = self.blocks[number]
        kernel = self._kernel([f"force {name}" for name in block.names], block.exact)
        return kernel(*self._arguments(point))

    @cached_property
    def _exact_curvature(self) -> dict[str, Tensor | float]:
        result: dict[str, Tensor | float] = {}
        traced = self._program.traced(self._key, self._function)
        for name in self.free:
            rate = curvature(traced, f"force {name}", name)
            if rate is not None:
                result[name] = (
                    rate.constant if rate.uniform else self._environment.get(traced.builder.node(rate))
                )
        return result

    def block_curvature(self, number: int, point: State) -> tuple[Tensor | float, ...]:
        block = self.blocks[number]
        exact = tuple(self._exact_curvature[name] for name in block.exact)
        if not block.separable:
            return exact
        return exact + self._separable_curvature(block.separable)(*self._arguments(point))

    def convex(self, name: str) -> bool:
        if name not in self._convex:
            rate = self._exact_curvature[name]
            self._convex[name] = bool((rate > 0).all()) if isinstance(rate, Tensor) else rate > 0
        return self._convex[name]

    def _separable_curvature(self, names: tuple[str, ...]) -> BoundKernel:
        key = ("curvature", names)
        if key not in self._bound:
            function = self._function

            def second(point: State) -> State:
                result = {}
                for name in names:

                    def total(moving: Tensor, name: str = name) -> Tensor:
                        return function({**point, name: moving})[f"force {name}"].sum()

                    result[name] = -torch.func.grad(total)(point[name])
                return result

            kernel = self._program.kernel((*self._key, *key), second, names, self.free)
            self._bound[key] = kernel.bind(self._environment)
        return self._bound[key]

    def _structure(self) -> tuple[Block, ...]:
        key = (*self._key, "blocks")
        if key not in self._program.facts:
            traced = self._program.traced(self._key, self._function)
            self._program.facts[key] = tuple(map(self._traceable, _blocks(traced, self.free)))
        return self._program.facts[key]

    def _traceable(self, block: Block) -> Block:
        """The block; its separable variables are coupled ones where their curvature cannot be traced.

        Torch itself fixes the size of the batch in the second derivative of abs.
        """
        try:
            if block.separable:
                self._separable_curvature(block.separable)
        except TraceError:
            return Block(block.exact, (), block.coupled + block.separable)
        return block

    def take(self, index: Tensor) -> TracedForces:
        return TracedForces(self._program, self._conditioned, self._links, self._environment.take(index))


def _blocks(traced: Traced, free: Sequence[str]) -> tuple[Block, ...]:
    """Colour the graph of couplings greedily, in the order of declaration: chains get two blocks."""
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
    blocks = []
    for group in groups:
        kinds: dict[str, list[str]] = {"exact": [], "separable": [], "coupled": []}
        for name in group:
            output = f"force {name}"
            if dependence(traced, output, name) == "mixed":
                kinds["coupled"].append(name)
            elif curvature(traced, output, name) is not None:
                kinds["exact"].append(name)
            else:
                kinds["separable"].append(name)
        blocks.append(Block(*(tuple(kinds[kind]) for kind in ("exact", "separable", "coupled"))))
    return tuple(blocks)


@final
class EagerForces(Forces):
    """Forces by autograd of the scalar energy at every step, for energies that cannot be traced."""

    def __init__(self, conditioned: Conditioned, links: Mapping[str, Link]) -> None:
        self.free = tuple(conditioned.variables)
        self.blocks = (Block((), (), self.free),)
        if any(value.is_inference() for value in conditioned.clamp.values()):
            with torch.inference_mode(False):
                clamp = {name: usable(value) for name, value in conditioned.clamp.items()}
                conditioned = Conditioned(conditioned.base, clamp)
        self._conditioned = conditioned
        self._links = dict(links)

    def _state(self, point: State) -> State:
        return {n: self._links[n].value(v) if n in self._links else v for n, v in point.items()}

    def force(self, point: State) -> State:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            state = {
                n: v if v.requires_grad else usable(v).requires_grad_() for n, v in self._state(point).items()
            }
            total = self._conditioned.energy(**state).sum()
            slopes = torch.autograd.grad(
                total, list(state.values()), create_graph=keep, allow_unused=True, materialize_grads=True
            )
        return {name: -slope for name, slope in zip(state, slopes, strict=True)}

    def energy(self, point: State) -> Tensor:
        return self._conditioned.energy(**self._state(point))

    def block(self, number: int, point: State) -> tuple[Tensor, ...]:
        force = self.force(point)
        return tuple(force[name] for name in self.free)

    def block_curvature(self, number: int, point: State) -> tuple[Tensor | float, ...]:
        return ()

    def convex(self, name: str) -> bool:
        return False

    def take(self, index: Tensor) -> EagerForces:
        clamp = {name: value.index_select(0, index) for name, value in self._conditioned.clamp.items()}
        return EagerForces(Conditioned(self._conditioned.base, clamp), self._links)


def forces_of(
    conditioned: Conditioned, links: Mapping[str, Link], point: State, batch: int, *, differentiable: bool
) -> TracedForces:
    """The traced forces of a conditioned energy at points like ``point``."""
    program = program_of(conditioned.base, signature({**conditioned.clamp, **point}))
    environment = conditioned.environment(batch, fresh=differentiable)
    return TracedForces(program, conditioned, links, environment)
