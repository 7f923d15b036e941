"""The fast inertial relaxation engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.flow import EnergyFlow, Flow, largest
from energynet.solvers.base import Solver, column, energy_flow, positive
from energynet.solvers.rate import choose, fastest_rate, inner, rate
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Float

# What is kept in a step of the largest rate seen. What is forgotten too soon comes back as an unstable step,
# for stiff modes hide once they have settled; but a sample that goes down for long may have left them behind.
_KEEP, _FORGET, _LEAST = 0.999, 5e-5, 0.9
_UNSTABLE = 4.0  # dt^2 times a rate from which a step without friction grows
_WORSE = 100.0  # by how much the rate may rise in a step that is undone


@final
class FIRE(Solver):
    """Inertia that is steered downhill, and stopped where it would go up (Bitzek et al. 2006, PRL 97:170201).

    The speed gains dt * velocity and is turned towards the velocity of the flow, speed <- (1 - alpha) speed +
    alpha |speed| velocity / |velocity|; then the state moves by dt * speed (eq. 1 and 2 there, in the order
    of FIRE 2.0, Guenole et al. 2020, Comput. Mater. Sci. 175:109584). While the power <velocity, speed> is
    positive, dt grows and alpha fades; where it turns negative, the sample goes back half a step, stops, and
    starts again with a shorter one. Products and norms are those of the flow's metric, so the power is the
    rate at which the energy falls, also where potentials are integrated. Each sample has its own steps.

    Steps are stable below 2 over the root of the largest rate of relaxation: the largest curvature of the
    energy, over the time constant. The rate is estimated for each sample, at the start by differences of
    forces along the force, as in the power method, then by the quotient of the differences of forces and of
    states in each step. A step is kept below 1 over its root, and undone where it was far too long for the
    curvature that it met. So ``FIRE()`` needs no step size, and its path does not depend on the unit of
    the energy.

    Units that meet the end of their domain stop there, and their force counts for nothing while it pushes
    against it.

    Parameters
    ----------
    dt
        The first step; by default the longest, 1 over the root of the rate.
    dt_max
        The longest step; by default what is stable. It is never longer than that.
    grow, shrink, alpha, fade, delay
        What dt is multiplied by going down, after ``delay`` steps, and going up; alpha at the start, and what
        it is multiplied by going down. The defaults take half to three quarters of the steps of those of 2006
        (1.1, 0.5, 0.1, 0.99, 5) on layered networks, sparse coding and predictive coding, because the
        longest step is known from the start.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        dt: float | None = None,
        *,
        dt_max: float | None = None,
        grow: float = 1.1,
        shrink: float = 0.7,
        alpha: float = 0.25,
        fade: float = 0.98,
        delay: int = 2,
    ) -> None:
        given = {"dt": dt, "dt_max": dt_max, "shrink": shrink, "alpha": alpha, "fade": fade}
        positive(self, grow=grow, **{name: value for name, value in given.items() if value is not None})
        if grow < 1:
            raise ValueError(f"FIRE: grow must be at least 1, got {grow!r}")
        for name, value in (("shrink", shrink), ("alpha", alpha), ("fade", fade)):
            if value > 1:
                raise ValueError(f"FIRE: {name} must be at most 1, got {value!r}")
        if not isinstance(delay, int) or delay < 0:
            raise ValueError(f"FIRE: delay must be a whole number from 0 up, got {delay!r}")
        self.dt, self.dt_max, self.grow, self.shrink = dt, dt_max, grow, shrink
        self.alpha, self.fade, self.delay = alpha, fade, delay

    def init(self, flow: Flow, state: State) -> Any:
        flow = energy_flow(self, flow)
        velocity = flow.velocity(state)
        fastest = fastest_rate(flow, state, velocity)
        limit = self._limit(fastest)
        zero = torch.zeros_like(limit)
        return {
            "velocity": velocity,
            "speed": {name: torch.zeros_like(value) for name, value in state.items()},
            "dt": limit if self.dt is None else limit.clamp(max=self.dt),
            "alpha": zero + self.alpha,
            "downhill": zero,
            "rate": fastest,
        }

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        state, carry = self._step(flow, state, carry)
        return state, carry, flow.residual(state, carry["velocity"])

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        for _ in range(steps - 1):
            state, carry = self._step(flow, state, carry)
        return self.step(flow, state, carry, generator)

    def _limit(self, fastest: Tensor) -> Tensor:
        limit = fastest.clamp(min=torch.finfo(fastest.dtype).eps) ** -0.5
        return limit if self.dt_max is None else limit.clamp(max=self.dt_max)

    def _step(self, flow: Flow, state: State, carry: Any) -> tuple[State, Any]:
        assert isinstance(flow, EnergyFlow)
        velocity, speed, dt = carry["velocity"], carry["speed"], carry["dt"]
        weight = flow.metric(state)
        inward = flow.inward(state, velocity)
        push = {name: torch.where(inward[name] == 0, 0.0, value) for name, value in velocity.items()}
        power = inner(push, speed, weight)
        uphill = power < 0
        one = torch.ones_like(dt)
        downhill = torch.where(power > 0, carry["downhill"] + 1, 0.0)
        pace = downhill > self.delay
        back = torch.where(uphill, 0.5 * dt, 0.0)
        dt = dt * torch.where(uphill, self.shrink * one, torch.where(pace, self.grow * one, one))
        dt = torch.minimum(dt, self._limit(carry["rate"]))
        alpha = torch.where(uphill, self.alpha, carry["alpha"] * torch.where(pace, self.fade * one, one))
        new = {
            name: torch.where(column(uphill, v), 0.0, v) + column(dt, v) * push[name]
            for name, v in speed.items()
        }
        new = _turned(new, push, weight, alpha)
        free = {
            name: v + column(dt, v) * new[name] - column(back, v) * speed[name] for name, v in state.items()
        }
        moved = flow.project(free)
        there = flow.velocity(moved)
        sound = largest(there) < torch.inf
        found = rate(moved, state, there, velocity, carry["rate"], weight)
        good = sound & (found * dt.square() <= _UNSTABLE)
        worse = _WORSE * carry["rate"]
        found = torch.where(good, found, torch.where(sound, torch.minimum(found, worse), worse))
        kept = (_KEEP - _FORGET * downhill).clamp(min=_LEAST) * carry["rate"]
        new = {
            name: torch.where((moved[name] == free[name]) & column(good, v), v, 0.0)
            for name, v in new.items()
        }
        return choose(good, moved, state), {
            "velocity": choose(good, there, velocity),
            "speed": new,
            "dt": dt,
            "alpha": torch.where(good, alpha, self.alpha),
            "downhill": torch.where(good, downhill, 0.0),
            "rate": torch.maximum(found, kept),
        }


def _turned(speed: State, push: State, weight: State, alpha: Tensor) -> State:
    """The speed with a part of it turned towards the push; it keeps its norm where both are parallel."""
    norm = inner(push, push, weight)
    some = norm > 0
    square = torch.where(some, inner(speed, speed, weight), 1.0) / torch.where(some, norm, 1.0)
    share = torch.where(some, alpha * square.sqrt(), 0.0)  # the root of zero has no derivative
    return {n: column(1 - alpha, v) * v + column(share, v) * push[n] for n, v in speed.items()}
