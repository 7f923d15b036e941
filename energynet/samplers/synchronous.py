"""Synchronous dynamics: all units at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.conditional import ConditionalFlow, Kind
from energynet.energy import Energy
from energynet.flow import Clamp, Flow
from energynet.samplers.base import Sampler, Temperature
from energynet.samplers.single_unit import conditional
from energynet.samplers.sweep import Bath, Sweep
from energynet.state import State
from energynet.stopping import Never, Stationary, Until
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@final
class Synchronous(Sampler):
    """Updates all units at once, each as if the others stayed (Little 1974, Math. Biosci. 19:101).

    A step is one matrix product, but the energy may rise. With symmetric couplings a sample at T = 0 ends in
    a fixed point or in a cycle of two states (Goles, Fogelman and Pellegrin 1985, Discrete Appl. Math.
    12:261); its status then is `Status.CYCLE`, and it stays in one of the two. At T > 0 samples do not
    follow exp(-E / T), as those of `Gibbs` and `Glauber` do, but Little's distribution.

    Parameters
    ----------
    temperature
        T, 0 by default.
    """

    def __init__(self, temperature: float = 0.0) -> None:
        super().__init__(temperature)

    def until(self) -> Until:
        """At T = 0 a step that has moved nothing; above, never."""
        return Never() if self.temperature else Stationary(atol=0.0)

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

    def init(self, flow: Flow, state: State) -> Any:
        flow = conditional(self, flow)
        flow.check_curvature(state)
        for name in flow.names:
            couplings = flow.couplings((name,)) if flow.kind(name) is Kind.COUPLED else None
            _ = couplings is not None and couplings.hollow  # asks tensors for numbers, which no step may
        none = next(iter(state.values())).new_zeros(flow.batch)
        return {"before": dict(state), "cycling": none > 0, "changed": none, "updates": none}

    def sample(
        self,
        flow: Flow,
        state: State,
        carry: Any,
        generator: torch.Generator | None,
        temperature: Temperature,
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        flow = conditional(self, flow)
        sweep = Sweep(flow, state, Bath(temperature, generator))
        sweep.together()
        apart = [rows(sweep.state[name] - before).abs().amax(1) for name, before in carry["before"].items()]
        again = (torch.stack(apart).amax(0) == 0) & (sweep.changed > 0)
        cold = temperature == 0  # one for each sample, or one for all
        told = {
            "before": state,
            "cycling": again & cold,
            "changed": carry["changed"] + sweep.changed,
            "updates": carry["updates"] + sum(units.count for units in flow.units.values()),
        }
        return sweep.state, told, sweep.released

    def cycling(self, carry: Any) -> Bool[Tensor, batch]:
        return carry["cycling"]

    def statistics(self, carry: Any) -> dict[str, Float[Tensor, batch]]:
        return {"flips": carry["changed"] / carry["updates"].clamp(min=1.0)}
