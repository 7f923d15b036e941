"""The flow that samplers of continuous variables follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.energy import ProximalTerm
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.link import Link
from energynet.state import State
from energynet.variable import Continuous, rows

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class LiftedFlow(EnergyFlow):
    """Gradient flow of the energy as a function of the potential, tau du/dt = -dE(link(u))/du; for samplers.

    Values of density exp(-E(a) / T) have potentials of density exp(-E(link(u)) / T) link'(u): the factor is
    what `volume` and `volume_force` are the logarithm and its gradient of. Ends of a domain reflect.
    """

    def _links(self) -> dict[str, Link]:
        return {name: v.link for name, v in self.variables.items() if v.link is not None}

    def _proximal(self) -> dict[str, tuple[float, ProximalTerm]]:
        for _, part in self.conditioned.base.parts():
            if isinstance(part, ProximalTerm) and not part.continuous and part.variable in self.names:
                raise SettlingError(
                    f"{part} jumps, and the force does not tell of jumps, so that a sampler would sample "
                    f"another law; for codes that are exactly zero use models.SpikeSlabCoding, or clamp "
                    f"{part.variable!r}"
                )
        return super()._proximal()

    def pulled(self, point: State, force: State) -> State:
        """A force on values as a force on what is integrated, zero where clamped."""
        result = {n: f * self.links[n].slope(point[n]) if n in self.links else f for n, f in force.items()}
        for name, mask in self.held.items():
            result[name] = result[name].masked_fill(mask, 0.0)
        return result

    def velocity(self, point: State) -> State:
        return self.velocity_from(self.pulled(point, self.forces.force(point)))

    def volume(self, point: State) -> Float[Tensor, batch] | None:
        """The logarithm of how much values stretch with potentials; None without links."""
        total: Tensor | None = None
        for name, link in self.links.items():
            each = link.log_slope(point[name])
            if name in self.held:
                each = each.masked_fill(self.held[name], 0.0)
            part = rows(each).sum(1)
            total = part if total is None else total + part
        return total

    def volume_force(self, point: State) -> State:
        """The gradient of `volume`, for variables with a link."""
        result = {name: link.log_slope_gradient(point[name]) for name, link in self.links.items()}
        for name in result.keys() & self.held.keys():
            result[name] = result[name].masked_fill(self.held[name], 0.0)
        return result

    def reflect(self, point: State) -> tuple[State, State]:
        """The point folded back into the domains, and the signs of momenta that were reflected."""
        state, signs = {}, {}
        for name, variable in self.variables.items():
            if name in self.links or not isinstance(variable, Continuous):
                state[name] = point[name]
                continue
            state[name], sign = variable.reflect(point[name])
            if sign is not None:
                signs[name] = sign
        return state, signs

    def metric(self, point: State) -> State:
        return {n: torch.full_like(value, self.variables[n].tau) for n, value in point.items()}
