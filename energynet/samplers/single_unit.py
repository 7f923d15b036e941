"""Samplers that give one unit after the other a value, by its distribution given all the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.conditional import ConditionalFlow
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import Flow
from energynet.samplers.base import Sampler, Temperature
from energynet.samplers.sweep import Bath, Sweep
from energynet.state import State
from energynet.units import Pair

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
    ) -> ConditionalFlow:
        return ConditionalFlow(energy, clamp, state, generator=generator, differentiable=differentiable)

    @abstractmethod
    def prepare(self, flow: ConditionalFlow) -> None:
        """Find out what sweeps need to know of the energy, for they must not ask tensors for numbers."""

    @abstractmethod
    def sweep(self, flow: ConditionalFlow, sweep: Sweep, generator: torch.Generator | None) -> None:
        """The updates of one sweep."""

    @final
    def init(self, flow: Flow, state: State) -> Any:
        flow = conditional(self, flow)
        flow.check_curvature(state)
        self.prepare(flow)
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
        return self._sweeps(flow, state, carry, generator, temperature, 1)

    @final
    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        return self._sweeps(flow, state, carry, generator, self.temperature, steps)

    def _sweeps(
        self,
        flow: Flow,
        state: State,
        carry: Any,
        generator: torch.Generator | None,
        temperature: Temperature,
        steps: int,
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        flow = conditional(self, flow)
        sweep = Sweep(flow, state, Bath(temperature, generator))
        for step in range(steps):
            sweep.begin(last=step == steps - 1)
            self.sweep(flow, sweep, generator)
        updates = carry["updates"] + steps * sum(units.count for units in flow.units.values())
        return sweep.state, {"changed": carry["changed"] + sweep.changed, "updates": updates}, sweep.released

    def statistics(self, carry: Any) -> dict[str, Float[Tensor, batch]]:
        return {"flips": carry["changed"] / carry["updates"].clamp(min=1.0)}


def conditional(sampler: Sampler, flow: Flow) -> ConditionalFlow:
    """The flow, if it is one of units given all others; else `SettlingError`."""
    if not isinstance(flow, ConditionalFlow):
        raise SettlingError(
            f"{type(sampler).__name__} draws one unit given all others, so it needs a ConditionalFlow, "
            f"got a {type(flow).__name__}"
        )
    return flow


def in_order(
    flow: ConditionalFlow, sweep: Sweep, names: Sequence[str], order: Tensor, *, repeats: bool = False
) -> None:
    """Update units of some variables, of one of its courses, in an order."""
    couplings = flow.couplings(names)
    if isinstance(flow.units[names[0]], Pair):
        if couplings is None:
            sweep.energies(names, order)
        else:
            sweep.sequence(names, couplings, order, repeats=repeats)
    elif couplings is None:
        sweep.choices(names[0], order)
    else:
        sweep.one_by_one(names[0], couplings, order)
