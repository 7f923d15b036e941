"""A flow in flat coordinates: its free variables side by side in the columns of one matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.flow import EnergyFlow
from energynet.state import State
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class Chart:
    """A flow in flat coordinates, and in units in which no time constant is left.

    The force of a chart is the velocity times the time constant: a minimiser gains nothing from letting slow
    variables be slow. Where a potential u with value a = link(u) is integrated the energy changes by
    ``-sum(slope * force * change)``, with the slope of the link.

    Parameters
    ----------
    flow
        The flow.
    like
        A point of it.

    Attributes
    ----------
    plain
        Whether no potential is integrated, so that every slope is 1.
    open
        Whether every unit can move, wherever it is.
    """

    def __init__(self, flow: EnergyFlow, like: State) -> None:
        self.flow = flow
        self._shapes = [like[name].shape for name in flow.names]
        self._sizes = [math.prod(shape[1:]) for shape in self._shapes]
        self._like = like[flow.names[0]]
        self._boxed = [name not in flow.links and flow.variables[name].bounded for name in flow.names]
        self.plain = not flow.links
        self.open = not flow.held and not any(self._boxed)
        taus = [flow.variables[name].tau for name in flow.names]
        self._timeless = set(taus) == {1}
        self._tau = taus[0] if len(set(taus)) == 1 else self._constant(taus)

    def _constant(self, numbers: list[float]) -> Tensor:
        return torch.cat([self._like.new_full((n,), v) for n, v in zip(self._sizes, numbers, strict=True)])

    def join(self, state: State) -> Float[Tensor, "batch units"]:
        """The variables side by side."""
        parts = [rows(state[name]) for name in self.flow.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def split(self, flat: Float[Tensor, "batch units"]) -> State:
        """The variables by name."""
        parts = zip(self.flow.names, flat.split(self._sizes, 1), self._shapes, strict=True)
        return {name: part.reshape(shape) for name, part, shape in parts}

    def evaluate(self, flat: Float[Tensor, "batch units"]) -> tuple[Float[Tensor, batch], Tensor]:
        """The energy of each sample, and the force on each unit, zero where it is held."""
        energy, force = self.flow.forces.energy_and_force(self.split(flat))
        velocity = self.join(self.flow.velocity_from(force))
        return energy, velocity if self._timeless else velocity * self._tau

    def residual(self, flat: Float[Tensor, "batch units"], force: Tensor) -> Float[Tensor, batch]:
        """The largest entry of the projected velocity."""
        velocity = force if self._timeless else force / self._tau
        if not any(self._boxed):
            return velocity.abs().amax(1)
        return self.flow.residual(self.split(flat), self.split(velocity))

    def project(self, flat: Float[Tensor, "batch units"]) -> Tensor:
        """The nearest point within the domains."""
        return self.join(self.flow.project(self.split(flat))) if any(self._boxed) else flat

    def change(self, flat: Float[Tensor, "batch units"], direction: Tensor) -> Tensor:
        """What is left of a direction within the domains."""
        return self.project(flat + direction) - flat if any(self._boxed) else direction

    def slope(self, flat: Float[Tensor, "batch units"]) -> Tensor:
        """The slope of the link where a potential is integrated, else 1; one column where all are 1."""
        if self.plain:
            return flat.new_ones(len(flat), 1)
        return self.join(self.flow.metric(self.split(flat))) / self._tau

    def free(self, flat: Float[Tensor, "batch units"], force: Tensor) -> Bool[Tensor, "batch units"]:
        """Where a unit can move: not held, and not at an end of its domain that the force pushes against.

        One column where every unit can.
        """
        if self.open:
            return torch.ones(len(flat), 1, dtype=torch.bool, device=flat.device)
        free = torch.ones_like(flat, dtype=torch.bool)
        if self.flow.held:
            free = ~self.join({**self.split(~free), **self.flow.held})
        if any(self._boxed):
            ends = [self.flow.variables[name] for name in self.flow.names]
            boxed = list(zip(ends, self._boxed, strict=True))
            low = self._constant([v.low if box else -math.inf for v, box in boxed])
            high = self._constant([v.high if box else math.inf for v, box in boxed])
            free = free & ~(((flat <= low) & (force < 0)) | ((flat >= high) & (force > 0)))
        return free

    def dot(self, weight: Tensor, one: Tensor, other: Tensor) -> Float[Tensor, batch]:
        """The inner product of each sample under the weights of its units; all are 1 without links."""
        product = one * other
        return product.sum(1) if self.open and self.plain else (weight * product).sum(1)

    def product(self, flat: Float[Tensor, "batch units"], direction: Tensor) -> Tensor:
        """Minus the gradient of the force's inner product with a direction; see `Forces.product`."""
        return self.join(self.flow.forces.product(self.split(flat), self.split(direction)))
