"""Coordinate descent: one unit after the other moves to its minimum given the others."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow, largest
from energynet.solvers.base import Shared, energy_flow
from energynet.solvers.shared_hessian import shared_hessian
from energynet.solvers.splitting import Splitting, flat, shaped
from energynet.state import State
from energynet.variable import rows

_UNITS = 32  # whose moves are put off until they have all been made: products of matrices cost less


@final
class CoordinateDescent(Splitting):
    """Block descent over units: each moves to the minimum of the energy given the others, in their order.

    A step is a sweep over all units, for the whole batch at once; the field of a unit follows by the columns
    of the Hessian (the Gram matrix, for sparse coding: Friedman, Hastie and Tibshirani 2010, J. Stat. Softw.
    33:1, sect. 2.2). The minimum of a unit is exact, by the proximal map at a step of 1 over its curvature.
    Few sweeps are needed, but each is as many small operators as there are units: it is for priors that are
    not convex, such as `L0`, where it ends at a minimum of every unit and never goes to and fro, and for
    tight tolerances, not for speed.

    The smooth part must be quadratic with a Hessian that all samples share, and no smooth curvature of a unit
    negative.

    Raises
    ------
    SettlingError
        By `init`, where that is not so, or if the proximal map of a term differs from unit to unit.
    """

    def init(self, flow: Flow, state: State) -> Any:
        flow = energy_flow(self, flow)
        if torch.is_grad_enabled():
            raise SettlingError(
                "CoordinateDescent moves units in place, so that nothing can be differentiated through its "
                "steps; use Proximal"
            )
        hessian = shared_hessian(self, flow, state)
        curvature = hessian.matrix.diagonal()
        least = float(curvature.min())
        if least < 0:
            raise SettlingError(
                f"CoordinateDescent: the curvature of a unit is {least:.3g}, so that it has no minimum given "
                "the others; use Proximal, or add a Leak"
            )
        _check_alike(flow, state)
        values = flat(state)
        tiny = torch.finfo(values.dtype).tiny ** 0.5
        return {
            "drift": flat(flow.forces.smooth(state)[1]) + values @ hessian.matrix,
            "hessian": Shared(hessian.matrix),
            "rate": Shared(curvature.clamp(min=tiny).unsqueeze(1)),
        }

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        hessian, rate = carry["hessian"].value, carry["rate"].value
        values = flat(state).t().clone(memory_format=torch.contiguous_format)  # a unit is a row
        force = torch.addmm(carry["drift"].t(), hessian, values, alpha=-1)
        places = _places(state)
        for name, place in places.items():
            mask = rows(flow.held[name]).t() if name in flow.held else None
            for start in range(place.start, place.stop, _UNITS):
                here = slice(start, min(start + _UNITS, place.stop))
                held = None if mask is None else mask[start - place.start : here.stop - place.start]
                before = values[here].clone()
                _sweep(flow, name, values[here], force[here].clone(), hessian[here, here], rate[here], held)
                force.addmm_(hessian[:, here], values[here] - before, alpha=-1)
        left = torch.cat(
            [
                (_minimum(flow, name, values[place], force[place], rate[place]) - values[place]) * rate[place]
                for name, place in places.items()
            ]
        )
        velocity = flow.velocity_from(shaped(left.t(), state))
        return shaped(values.t(), state), carry, largest(velocity)


def _sweep(
    flow: EnergyFlow,
    name: str,
    values: Tensor,
    force: Tensor,
    hessian: Tensor,
    rate: Tensor,
    held: Tensor | None,
) -> None:
    """Move some units of a variable in place, one after the other."""
    for unit in range(len(values)):
        old = values[unit]
        new = _minimum(flow, name, old, force[unit], rate[unit])
        if held is not None:
            new = torch.where(held[unit], old, new)
        force.sub_(hessian[unit].unsqueeze(1) * (new - old))
        values[unit] = new


def _minimum(flow: EnergyFlow, name: str, value: Tensor, force: Tensor, rate: Tensor) -> Tensor:
    """Where the energy of each unit is least given the others."""
    moved = value + force / rate
    if name in flow.proximal:
        factor, term = flow.proximal[name]
        moved = term.proximal(moved, factor / rate)
    return flow.variables[name].project(moved)


def _places(state: State) -> dict[str, slice]:
    """Where the units of each variable are, side by side."""
    found, first = {}, 0
    for name, value in state.items():
        found[name] = slice(first, first + math.prod(value.shape[1:]))
        first = found[name].stop
    return found


def _check_alike(flow: EnergyFlow, state: State) -> None:
    """Raise unless a proximal map treats units alike, by one that is rolled."""
    for name, (_, term) in flow.proximal.items():
        like = state[name]
        shape = (1, *like.shape[1:])
        value = torch.linspace(-3, 3, math.prod(shape), dtype=like.dtype, device=like.device).reshape(shape)
        if not torch.equal(term.proximal(value.roll(1), 0.7), term.proximal(value, 0.7).roll(1)):
            raise SettlingError(
                f"CoordinateDescent: the proximal map of {term} differs from unit to unit of {name!r}; use "
                "Proximal"
            )
