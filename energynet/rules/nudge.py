"""The nudge: a cost times a variable, so that one energy serves every strength and sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from energynet.cost import TARGET, Cost
from energynet.energy import Energy, State, Sum
from energynet.flow import EnergyFlow
from energynet.settle import Solution, Until, flow_of, relax
from energynet.solvers import Solver
from energynet.variable import Real

NUDGE = "nudge"


@final
class Nudge(Energy):
    """E = nudge * cost, where ``nudge`` is a variable with one number for each sample."""

    def __init__(self, cost: Cost) -> None:
        if NUDGE in cost.variables:
            raise ValueError(f"{NUDGE!r} is the name of the nudge's strength; call the output otherwise")
        super().__init__(**cost.variables, **{NUDGE: Real()})
        self.cost = cost

    def energy(self, **state: Tensor) -> Tensor:
        strength = state.pop(NUDGE)
        return strength * self.cost.energy(**state)

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        self.cost.check_values({name: value for name, value in state.items() if name != NUDGE})


class Nudged:
    """An energy with a nudge, conditioned on a batch of data; settled at several strengths.

    Parameters
    ----------
    energy, nudge
        What is settled.
    data
        The clamped values and the target.
    """

    def __init__(self, energy: Energy, nudge: Nudge, data: Mapping[str, Tensor]) -> None:
        self.energy = Sum([energy, nudge])
        self.nudge = nudge
        self._conditioned = self.energy.condition(**data)
        self._batch = len(next(iter(data.values())))
        known = [*data.values(), *energy.parameters()]
        like = next((v for v in known if v.is_floating_point()), torch.empty(0))
        self.like = like.new_zeros(self._batch)

    def settle(
        self,
        strength: float | Tensor,
        state: State | None = None,
        *,
        solver: Solver | None,
        max_steps: int,
        until: Until | None,
    ) -> Solution:
        """Settle under a nudge of some strength, from a state."""
        if not isinstance(strength, Tensor):
            strength = self.like.new_full((self._batch,), strength)
        flow: EnergyFlow = flow_of(self._conditioned, {NUDGE: strength}, state)
        return relax(flow, solver=solver, max_steps=max_steps, until=until)

    def cost(self, solution: Solution) -> Tensor:
        """The mean cost at a solution."""
        cost = self.nudge.cost
        return cost.energy(**{name: solution.state[name] for name in (cost.output, TARGET)}).mean()
