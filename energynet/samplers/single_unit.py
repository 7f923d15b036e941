"""Samplers that give one unit after the other a value, by its distribution given all the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.discrete import DiscreteFlow
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import Flow
from energynet.samplers.base import Sampler, Temperature
from energynet.samplers.sweep import HeatBath, Sweep
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Float


class SingleUnit(Sampler):
    """A step is a sweep: as many updates as there are units.

    The statistic ``"flips"`` is the part of the updates that have changed their unit.
    """

    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> DiscreteFlow:
        return DiscreteFlow(energy, clamp, state, generator=generator, differentiable=differentiable)

    @abstractmethod
    def prepare(self, flow: DiscreteFlow) -> None:
        """Find out what sweeps need to know of the energy, for they must not ask tensors for numbers."""

    @abstractmethod
    def sweep(self, flow: DiscreteFlow, sweep: Sweep, generator: torch.Generator | None) -> None:
        """The updates of one sweep."""

    @final
    def init(self, flow: Flow, state: State) -> Any:
        self.prepare(discrete(self, flow))
        batch = next(iter(state.values()))
        return {"changed": batch.new_zeros(len(batch)), "updates": batch.new_zeros(len(batch))}

    @final
    def sample(
        self,
        flow: Flow,
        state: State,
        carry: Any,
        generator: torch.Generator | None,
        temperature: Temperature,
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        flow = discrete(self, flow)
        sweep = Sweep(flow, state, HeatBath(temperature, generator))
        self.sweep(flow, sweep, generator)
        updates = carry["updates"] + sum(flow.size(name) for name in flow.names)
        return sweep.state, {"changed": carry["changed"] + sweep.changed, "updates": updates}, sweep.released

    def statistics(self, carry: Any) -> dict[str, Float[Tensor, batch]]:
        return {"flips": carry["changed"] / carry["updates"].clamp(min=1.0)}


def discrete(sampler: Sampler, flow: Flow) -> DiscreteFlow:
    """The flow, if it is one of two-valued units; else `SettlingError`."""
    if not isinstance(flow, DiscreteFlow):
        raise SettlingError(
            f"{type(sampler).__name__} moves units with two values, so it needs a DiscreteFlow, "
            f"got a {type(flow).__name__}"
        )
    return flow


def in_order(flow: DiscreteFlow, sweep: Sweep, order: Tensor, *, repeats: bool) -> None:
    """Update units of all variables in an order."""
    couplings = flow.couplings(flow.names)
    if couplings is None:
        sweep.energies(flow.names, order)
    else:
        sweep.sequence(flow.names, couplings, order, repeats=repeats)
