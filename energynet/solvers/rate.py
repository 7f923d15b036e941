"""How fast a flow relaxes, from what two points tell: the quotient of velocities and distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.flow import EnergyFlow, largest
from energynet.solvers.base import column
from energynet.state import State
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Float

_NOISE = 4  # rounding of a difference of points, in units of the spacing of numbers at their norm
_POWERS = 4


def inner(
    one: State, other: State, weight: Mapping[str, Tensor | float] | None = None
) -> Float[Tensor, batch]:
    """The inner product of each sample, under weights where they are given."""
    total: Tensor | None = None
    for name, value in one.items():
        product = value * other[name]
        if weight is not None:
            product = product * weight[name]
        part = rows(product).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def choose(which: Float[Tensor, batch], one: State, other: State) -> State:
    """The one state for the samples of a mask, the other state for the others."""
    return {n: torch.where(column(which, value), value, other[n]) for n, value in one.items()}


def rate(
    point: State,
    other: State,
    velocity: State,
    other_velocity: State,
    known: Float[Tensor, batch],
    weight: State | None = None,
) -> Float[Tensor, batch]:
    """|difference of velocities| / |difference of points|, a lower bound of the largest rate of relaxation.

    Parameters
    ----------
    point, other
        Two points.
    velocity, other_velocity
        The velocities at them.
    known
        What is returned where the points are as near as rounding, so that nothing can be told.
    weight
        Of an inner product in which the Jacobian of the velocity is symmetric; there it is a bound.
    """
    distance = {name: value - other[name] for name, value in point.items()}
    change = {name: value - other_velocity[name] for name, value in velocity.items()}
    below, above = inner(distance, distance, weight), inner(change, change, weight)
    noise = (_NOISE * torch.finfo(below.dtype).eps) ** 2 * inner(point, point, weight)
    tells = (below > noise) & (above > 0) & (above < torch.inf)
    found = (torch.where(tells, above, 1.0) / torch.where(tells, below, 1.0)).sqrt()
    return torch.where(tells, found, known)


def fastest_rate(flow: EnergyFlow, point: State, velocity: State) -> Float[Tensor, batch]:
    """The largest rate of relaxation at a point, about: a few steps of the power method along the velocity.

    Products with the Jacobian are differences of velocities. 1 where nothing moves.
    """
    weight = flow.metric(point)
    size = largest(point).clamp(min=1.0)
    reach = torch.finfo(size.dtype).eps ** 0.5 * size
    found, direction = torch.ones_like(size), velocity
    for _ in range(_POWERS):
        pace = reach / largest(direction).clamp(min=torch.finfo(size.dtype).tiny)
        step = {name: value * column(pace, value) for name, value in direction.items()}
        near = flow.project({name: value + step[name] for name, value in point.items()})
        back = flow.project({name: value - step[name] for name, value in point.items()})
        near = {n: torch.where(v == point[n], back[n], v) for n, v in near.items()}  # at the end of a domain
        there = flow.velocity(near)
        found = rate(near, point, there, velocity, found, weight)
        direction = {name: value - velocity[name] for name, value in there.items()}
    return found
