"""Overdamped Langevin dynamics."""

from __future__ import annotations

from typing import Any, final

from energynet.lifted import LiftedFlow
from energynet.samplers.base import Temperature
from energynet.samplers.continuous import ContinuousSampler, add_to, noise, plus, root, with_volume
from energynet.samplers.noise import Randomness
from energynet.solvers.base import positive
from energynet.state import State


@final
class Langevin(ContinuousSampler):
    """The unadjusted Langevin algorithm: tau du = F dt + sqrt(2 T tau) dW in Euler-Maruyama steps.

    u <- u + dt F / tau + sqrt(2 T dt / tau) xi with standard normal xi (Roberts and Tweedie 1996, Bernoulli
    2:341). Its law differs from exp(-E / T) at first order in dt: on a quadratic energy of curvature k the
    variance is T / (k (1 - k dt / (2 tau))). `MALA` makes the same proposals and has no such bias.

    A link makes steps in its potential, where the law has tails that no domain's end cuts off; a bounded
    variable without one is reflected at its ends.

    Parameters
    ----------
    dt
        Step, in units of the time constants. Stable below 2 over the largest curvature of the energy.
    temperature
        T: one number, 1 by default; at 0 these are steps of `Euler`, but that walls reflect.

    Raises
    ------
    ValueError
        If ``dt`` is not a positive number, or ``temperature`` is not a number from 0 up.
    """

    def __init__(self, dt: float, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        positive(self, dt=dt)
        self.dt = float(dt)

    def force(self, flow: LiftedFlow, state: State, carry: Any) -> State:
        return flow.pulled(state, flow.forces.force(state))

    def move(
        self,
        flow: LiftedFlow,
        state: State,
        force: State,
        carry: Any,
        generator: Randomness,
        temperature: Temperature,
    ) -> tuple[State, Any]:
        drift, deviation = with_volume(flow, state, force, temperature), root(temperature)
        random = noise(flow, state, generator)
        moved: State = {}
        for name, variable in flow.variables.items():
            pace = self.dt / variable.tau
            moved[name] = add_to(
                plus(state[name], drift[name], pace), random[name], deviation * (2 * pace) ** 0.5
            )
        return flow.reflect(moved)[0], carry
