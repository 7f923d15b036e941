"""Hamiltonian Monte Carlo, and MALA, which is its shortest trajectory."""

from __future__ import annotations

import math
from abc import abstractmethod
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
from energynet.samplers.noise import Randomness, uniform
from energynet.solvers.base import positive
from energynet.state import State
from energynet.variable import rows


class Metropolis(ContinuousSampler):
    """A leapfrog trajectory from fresh momenta, and a Metropolis test of its end.

    Reflection at walls keeps the trajectory reversible and its volume, so that the test is exact with it
    (Afshar and Domke 2015, NeurIPS 28). An end whose energy or force is NaN is rejected.
    """

    def __init__(self, temperature: float) -> None:
        positive(self, temperature=temperature)
        super().__init__(temperature)

    @abstractmethod
    def trajectory(self) -> tuple[float, int]:
        """Size and number of the leapfrog steps."""

    def init(self, flow: Flow, state: State) -> Any:
        flow = lifted(self, flow)
        energy, force = flow.forces.energy_and_force(state)
        count = torch.zeros_like(energy)
        return {
            "force": flow.pulled(state, force),
            "energy": energy,
            "volume": _volume(flow, state, energy),
            "accepted": count,
            "proposed": count,
        }

    @final
    def move(
        self,
        flow: LiftedFlow,
        state: State,
        force: State,
        carry: Any,
        generator: Randomness,
        temperature: Temperature,
    ) -> tuple[State, Any]:
        size, steps = self.trajectory()
        deviation = root(temperature)
        start = noise(flow, state, generator)
        # momenta are in units of their standard deviation, the root of mass times temperature
        kicks = {n: size / (2 * math.sqrt(v.tau)) / deviation for n, v in flow.variables.items()}
        drifts = {n: size / math.sqrt(v.tau) * deviation for n, v in flow.variables.items()}
        pull = with_volume(flow, state, force, temperature)
        momentum = {n: plus(start[n], pull[n], kicks[n]) for n in start}
        end, energy, ahead = state, carry["energy"], force
        for left in reversed(range(steps)):
            end, signs = flow.reflect({n: plus(end[n], momentum[n], drifts[n]) for n in momentum})
            for name, sign in signs.items():
                momentum[name].mul_(sign)
            if left:
                ahead = flow.forces.force(end)
            else:
                energy, ahead = flow.forces.energy_and_force(end)
            ahead = flow.pulled(end, ahead)
            pull = with_volume(flow, end, ahead, temperature)
            for name, kick in kicks.items():
                add_to(momentum[name], pull[name], 2 * kick if left else kick)
        volume = _volume(flow, end, energy)
        gain = (carry["energy"] - energy) / temperature + volume - carry["volume"]
        for name in start:
            gain = gain + 0.5 * (_square(start[name]) - _square(momentum[name]))
        accept = uniform(tuple(gain.shape), gain, generator).log() < gain  # false where the gain is NaN
        place = torch.arange(len(gain), device=gain.device)
        place = torch.where(accept, place + len(gain), place)
        carry = {
            "force": {n: _chosen(ahead[n], force[n], place) for n in force},
            "energy": torch.where(accept, energy, carry["energy"]),
            "volume": torch.where(accept, volume, carry["volume"]),
            "accepted": carry["accepted"] + accept,
            "proposed": carry["proposed"] + 1,
        }
        return {n: _chosen(end[n], state[n], place) for n in state}, carry

    @final
    def statistics(self, carry: Any) -> dict[str, Tensor]:
        return {"acceptance": carry["accepted"] / carry["proposed"].clamp(min=1)}


@final
class HamiltonianMonteCarlo(Metropolis):
    """Hamiltonian Monte Carlo (Duane et al. 1987, Phys. Lett. B 195:216; Neal 2011): no bias at any ``dt``.

    Each step draws momenta of variance mass times T, where the mass is the time constant, follows the
    Hamiltonian by ``steps`` leapfrog steps and accepts the end by the rule of Metropolis. In high dimension
    about 0.65 of the proposals are accepted at the best ``dt`` (Beskos et al. 2013, Bernoulli 19:1501).

    ``statistics`` of the solution has the rate of ``"acceptance"`` of each chain.

    Parameters
    ----------
    dt
        Size of a leapfrog step. Stable below 2 over the square root of the largest curvature over the mass.
    steps
        Leapfrog steps, and so evaluations of the force, for each step of the chain.
    temperature
        T: one number, 1 by default.

    Raises
    ------
    ValueError
        If ``dt`` or ``temperature`` is not a positive number, or ``steps`` is not a positive whole number.
    """

    def __init__(self, dt: float, steps: int, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        positive(self, dt=dt)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"{type(self).__name__}: steps must be a whole number above 0, got {steps!r}")
        self.dt = float(dt)
        self.steps = steps

    def trajectory(self) -> tuple[float, int]:
        return self.dt, self.steps


@final
class MALA(Metropolis):
    """The Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996, Bernoulli 2:341): no bias.

    It proposes steps of `Langevin` and accepts them by the rule of Metropolis. That is one leapfrog step of
    size sqrt(2 dt), and is done so: one evaluation of energy and force for each step. In high dimension about
    0.57 of the proposals are accepted at the best ``dt`` (Roberts and Rosenthal 1998, J. R. Stat. Soc. B
    60:255).

    ``statistics`` of the solution has the rate of ``"acceptance"`` of each chain.

    Parameters
    ----------
    dt
        Step of the proposal, in units of the time constants.
    temperature
        T: one number, 1 by default.

    Raises
    ------
    ValueError
        If ``dt`` or ``temperature`` is not a positive number.
    """

    def __init__(self, dt: float, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        positive(self, dt=dt)
        self.dt = float(dt)

    def trajectory(self) -> tuple[float, int]:
        return math.sqrt(2 * self.dt), 1


def _volume(flow: LiftedFlow, state: State, energy: Tensor) -> Tensor:
    volume = flow.volume(state)
    return torch.zeros_like(energy) if volume is None else volume


def _square(momentum: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows(momentum), dim=1).square()


def _chosen(new: Tensor, old: Tensor, place: Tensor) -> Tensor:
    """The rows of both, old before new, at some places: a third of the time of `torch.where`."""
    return torch.cat((old, new)).index_select(0, place)
