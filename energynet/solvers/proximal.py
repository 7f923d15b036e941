"""Proximal gradient descent, plain and accelerated, with a step for each sample."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import EnergyFlow, Flow, largest
from energynet.solvers.base import column, energy_flow, positive
from energynet.solvers.rate import choose, inner
from energynet.solvers.splitting import Splitting, change, weights
from energynet.state import State

_PRODUCTS = 8  # of the power iteration
_MARGIN = 1.05  # what it falls short of the largest curvature, usually
_FLATTEST = 1e-3  # a curvature that a step is bounded by where the energy has less
_STEEPER, _STEEPEST = 1.5, 10.0  # how much shorter a step becomes that went too far, at least and at most
_LONGER = 0.95  # how much of the curvature a step that was accepted assumes next, if that may have changed
_NOISE = 64.0  # roundings that an energy is trusted to differ by less than, in units of the dtype's epsilon


@final
class Proximal(Splitting):
    """Iterative shrinkage-thresholding, ISTA, and its accelerated form FISTA.

    The methods of Beck and Teboulle (2009, SIAM J. Imaging Sci. 2:183, eq. 4.1 to 4.3), for energies with
    `ProximalTerm` such as `Sparsity`. A step moves along the velocity of the smooth part, then applies the
    proximal map of each variable and projects onto its domain. Without proximal terms this is (accelerated)
    projected gradient descent. Each sample has its own step, 1 over a bound of the curvature that it has
    met. Where the bound turns out too small the sample stays for this once and its bound is raised, so that
    no step branches.

    The residual is that of the point after the step. Where the trace shows that the smooth part is quadratic,
    the velocity at the extrapolated point follows from those at two points, and a step takes one evaluation
    of the smooth part; else an accelerated step takes two, and the extrapolated point is kept within the
    domains.

    Parameters
    ----------
    accelerate
        Extrapolate by Nesterov's sequence (FISTA); else plain steps (ISTA), which never raise the energy.
    dt
        The first step, in units of the time constants. By default it is found by power iteration on products
        with the Hessian at the start.
    restart
        Start the extrapolation anew for a sample when it points uphill (O'Donoghue and Candes 2015, Found.
        Comput. Math. 15:715, sect. 3.2). Without it the plain sequence has the guarantee
        ``2 L |x - x*|^2 / (k + 1)^2`` of the paper, but ripples.
    """

    def __init__(self, accelerate: bool = True, dt: float | None = None, restart: bool = True) -> None:
        if dt is not None:
            positive(self, dt=dt)
        self.accelerate = accelerate
        self.dt = dt
        self.restart = restart

    def init(self, flow: Flow, state: State) -> Any:
        flow = energy_flow(self, flow)
        level, velocity = _smooth(flow, state)
        if self.dt is None:
            with torch.no_grad():
                rate = _MARGIN * steepest(flow, state)
        else:
            rate = torch.full_like(level, 1 / self.dt)
        last = largest(flow.split(state, velocity))
        carry = {"rate": rate.clamp(min=_FLATTEST), "level": level, "velocity": velocity, "last": last}
        if self.accelerate:
            carry |= {"ahead": dict(state), "push": velocity, "age": torch.ones_like(level)}
        return carry

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        rate = carry["rate"]
        ahead, push = (carry["ahead"], carry["push"]) if self.accelerate else (state, carry["velocity"])
        moved = flow.forward_backward(ahead, push, 1 / rate)
        level, velocity = _smooth(flow, moved)
        with torch.no_grad():  # steps are numbers, not functions of the parameters
            met, fine = _curvature(flow, (ahead, push, carry["level"]), (moved, velocity, level), rate)
        steeper = torch.where(met < _STEEPEST * rate, met.maximum(_STEEPER * rate), _STEEPEST * rate)
        same = _LONGER * rate if not flow.forces.affine else rate
        last = torch.where(fine, largest(flow.split(moved, velocity)), carry["last"])
        new = {
            "rate": torch.where(fine, same.clamp(min=_FLATTEST), steeper),
            # where no step is short enough the energy has no end
            "last": torch.where(rate.isfinite(), last, torch.inf),
            "velocity": choose(fine, velocity, carry["velocity"]),
        }
        if self.accelerate:
            after = (moved, velocity)
            new |= self._extrapolated(flow, state, carry, after, fine)
        else:
            new["level"] = torch.where(fine, level, carry["level"])
        return choose(fine, moved, state), new, new["last"]

    def _extrapolated(
        self, flow: EnergyFlow, state: State, carry: Any, after: tuple[State, State], fine: Tensor
    ) -> dict[str, Any]:
        """The next point to step from, with what the step needs there."""
        moved, velocity = after
        age = carry["age"]
        older = (1 + (1 + 4 * age.square()).sqrt()) / 2
        factor = (age - 1) / older
        gone = change(moved, state)
        if self.restart:
            uphill = inner(change(carry["ahead"], moved), gone, weights(flow)) > 0
            older, factor = torch.where(uphill, 1.0, older), torch.where(uphill, 0.0, factor)
        ahead = {n: torch.addcmul(v, column(factor, v), gone[n]) for n, v in moved.items()}
        if flow.forces.affine:
            turn = change(velocity, carry["velocity"])
            push = {n: torch.addcmul(v, column(factor, v), turn[n]) for n, v in velocity.items()}
            ahead, level = choose(fine, ahead, carry["ahead"]), carry["level"]
            push = choose(fine, push, carry["push"])
        else:
            ahead = choose(fine, flow.project(ahead), carry["ahead"])
            level, push = _smooth(flow, ahead)
        age = torch.where(fine, older, age)
        return {"ahead": ahead, "push": push, "level": level, "age": age}


def _smooth(flow: EnergyFlow, point: State) -> tuple[Tensor, State]:
    """Energy and velocity without the terms that have a proximal map."""
    level, force = flow.forces.smooth(point)
    return level, flow.velocity_from(force)


def _curvature(
    flow: EnergyFlow,
    before: tuple[State, State, Tensor],
    after: tuple[State, State, Tensor],
    rate: Tensor,
) -> tuple[Tensor, Tensor]:
    """The curvature along a step, and whether a bound majorises the energy there (eq. 4.2, with 2.6).

    Of a quadratic part it follows from the change of the velocity, which has no cancellation; of another also
    where energies differ by no more than their rounding (Becker, Candes and Grant 2011, Math. Program.
    Comput. 3:165, sect. 5.3).
    """
    (start, push, low), (end, velocity, high) = before, after
    weight, step = weights(flow), change(end, start)
    size = inner(step, step, weight)
    bend = inner(change(push, velocity), step, weight)
    epsilon = torch.finfo(size.dtype).eps
    if not flow.forces.affine:
        excess = 2 * (high - low + inner(push, step, weight))
        noise = _NOISE * epsilon * (high.abs() + low.abs())
        bend = torch.where(excess.abs() <= noise, bend, excess)
    slack = _NOISE * epsilon * rate * (size * inner(end, end, weight)).sqrt()
    return bend / size, bend <= rate * size + slack


def steepest(flow: EnergyFlow, point: State, products: int = _PRODUCTS) -> Tensor:
    """An estimate from below of the largest curvature of the energy for each sample, in units of 1 / time.

    By power iteration from one fixed direction, so that a sample's estimate does not depend on the others.
    """
    weight, generator = weights(flow), torch.Generator().manual_seed(0)
    direction: State = {}
    for name, value in point.items():
        draw = torch.randn(value.shape[1:], generator=generator, dtype=torch.float64)
        direction[name] = draw.to(value).expand_as(value)
    size = inner(direction, direction, weight).sqrt()
    tiny = torch.finfo(size.dtype).tiny
    for _ in range(products):
        direction = {n: v / column(size.clamp(min=tiny), v) for n, v in direction.items()}
        direction = flow.velocity_from(flow.forces.smooth_product(point, direction))
        size = inner(direction, direction, weight).sqrt()
    return size
