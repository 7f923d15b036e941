"""Embedded Runge-Kutta with error control for each sample."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import Flow, largest
from energynet.solvers.base import Solver, column, positive
from energynet.solvers.dormand_prince import trial
from energynet.solvers.rate import choose, inner, rate
from energynet.state import State
from energynet.stopping import Stationary, Until
from energynet.variable import rows

_FINE, _COARSE = 1e-6, 1e-4  # rtol in float64 and in float32, whose rounding is 1e-7
_ABSOLUTE = 1e-3  # atol, in units of rtol
_ROUNDING = 10  # errors cannot be told below this many spacings of numbers
# Hairer, Norsett and Wanner 1993, section II.4, and the proportional-integral control of their DOPRI5
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_INTEGRAL = 0.04
_PROPORTIONAL = 0.2 - 0.75 * _INTEGRAL
_CALM = 1e-4  # an error below this one is remembered as this one
_TINY, _WILD = 1e-16, 1e16  # squares of errors that shrink and grow a step as much as may be
# The polynomial of stability is 0.57 at -3, on the way to 1 at -3.3: there stiff modes fall quickly.
_STABLE = 3.0
_FORGET = 0.9


@final
class Adaptive(Solver):
    """Dormand and Prince's Runge-Kutta pair of orders 5 and 4; each sample has its own steps.

    A step is accepted where the estimate of its error, the root mean square over the units of a sample of
    error / (atol + rtol * |u|), is at most 1, u being what is integrated: potentials, else values. A sample
    whose step is rejected stays where it is and tries a smaller one. Steps are chosen by the proportional-
    integral control, and the first one by the rule, of Hairer, Norsett and Wanner (1993, Solving Ordinary
    Differential Equations I, section II.4).

    Near a stationary point what limits a step is stability, of which errors tell only once they have grown to
    the tolerance. So the largest rate of relaxation is estimated from the last two stages, as by Hairer and
    Wanner (1996, Solving Ordinary Differential Equations II, section IV.2), and steps are kept below 3 over
    it: the residual falls to rounding whatever the tolerances are.

    Every stage is projected onto the domains. Where no end of a domain is met the order is 5. Where one is
    met within a step the velocity jumps, and the error of that step is of second order in its length; the
    estimate sees the jump, and the step is shortened until it fits the tolerance.

    Parameters
    ----------
    rtol, atol
        Tolerances of the error of a step. By default rtol is 1e-6 in float64 and 1e-4 in float32, whose
        rounding is 1e-7, and atol is rtol / 1000: more than settling needs, at hardly more steps on stiff
        networks. Below ten times the spacing of the numbers of a sample they have no effect.
    time
        Integrate for this time, in units of the time constants: the last step of a sample ends there, and
        there it stays. The residual that `step` reports is then the time that is left, so that settling ends,
        with the status ``CONVERGED``, when it is zero. By default until stationary.

    Raises
    ------
    ValueError
        If a tolerance is negative or both are zero, or ``time`` is not positive.
    """

    def __init__(
        self, rtol: float | None = None, atol: float | None = None, *, time: float | None = None
    ) -> None:
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value < torch.inf):
                raise ValueError(f"Adaptive: {name} must be a number from 0 up, got {value!r}")
        if rtol == 0 and not atol:
            raise ValueError("Adaptive: rtol and atol are both zero; give one of them a positive number")
        if time is not None:
            positive(self, time=time)
        self.rtol, self.atol, self.time = rtol, atol, time

    def until(self) -> Until:
        """`Stationary`; with ``time``, when no time is left."""
        return Stationary() if self.time is None else Stationary(atol=0.0)

    def init(self, flow: Flow, state: State) -> Any:
        velocity = flow.velocity(state)
        dt = self._initial(flow, state, velocity)
        zero = torch.zeros_like(dt)
        return {
            "dt": dt,
            "velocity": velocity,
            "time": zero,
            "error": zero + _CALM,
            "growth": zero + _GROW,
            "rate": zero,
            "accepted": zero,
            "rejected": zero,
        }

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        state, carry = self._step(flow, state, carry)
        residual = flow.residual(state, carry["velocity"])
        if self.time is not None:
            residual = self.time - carry["time"] + 0.0 * residual  # NaN where the velocity is not finite
        return state, carry, residual

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        for _ in range(steps - 1):
            state, carry = self._step(flow, state, carry)
        return self.step(flow, state, carry, generator)

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        """The time that each sample has reached, and how many steps were accepted and rejected."""
        return {name: carry[name] for name in ("time", "accepted", "rejected")}

    def _step(self, flow: Flow, state: State, carry: Any) -> tuple[State, Any]:
        dt, time = carry["dt"], carry["time"]
        ends = torch.zeros_like(dt, dtype=torch.bool)
        done = ends
        if self.time is not None:
            left = self.time - time
            done, ends = left <= 0, dt >= left
            dt = torch.where(ends, left, dt)
        new = trial(flow, state, carry["velocity"], dt)
        square = self._mean_square(new.error, state, new.point)
        accept = (square <= 1) & ~done
        factor = _SAFETY * torch.where(square < torch.inf, square, _WILD).clamp(min=_TINY) ** (
            -_PROPORTIONAL / 2
        )
        factor = torch.where(accept, factor * carry["error"] ** _INTEGRAL, factor)
        factor = torch.minimum(factor.clamp(min=_SHRINK), carry["growth"])
        found = rate(new.point, new.sixth, new.velocity, new.sixth_velocity, carry["rate"])
        fastest = torch.where(accept, torch.maximum(found, _FORGET * carry["rate"]), carry["rate"])
        limit = _STABLE / fastest.clamp(min=torch.finfo(dt.dtype).eps)
        zero = torch.zeros_like(dt)
        return choose(accept, new.point, state), {
            "dt": torch.where(done, carry["dt"], torch.minimum(dt * factor, limit)),
            "velocity": choose(accept, new.velocity, carry["velocity"]),
            "time": torch.where(accept, torch.where(ends, self.time or 0.0, time + dt), time),
            "error": torch.where(accept, square.clamp(min=_CALM**2) ** 0.5, carry["error"]),
            "growth": torch.where(accept, zero + _GROW, 1.0),
            "rate": fastest,
            "accepted": carry["accepted"] + accept,
            "rejected": carry["rejected"] + ~(accept | done),
        }

    def _tolerances(self, like: Tensor) -> tuple[float, float]:
        rtol = self.rtol
        if rtol is None:
            rtol = _FINE if like.dtype == torch.float64 else _COARSE
        return rtol, rtol * _ABSOLUTE if self.atol is None else self.atol

    def _mean_square(self, what: State, point: State, other: State | None = None) -> Tensor:
        """The mean square, over the units of each sample, of something in units of the tolerance."""
        dtype = next(iter(point.values())).dtype
        least = (_ROUNDING * torch.finfo(dtype).eps * largest(point)).clamp(min=torch.finfo(dtype).tiny)
        scaled: State = {}
        for name, value in what.items():
            rtol, atol = self._tolerances(value)
            size = point[name].abs()
            if other is not None:
                size = torch.maximum(size, other[name].abs())
            scaled[name] = value / torch.maximum(atol + rtol * size, column(least, value))
        return inner(scaled, scaled) / sum(rows(value).shape[1] for value in what.values())

    def _initial(self, flow: Flow, point: State, velocity: State) -> Tensor:
        """The rule of Hairer, Norsett and Wanner (1993, section II.4) for the first step."""
        size, speed = (self._mean_square(each, point) for each in (point, velocity))
        tells = (size >= 1e-10) & (speed >= 1e-10)
        first = torch.where(tells, 0.01 * (size / torch.where(tells, speed, 1.0)).sqrt(), 1e-6)
        ahead = flow.project({n: v + velocity[n] * column(first, v) for n, v in point.items()})
        there = flow.velocity(ahead)
        change = {name: value - velocity[name] for name, value in there.items()}
        curvature = self._mean_square(change, point) / first.square()
        steepest = torch.maximum(speed, curvature).clamp(min=1e-30)
        second = torch.where(steepest > 1e-30, (1e-4 / steepest) ** 0.1, (1e-3 * first).clamp(min=1e-6))
        return torch.minimum(100 * first, torch.maximum(second, 1e-3 * first))
