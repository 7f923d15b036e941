"""Proximal gradient descent, plain and accelerated, with a step for each sample."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import EnergyFlow, Flow, largest
from energynet.hessian import Hessian
from energynet.solvers.base import Shared, column, energy_flow, positive
from energynet.solvers.rate import choose, inner
from energynet.solvers.splitting import Splitting, change, flat, shaped, weights
from energynet.state import State

_LARGEST = 1024  # units of which all eigenvalues are found: a tenth of a second
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
    projected gradient descent.

    Where the trace shows that the Hessian of the smooth part depends on parameters alone, as in sparse
    coding, the step is 1 over its largest eigenvalue, which is kept until a parameter changes. Else each
    sample has its own step, 1 over a bound of the curvature that it has met. Where the bound turns out too
    small the sample stays for this once and its bound is raised, so that no step branches.

    The residual is that of the point after the step. Where the trace shows that the smooth part is quadratic,
    the velocity at the extrapolated point follows from those at two points, and a step takes one evaluation
    of the smooth part; else an accelerated step takes two, and the extrapolated point is kept within the
    domains.

    Parameters
    ----------
    accelerate
        Extrapolate by Nesterov's sequence (FISTA); else plain steps (ISTA), which never raise the energy.
    dt
        The first step, in units of the time constants. By default it is 1 over the largest eigenvalue of the
        Hessian; where that differs from sample to sample, or has more than 1024 rows, it is found by power
        iteration on products with the Hessian at the start.
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
        hessian = None
        if self.dt is None and sum(v.shape[1:].numel() for v in state.values()) <= _LARGEST:
            hessian = flow.hessian()
        if hessian is not None:
            return self._known(flow, state, hessian)
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

    def _known(self, flow: EnergyFlow, state: State, hessian: Hessian) -> Any:
        """The carry where the step is known, and velocities are affine."""
        values, turn = flat(state), hessian.turn
        _, velocity = _smooth(flow, state)
        carry = {
            "dt": Shared(1 / hessian.rates[-1].detach().clamp(min=_FLATTEST)),  # steps are no functions
            "velocity": velocity,
        }
        if len(turn) ** 2 <= flow.forces.work:
            carry |= {"turn": Shared(turn), "drift": flat(velocity) - values @ turn}
        if self.accelerate:
            carry |= {"ahead": dict(state), "push": velocity, "age": values.new_ones(len(values))}
        return carry

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        return self.advance(flow, state, carry, generator, 1)

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        for _ in range(steps):
            state, carry = (self._steady if "dt" in carry else self._careful)(flow, state, carry)
        last = carry["last"] if "last" in carry else largest(flow.split(state, carry["velocity"]))
        return state, carry, last

    def _steady(self, flow: EnergyFlow, state: State, carry: Any) -> tuple[State, Any]:
        """A step of known length."""
        ahead, push = self._from(state, carry)
        moved = flow.forward_backward(ahead, push, carry["dt"].value)
        if "turn" in carry:
            flown = torch.addmm(carry["drift"], flat(moved), carry["turn"].value)
            velocity = shaped(flown, moved)
            for name, mask in flow.held.items():
                velocity[name] = velocity[name].masked_fill(mask, 0.0)
        else:
            velocity = _smooth(flow, moved)[1]
        new = {**carry, "velocity": velocity}
        if self.accelerate:
            new |= self._extrapolated(flow, state, carry, (moved, velocity))
        return moved, new

    def _from(self, state: State, carry: Any) -> tuple[State, State]:
        """The point that a step is made from, and the velocity there."""
        return (carry["ahead"], carry["push"]) if self.accelerate else (state, carry["velocity"])

    def _careful(self, flow: EnergyFlow, state: State, carry: Any) -> tuple[State, Any]:
        """A step whose length may turn out too large."""
        rate = carry["rate"]
        ahead, push = self._from(state, carry)
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
            next_ = self._extrapolated(flow, state, carry, (moved, velocity))
            new["age"] = torch.where(fine, next_["age"], carry["age"])
            new["level"], new["push"] = carry["level"], next_["push"]
            if not flow.forces.affine:
                next_["ahead"] = choose(fine, flow.project(next_["ahead"]), carry["ahead"])
                new["level"], new["push"] = _smooth(flow, next_["ahead"])
            new["ahead"] = choose(fine, next_["ahead"], carry["ahead"])
            if flow.forces.affine:
                new["push"] = choose(fine, new["push"], carry["push"])
        else:
            new["level"] = torch.where(fine, level, carry["level"])
        return choose(fine, moved, state), new

    def _extrapolated(
        self, flow: EnergyFlow, state: State, carry: Any, after: tuple[State, State]
    ) -> dict[str, Any]:
        """The next point to step from, with the velocity there if the smooth part is quadratic."""
        moved, velocity = after
        age = carry["age"]
        older = (1 + (1 + 4 * age.square()).sqrt()) / 2
        factor = (age - 1) / older
        gone = change(moved, state)
        if self.restart:
            uphill = inner(change(carry["ahead"], moved), gone, weights(flow)) > 0
            older, factor = torch.where(uphill, 1.0, older), torch.where(uphill, 0.0, factor)
        turn = change(velocity, carry["velocity"])
        return {
            "ahead": {n: torch.addcmul(v, column(factor, v), gone[n]) for n, v in moved.items()},
            "push": {n: torch.addcmul(v, column(factor, v), turn[n]) for n, v in velocity.items()},
            "age": older,
        }


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
