"""The Hessian of a smooth part, for solvers that need one for all samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.hessian import Hessian
from energynet.solvers.splitting import flat, shaped
from energynet.state import State


def shared_hessian(owner: object, flow: EnergyFlow, state: State) -> Hessian:
    """That which the trace shows to depend on parameters alone; else that of the first sample, if of all.

    Parameters
    ----------
    owner
        Whom errors name.
    flow, state
        The flow, and a point of it.

    Raises
    ------
    SettlingError
        If the smooth part is not quadratic, or samples differ.
    """
    found = flow.hessian()
    if found is not None:
        return found
    if torch.is_grad_enabled():
        raise SettlingError(
            f"{type(owner).__name__} cannot be differentiated through where the Hessian is found by probing; "
            "use Proximal"
        )
    return _probed(type(owner).__name__, flow, state)


def _probed(owner: str, flow: EnergyFlow, state: State) -> Hessian:
    """That of the first sample, by products with the identity, if it is that of all."""
    first = flat(state)[:1]
    count = first.shape[1]
    tau = flat({n: v.new_full((1, *v.shape[1:]), flow.variables[n].tau) for n, v in state.items()})[0]
    if not len(first):
        return Hessian(torch.eye(count).to(first), tau)
    probe = flow.take(torch.zeros(count, dtype=torch.int64, device=first.device))
    point = {name: value[:1].expand(count, *value.shape[1:]) for name, value in state.items()}
    hessian = flat(probe.forces.smooth_product(point, shaped(torch.eye(count).to(first), point)))
    hessian = (hessian + hessian.T) / 2
    _check(owner, flow, state, hessian)
    return Hessian(hessian, tau)


def _check(owner: str, flow: EnergyFlow, state: State, hessian: Tensor) -> None:
    """Raise unless every sample has this Hessian, at two points at random."""
    like = flat(state)
    if not like.numel():
        return
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, like.shape[1], generator=generator, dtype=torch.float64).to(like)
    points = [flow.project(shaped(like + draw, state)) for draw in draws[:2]]
    direction = shaped(draws[2].expand_as(like), state)
    products = [flat(flow.forces.smooth_product(point, direction)) for point in points]
    forces = [flat(flow.forces.smooth(point)[1]) for point in points]
    gone = flat(points[1]) - flat(points[0])
    largest_force = max(float(force.abs().max()) for force in forces)
    scale = float(hessian.abs().sum(1).max() * draws.abs().max()) + largest_force + 1
    allowed = 10 * torch.finfo(like.dtype).eps ** (2 / 3) * scale

    def differ(first: Tensor, second: Tensor) -> bool:
        return not float((first - second).abs().max()) <= allowed < math.inf

    if differ(*products):
        raise SettlingError(
            f"{owner} needs a smooth part that is quadratic in the free variables, and the Hessian of this "
            "one differs between two points; use Proximal"
        )
    if differ(products[0], draws[2] @ hessian):
        raise SettlingError(
            f"{owner} keeps one Hessian for all samples, and the Hessian of the smooth part differs between "
            "those of this batch, for it depends on what is clamped; use Proximal, or settle them one by one"
        )
    if differ(forces[1] - forces[0], -gone @ hessian):
        raise SettlingError(
            f"{owner} needs a smooth part that is quadratic in the free variables, and the force of this one "
            "jumps between two points of the same Hessian; tell its kink by a ProximalTerm"
        )
