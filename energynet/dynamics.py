"""What the trace of a flow tells: kernels for its forces, its blocks, its curvatures."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from energynet.derivation import forces
from energynet.energy import Energy
from energynet.errors import TraceError
from energynet.hessian import Hessian
from energynet.link import Link
from energynet.quadratic import Quadratic, quadratic
from energynet.state import State
from energynet.trace import (
    PARAMETER,
    Combination,
    Environment,
    Kernel,
    Program,
    Traced,
    affine,
    curvature,
    dependence,
    versions,
)
from energynet.variable import rows

_DIRECTION = "direction "


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
    """The second derivative of the energy in each unit, where it depends on nothing that moves.

    Attributes
    ----------
    value
        One number, or one for each unit.
    convex
        Whether it is positive everywhere.
    """

    value: Tensor | float
    convex: bool


class Dynamics:
    """What the trace of a flow tells, whatever the values of its inputs.

    Attributes
    ----------
    program
        Where the trace is kept.
    """

    def __init__(self, program: Program, energy: Energy, free: tuple[str, ...], links: Mapping[str, Link]):
        self.program = program
        self._key = ("flow", free, tuple(links.items()))
        self._function = forces(energy, free, links)
        self.free = free
        self.rates: dict[str, Combination] = {}
        self.force = self.kernel([f"force {name}" for name in free])
        self.energy = self.kernel(["energy"])
        self._block: dict[int, Kernel] = {}
        self._quadratic: dict[tuple[str, ...], Quadratic | None] = {}
        self._hessian: tuple[object, list[Tensor], Hessian] | None = None
        self.compiled: dict[Hashable, Any] = {}  # made from these kernels elsewhere, by a key of theirs

    def kernel(self, outputs: Sequence[str], zero: Sequence[str] = ()) -> Kernel:
        """Code for some of what `energynet.derivation.forces` lists, from the point."""
        return self.program.kernel(self._key, self._function, outputs, self.free, zero)

    @cached_property
    def affine(self) -> bool:
        """Whether the trace shows that the smooth force is affine in the point."""
        traced = self.program.traced(self._key, self._function)
        return affine(traced, [f"smooth force {name}" for name in self.free], self.free)

    @cached_property
    def product(self) -> Kernel:
        """Minus the gradient, in the point, of <force, direction>: from the point and the direction."""
        return self._product("force")

    @cached_property
    def smooth_product(self) -> Kernel:
        """The same of the smooth force."""
        return self._product("smooth force")

    def _product(self, kind: str) -> Kernel:
        function, free = self._function, self.free
        names = {name: f"{_DIRECTION}{name}" for name in free}

        def product(point: State) -> State:
            directions = {name: point[key] for name, key in names.items()}
            rest = {name: value for name, value in point.items() if name not in names.values()}

            def along(moving: State) -> Tensor:
                found = function({**rest, **moving})
                total = sum((found[f"{kind} {name}"] * directions[name]).sum() for name in free)
                assert isinstance(total, Tensor)
                return total

            slopes = torch.func.grad(along)({name: point[name] for name in free})
            return {f"product {name}": -slope for name, slope in slopes.items()}

        more = {key: self.program.spec(name) for name, key in names.items()}
        outputs = [f"product {name}" for name in free]
        inputs = (*free, *names.values())
        return self.program.kernel((*self._key, "product", kind), product, outputs, inputs, more=more)

    def hessian(self, parameters: Mapping[str, Tensor], taus: Mapping[str, float]) -> Hessian | None:
        """That of the smooth part, if it depends on parameters alone; made anew when one has changed.

        With gradients enabled it has a graph to the parameters, and is not kept.
        """
        try:
            kernel = self.smooth_product
        except TraceError:
            return None
        if any(name in self.free or not name.startswith((PARAMETER, _DIRECTION)) for name in kernel.reads):
            return None
        if torch.is_grad_enabled():
            return self._constant(kernel, parameters, taus)
        now = versions(parameters)
        made = self._hessian
        if made is None or made[0] != now or len(now) != len(parameters):
            # the parameters are held, so that no other takes their address
            made = self._hessian = (now, list(parameters.values()), self._constant(kernel, parameters, taus))
        return made[2]

    def _constant(
        self, kernel: Kernel, parameters: Mapping[str, Tensor], taus: Mapping[str, float]
    ) -> Hessian:
        specs = [self.program.spec(name) for name in self.free]
        sizes = [math.prod(spec.shape) for spec in specs]
        like = torch.empty(0, dtype=specs[0].dtype, device=specs[0].device)
        directions = torch.eye(sum(sizes), dtype=like.dtype, device=like.device)
        parts = zip(directions.split(sizes, 1), specs, strict=True)
        given = [part.reshape(-1, *spec.shape) for part, spec in parts]
        point = [torch.zeros_like(part) for part in given]
        products = kernel.bind(Environment(parameters, len(directions)))(*point, *given)
        matrix = torch.cat([rows(product) for product in products], 1)
        tau = torch.cat([like.new_full((n,), taus[name]) for n, name in zip(sizes, self.free, strict=True)])
        return Hessian((matrix + matrix.T) / 2, tau)

    def quadratic(self, names: tuple[str, ...]) -> Quadratic | None:
        """What is known of some variables together, if the energy is quadratic in them; else None."""
        if names not in self._quadratic:
            self._quadratic[names] = quadratic(self.program, self._key, self._function, names)
        return self._quadratic[names]

    def block(self, number: int) -> Kernel:
        """The fields of the exact variables, the forces on the others."""
        if number not in self._block:
            block = self.blocks[number]
            self._block[number] = self.kernel([f"force {name}" for name in block.names], block.exact)
        return self._block[number]

    def separable(self, number: int) -> Kernel:
        """The curvature of the separable variables."""
        return self.second(self.blocks[number].separable)

    def second(self, names: tuple[str, ...]) -> Kernel:
        """The curvature of variables whose units do not read each other."""
        function = self._function

        def second(point: State) -> State:
            result = {}
            for name in names:

                def total(moving: Tensor, name: str = name) -> Tensor:
                    return function({**point, name: moving})[f"force {name}"].sum()

                result[name] = -torch.func.grad(total)(point[name])
            return result

        return self.program.kernel((*self._key, "curvature", names), second, names, self.free)

    def _curvature_traces(self, name: str) -> bool:
        """Whether the second derivative can be traced; torch fixes the size of the batch in that of abs."""
        try:
            self.second((name,))
        except TraceError:
            return False
        return True

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The colours of the graph of couplings: variables that do not read each other."""
        traced = self.program.traced(self._key, self._function)
        return tuple(tuple(group) for group in _colour(traced, self.free))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The groups, each with its variables by kind."""
        traced = self.program.traced(self._key, self._function)
        blocks = []
        for group in self.groups:
            kinds: dict[str, list[str]] = {"exact": [], "separable": [], "coupled": []}
            for name in group:
                output = f"force {name}"
                if dependence(traced, output, name) == "mixed":
                    kinds["coupled"].append(name)
                    continue
                rate = curvature(traced, output, name)
                if rate is not None and self.program.node(rate).reads.isdisjoint(self.free):
                    kinds["exact"].append(name)
                    self.rates[name] = rate
                elif self._curvature_traces(name):
                    kinds["separable"].append(name)
                else:
                    kinds["coupled"].append(name)
            blocks.append(Block(*(tuple(kinds[kind]) for kind in ("exact", "separable", "coupled"))))
        return tuple(blocks)

    def curvatures(
        self, number: int, environment: Environment, *, convex: Sequence[bool] = ()
    ) -> tuple[Curvature, ...]:
        """The curvature of the exact variables of a block; ``convex`` tells their signs where it is known."""
        found = []
        for position, name in enumerate(self.blocks[number].exact):
            rate = self.rates[name]
            if rate.uniform:
                found.append(Curvature(rate.constant, rate.constant > 0))
            else:
                value = environment.get(self.program.node(rate))
                positive = convex[position] if convex else bool((value > 0).all())
                found.append(Curvature(value, positive))
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
