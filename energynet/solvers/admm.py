"""The alternating direction method of multipliers, with a cached inverse."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow, largest
from energynet.solvers.base import Shared, energy_flow, positive
from energynet.solvers.splitting import Splitting
from energynet.state import State
from energynet.variable import rows


@final
class ADMM(Splitting):
    """Alternates between the minimum of a quadratic smooth part, by a cached inverse, and proximal maps.

    The method of Boyd et al. (2011, Found. Trends Mach. Learn. 3:1, sect. 6.4), for energies with
    `ProximalTerm` such as `Sparsity`. `init` finds the Hessian of the smooth part, which all samples must
    share, by products with the identity, and keeps the inverse that every step multiplies with. It takes
    about half the steps of `Proximal` on a dictionary of 512 atoms for 256 inputs. The inverse costs some
    hundred steps of a small batch, so it pays for large batches. The point is the one that the proximal
    maps gave, so it is sparse and within the domains.

    Parameters
    ----------
    penalty
        Of a difference between the two minimisers, in units of the mean curvature of the smooth part. 0.7 is
        near the best for codes in which about a tenth of the atoms are active; less is faster where more are.
    relaxation
        Over-relaxation, from 1 (none) to below 2 (sect. 3.4.3): 1.8 takes a tenth fewer steps than 1.6.

    Raises
    ------
    SettlingError
        By `init`, if the smooth part is not quadratic, not convex, or its Hessian differs between samples.
    """

    def __init__(self, penalty: float = 0.7, relaxation: float = 1.8) -> None:
        positive(self, penalty=penalty)
        if not 1 <= relaxation < 2:
            raise ValueError(f"ADMM: relaxation must be from 1 to below 2, got {relaxation!r}")
        self.penalty = penalty
        self.relaxation = relaxation

    def init(self, flow: Flow, state: State) -> Any:
        flow = energy_flow(self, flow)
        with torch.no_grad():
            hessian = _hessian(flow, state)
            _check(flow, state, hessian)
            tau = _flat({n: v.new_full((1, *v.shape[1:]), flow.variables[n].tau) for n, v in state.items()})[
                0
            ]
            rates = torch.linalg.eigvalsh(hessian / (tau.sqrt().unsqueeze(1) * tau.sqrt()))
            low, high = float(rates[0]), float(rates[-1])
            if low < -(torch.finfo(hessian.dtype).eps ** (2 / 3)) * max(high, -low):
                raise SettlingError(
                    f"ADMM needs a convex smooth part, and the least curvature of this one is {low:.3g} (the "
                    f"largest is {high:.3g}); use Proximal, or add a Leak"
                )
            mean = float(rates.mean())
            penalty = self.penalty * mean if mean > 0 else self.penalty
            factor = torch.linalg.cholesky(hessian + torch.diag(penalty * tau))
            inverse = torch.cholesky_inverse(factor)
        values = _flat(state)
        force = _flat(flow.forces.smooth(state)[1])
        return {
            # x = (H + penalty tau)^-1 (force at zero + penalty tau (z - dual)), in rows
            "inverse": Shared(penalty * tau.unsqueeze(1) * inverse),
            "drift": (force + values @ hessian) @ inverse,
            "dual": torch.zeros_like(values),
            "penalty": values.new_full((len(values),), penalty),
        }

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        state, new = self._step(flow, state, carry)
        return state, new, _residual(flow, state)

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        for _ in range(steps):  # the residual is half of a step
            state, carry = self._step(flow, state, carry)
        return state, carry, _residual(flow, state)

    def _step(self, flow: Flow, state: State, carry: Any) -> tuple[State, Any]:
        assert isinstance(flow, EnergyFlow)
        old, dual = _flat(state), carry["dual"]
        smooth = torch.addmm(carry["drift"], old - dual, carry["inverse"].value)
        relaxed = torch.lerp(old, smooth, self.relaxation)
        ahead = _shaped(relaxed + dual, state)
        still = {name: torch.zeros_like(value) for name, value in state.items()}
        moved = flow.forward_backward(ahead, still, 1 / carry["penalty"])
        for name, mask in flow.held.items():
            moved[name] = torch.where(mask, state[name], moved[name])
        return moved, {**carry, "dual": dual + relaxed - _flat(moved)}


def _residual(flow: Flow, state: State) -> Tensor:
    assert isinstance(flow, EnergyFlow)
    return largest(flow.split(state, flow.velocity_from(flow.forces.smooth(state)[1])))


def _flat(state: State) -> Tensor:
    """The values of each sample in one row."""
    return torch.cat([rows(value) for value in state.values()], 1)


def _shaped(flat: Tensor, like: State) -> State:
    sizes = [math.prod(value.shape[1:]) for value in like.values()]
    parts = flat.split(sizes, 1)
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def _hessian(flow: EnergyFlow, state: State) -> Tensor:
    """That of the first sample, by products with the identity."""
    first = _flat(state)[:1]
    count = first.shape[1]
    if not len(first):
        return torch.eye(count).to(first)
    probe = flow.take(torch.zeros(count, dtype=torch.int64, device=first.device))
    point = {name: value[:1].expand(count, *value.shape[1:]) for name, value in state.items()}
    hessian = _flat(probe.forces.smooth_product(point, _shaped(torch.eye(count).to(first), point)))
    return (hessian + hessian.T) / 2


def _check(flow: EnergyFlow, state: State, hessian: Tensor) -> None:
    """Raise unless every sample has this Hessian, at two points at random."""
    like = _flat(state)
    if not like.numel():
        return
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, like.shape[1], generator=generator, dtype=torch.float64).to(like)
    points = [flow.project(_shaped(like + draw, state)) for draw in draws[:2]]
    direction = _shaped(draws[2].expand_as(like), state)
    products = [_flat(flow.forces.smooth_product(point, direction)) for point in points]
    forces = [_flat(flow.forces.smooth(point)[1]) for point in points]
    gone = _flat(points[1]) - _flat(points[0])
    largest_force = max(float(force.abs().max()) for force in forces)
    scale = float(hessian.abs().sum(1).max() * draws.abs().max()) + largest_force + 1
    allowed = 10 * torch.finfo(like.dtype).eps ** (2 / 3) * scale

    def differ(first: Tensor, second: Tensor) -> bool:
        return not float((first - second).abs().max()) <= allowed < math.inf

    if differ(*products):
        raise SettlingError(
            "ADMM needs a smooth part that is quadratic in the free variables, and the Hessian of this one "
            "differs between two points; use Proximal"
        )
    if differ(products[0], draws[2] @ hessian):
        raise SettlingError(
            "ADMM keeps one inverse for all samples, and the Hessian of the smooth part differs between "
            "those of this batch, for it depends on what is clamped; use Proximal, or settle them one by one"
        )
    if differ(forces[1] - forces[0], -gone @ hessian):
        raise SettlingError(
            "ADMM needs a smooth part that is quadratic in the free variables, and the force of this one "
            "jumps between two points of the same Hessian; tell its kink by a ProximalTerm"
        )
