"""Underdamped Langevin dynamics."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.lifted import LiftedFlow
from energynet.samplers.base import Temperature
from energynet.samplers.continuous import (
    ContinuousSampler,
    add_to,
    lifted,
    noise,
    plus,
    root,
    with_volume,
)
from energynet.samplers.noise import Randomness
from energynet.solvers.base import column, positive
from energynet.state import State


@final
class Underdamped(ContinuousSampler):
    """Langevin dynamics with inertia, dp = F dt - friction p dt + sqrt(2 friction T m) dW and m du = p dt.

    By the splitting BAOAB (Leimkuhler and Matthews 2013, J. Chem. Phys. 138:174102): half a kick, half a
    drift, friction and noise, half a drift, half a kick; one force a step. The mass m is the time constant.
    The law of positions differs from exp(-E / T) at second order in dt, and not at all where the energy is
    quadratic.

    The carry holds the momenta over the square root of the mass. The noise of the first step draws them, so
    that chains that go on from where others ended do so at temperature; that step is without friction.

    Parameters
    ----------
    dt
        Step. Stable below 2 over the square root of the largest curvature of the energy over the mass.
    friction
        The rate at which momenta forget. A direction mixes fastest where it is twice its frequency, the root
        of curvature over mass.
    temperature
        T: one number, 1 by default.

    Raises
    ------
    ValueError
        If ``dt`` or ``friction`` is not a positive number, or ``temperature`` is not a number from 0 up.
    """

    def __init__(self, dt: float, friction: float, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        positive(self, dt=dt, friction=friction)
        self.dt = float(dt)
        self.friction = float(friction)

    def init(self, flow: Flow, state: State) -> Any:
        flow = lifted(self, flow)
        first = next(iter(state.values()))
        return {
            "momentum": {name: torch.zeros_like(value) for name, value in state.items()},
            "force": flow.pulled(state, flow.forces.force(state)),
            "fresh": first.new_ones(len(first)),
        }

    def moved(self, carry: Any, ratio: Tensor) -> Any:
        scale = ratio.sqrt()
        momentum = {name: value * column(scale, value) for name, value in carry["momentum"].items()}
        return {**carry, "momentum": momentum}

    def move(
        self,
        flow: LiftedFlow,
        state: State,
        force: State,
        carry: Any,
        generator: Randomness,
        temperature: Temperature,
    ) -> tuple[State, Any]:
        fresh, random, deviation = carry["fresh"], noise(flow, state, generator), root(temperature)
        kept = math.exp(-self.friction * self.dt)
        keep = kept + fresh * (1 - kept)
        spread = (1 - fresh) * (deviation * math.sqrt(1 - kept**2))
        momentum = {n: plus(p, random[n], fresh * deviation) for n, p in carry["momentum"].items()}
        self._kick(flow, momentum, with_volume(flow, state, force, temperature))
        state = self._drift(flow, state, momentum)
        for name, value in momentum.items():
            add_to(value.mul_(column(keep, value)), random[name], spread)
        state = self._drift(flow, state, momentum)
        force = flow.pulled(state, flow.forces.force(state))
        self._kick(flow, momentum, with_volume(flow, state, force, temperature))
        return state, {"momentum": momentum, "force": force, "fresh": torch.zeros_like(fresh)}

    def _kick(self, flow: LiftedFlow, momentum: State, force: State) -> None:
        """Half a step of the momenta, in place."""
        for name, variable in flow.variables.items():
            add_to(momentum[name], force[name], self.dt / (2 * math.sqrt(variable.tau)))

    def _drift(self, flow: LiftedFlow, state: State, momentum: State) -> State:
        """Half a step of the positions; momenta turn in place."""
        moved, signs = flow.reflect(
            {
                name: plus(state[name], momentum[name], self.dt / (2 * math.sqrt(variable.tau)))
                for name, variable in flow.variables.items()
            }
        )
        for name, sign in signs.items():
            momentum[name].mul_(sign)
        return moved
