"""Gradient descent with momentum: the heavy ball, and Nesterov's method with restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.flow import EnergyFlow, Flow, largest
from energynet.solvers.base import Solver, column, energy_flow, positive
from energynet.solvers.rate import inner
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Momentum(Solver):
    """Descent that goes on a part of the way it came: Nesterov's accelerated gradient, or the heavy ball.

    Nesterov (1983, Soviet Math. Dokl. 27:372) evaluates the velocity ahead, at y = s + m (s - s_before), and
    steps s <- y + dt * velocity(y). The heavy ball (Polyak 1964, USSR Comput. Math. Math. Phys. 4:1) uses the
    velocity at s: s <- s + dt * velocity(s) + m (s - s_before). The velocity is that of the flow: divided by
    the time constants, and in potentials where there are links.

    Points are projected onto the domains; the momentum of a unit that was stopped by an end is zero.

    Parameters
    ----------
    dt
        Step, in units of the time constants. With L the largest curvature of the energy over the time
        constant, Nesterov is stable below 4 / (3 L), for any momentum, and the heavy ball below
        2 (1 + m) / L.
    momentum
        m, from 0 to below 1. By default Nesterov's sequence, k / (k + 3) after k steps (Su, Boyd and Candes
        2016, J. Mach. Learn. Res. 17:153, eq. 2): with restart it takes at most 1.4 times the steps of the
        best constant on layered networks, whether well scaled or stiff, while a constant that is too small
        for a stiff one takes many times the steps. The heavy ball has no such sequence and needs a number.
        On a quadratic of curvatures l to L it is fastest for dt = (2 / (sqrt(L) + sqrt(l)))^2 and
        m = ((sqrt(L) - sqrt(l)) / (sqrt(L) + sqrt(l)))^2.
    nesterov
        Evaluate the velocity ahead, with which momentum converges on any convex energy of curvature up to
        1 / dt; the heavy ball may cycle where the energy is not quadratic.
    restart
        Drop the momentum of a sample when it points uphill: the gradient test of O'Donoghue and Candes (2015,
        Found. Comput. Math. 15:715, eq. 12), in the metric of the flow. The heavy ball, whose gradient is
        known before it moves, drops it at once.

    Raises
    ------
    ValueError
        If dt is not positive, the momentum not in [0, 1), or missing for the heavy ball.
    """

    def __init__(
        self, dt: float, momentum: float | None = None, *, nesterov: bool = True, restart: bool = True
    ) -> None:
        positive(self, dt=dt)
        if momentum is None and not nesterov:
            raise ValueError("Momentum: the heavy ball, nesterov=False, needs a momentum, such as 0.9")
        if momentum is not None and not (isinstance(momentum, (int, float)) and 0 <= momentum < 1):
            raise ValueError(
                f"Momentum: momentum must be a number from 0 to below 1, or None for Nesterov's sequence, "
                f"got {momentum!r}"
            )
        self.dt, self.momentum, self.nesterov, self.restart = dt, momentum, nesterov, restart

    def init(self, flow: Flow, state: State) -> Any:
        if self.restart:
            energy_flow(self, flow)
        carry: dict[str, Any] = {"shift": {name: torch.zeros_like(v) for name, v in state.items()}}
        if self.momentum is None:
            carry["age"] = torch.zeros_like(largest(state))
        return carry

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        if self.nesterov:
            state, carry, ahead, velocity = self._nesterov(flow, state, carry)
            return state, carry, flow.residual(ahead, velocity)
        before = state
        state, carry, velocity = self._heavy_ball(flow, state, carry)
        # a ball may pass a stationary point at speed; where it rolls evenly both are about the same
        pace = (1 - (self.momentum or 0.0)) / self.dt * largest(carry["shift"])
        return state, carry, torch.maximum(flow.residual(before, velocity), pace)

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        advance = self._nesterov if self.nesterov else self._heavy_ball
        for _ in range(steps - 1):
            state, carry, *_ = advance(flow, state, carry)
        return self.step(flow, state, carry, generator)

    def _nesterov(self, flow: Flow, state: State, carry: Any) -> tuple[State, Any, State, State]:
        factor = carry["age"] / (carry["age"] + 3) if self.momentum is None else self.momentum
        ahead = flow.project(_coast(state, carry["shift"], factor))
        velocity = flow.velocity(ahead)
        new, shift = self._move(flow, state, ahead, velocity)
        keep = self._downhill(flow, ahead, {name: new[name] - ahead[name] for name in new}, shift)
        carry = {**carry, "shift": _kept(shift, keep)}
        if self.momentum is None:
            age = carry["age"] + 1
            carry["age"] = age if keep is None else age * keep
        return new, carry, ahead, velocity

    def _heavy_ball(self, flow: Flow, state: State, carry: Any) -> tuple[State, Any, State]:
        velocity = flow.velocity(state)
        shift = _kept(carry["shift"], self._downhill(flow, state, velocity, carry["shift"]))
        new, shift = self._move(flow, state, _coast(state, shift, self.momentum or 0.0), velocity)
        return new, {"shift": shift}, velocity

    def _move(self, flow: Flow, state: State, ahead: State, velocity: State) -> tuple[State, State]:
        """The next state, and how far it moved, zero for units that an end stopped."""
        free = {name: torch.add(value, velocity[name], alpha=self.dt) for name, value in ahead.items()}
        new = flow.project(free)
        return new, {n: torch.where(v == free[n], v - state[n], 0.0) for n, v in new.items()}

    def _downhill(self, flow: Flow, at: State, push: State, shift: State) -> Tensor | None:
        """Which samples may keep their momentum; None: all."""
        if not self.restart:
            return None
        assert isinstance(flow, EnergyFlow)
        return inner(push, shift, flow.metric(at)) >= 0


def _coast(state: State, shift: State, factor: Tensor | float) -> State:
    if isinstance(factor, Tensor):
        return {n: torch.addcmul(v, column(factor, v), shift[n]) for n, v in state.items()}
    return {n: torch.add(v, shift[n], alpha=factor) for n, v in state.items()}


def _kept(shift: State, keep: Tensor | None) -> State:
    return shift if keep is None else {n: v * column(keep, v) for n, v in shift.items()}
