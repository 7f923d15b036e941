"""What samplers of continuous variables share: their flow, their forces, their noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import Flow
from energynet.lifted import LiftedFlow
from energynet.samplers.base import Sampler, Temperature
from energynet.samplers.noise import Randomness, normal
from energynet.solvers.base import column
from energynet.state import State


class ContinuousSampler(Sampler):
    """Samples the law exp(-E / T) of values by steps of what a `LiftedFlow` integrates.

    That is the potential of a variable that has a link: its density has the slope of the link as a factor, so
    that values have the density exp(-E / T). Walls of other bounded variables reflect. Entries that are held
    by a `Partial` clamp do not move.

    Parameters
    ----------
    temperature
        T: one number, 1 by default.
    """

    @final
    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> LiftedFlow:
        """The flow of the energy as a function of the potentials; the arguments are those of `EnergyFlow`.

        Raises
        ------
        SettlingError
            If a free variable is discrete, or has a link that is constant somewhere.
        """
        flow = LiftedFlow(energy, clamp, state, generator=generator, differentiable=differentiable)
        flow.volume(flow.start)  # a link without a density says so
        return flow

    def force(self, flow: LiftedFlow, state: State, carry: Any) -> State:
        """The force of the energy on the state, from the carry where that holds it."""
        return carry["force"]

    @abstractmethod
    def move(
        self,
        flow: LiftedFlow,
        state: State,
        force: State,
        carry: Any,
        generator: Randomness,
        temperature: Temperature,
    ) -> tuple[State, Any]:
        """One step from a state and the force on it: the next state and carry."""

    @final
    def sample(
        self,
        flow: Flow,
        state: State,
        carry: Any,
        generator: torch.Generator | None,
        temperature: Temperature,
    ) -> tuple[State, Any, Tensor]:
        flow = lifted(self, flow)
        force = self.force(flow, state, carry)
        residual = flow.residual(state, flow.velocity_from(dict(force)))
        return *self.move(flow, state, force, carry, generator, temperature), residual

    @final
    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        moved = lifted(self, flow)
        for _ in range(steps - 1):  # without the residual, for which nobody asks
            force = self.force(moved, state, carry)
            state, carry = self.move(moved, state, force, carry, generator, self.temperature)
        return self.step(flow, state, carry, generator)


def lifted(sampler: Sampler, flow: Flow) -> LiftedFlow:
    """The flow, if it is one that reflects and knows its volume; else `SettlingError`."""
    if not isinstance(flow, LiftedFlow):
        raise SettlingError(
            f"{type(sampler).__name__} samples along a LiftedFlow, got a {type(flow).__name__}; make the "
            "flow by the sampler's own method flow"
        )
    return flow


def with_volume(flow: LiftedFlow, state: State, force: State, temperature: Temperature) -> State:
    """The force on a state, of the energy less T times the logarithm of the volume."""
    if not flow.links:
        return force
    total = dict(force)
    for name, stretch in flow.volume_force(state).items():
        total[name] = plus(force[name], stretch, temperature)
    return total


def noise(flow: LiftedFlow, state: State, generator: Randomness) -> State:
    """Standard normal numbers for every entry, zero where it is held."""
    drawn: State = {}
    for name in flow.names:
        value = normal(tuple(state[name].shape), state[name], generator)
        drawn[name] = value.masked_fill(flow.held[name], 0.0) if name in flow.held else value
    return drawn


def root(temperature: Temperature) -> Temperature:
    """The square root."""
    return temperature.sqrt() if isinstance(temperature, Tensor) else math.sqrt(temperature)


def plus(value: Tensor, change: Tensor, factor: float | Tensor) -> Tensor:
    """``value + factor * change``, where the factor is a number or one for each sample."""
    if isinstance(factor, Tensor):
        return torch.addcmul(value, change, column(factor, value))
    return torch.add(value, change, alpha=factor)


def add_to(value: Tensor, change: Tensor, factor: float | Tensor) -> Tensor:
    """`plus` into the memory of ``value``."""
    if isinstance(factor, Tensor):
        return value.addcmul_(change, column(factor, value))
    return value.add_(change, alpha=factor)
