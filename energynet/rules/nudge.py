"""The nudge: a cost times a variable, so that one energy serves every strength and sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from energynet.cost import Cost
from energynet.energy import Energy, Sum
from energynet.rules.base import settled
from energynet.settle import flow_of
from energynet.solution import Solution
from energynet.solvers import Solver
from energynet.state import State
from energynet.stopping import Until
from energynet.terms.graph import predicted
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
        with torch.no_grad():
            self._start = predicted(energy, data)
        self._batch = len(next(iter(data.values())))
        known = [*data.values(), *energy.parameters()]
        like = next((v for v in known if v.is_floating_point()), torch.empty(0))
        self.like = like.new_zeros(self._batch)

    def free(
        self,
        *,
        solver: Solver | None,
        max_steps: int,
        until: Until | None,
        compile: bool = False,  # noqa: A002
    ) -> Solution:
        """Settle without a nudge, from what the data predict where the energy has predictions."""
        flow = flow_of(self._conditioned, {NUDGE: self._strength(0.0)}, self._start, solver=solver)
        return settled(flow, solver=solver, max_steps=max_steps, until=until, compile=compile)

    def nudged(
        self,
        strength: float | Tensor,
        free: Solution,
        start: State,
        *,
        solver: Solver | None,
        max_steps: int,
        until: Until | None,
        compile: bool = False,  # noqa: A002
    ) -> Solution:
        """Settle under a nudge, from some point, on the flow of the free phase."""
        flow = free.flow.rebind(start, **{NUDGE: self._strength(strength)})
        return settled(flow, solver=solver, max_steps=max_steps, until=until, compile=compile)

    def _strength(self, strength: float | Tensor) -> Tensor:
        return strength if isinstance(strength, Tensor) else self.like.new_full((self._batch,), strength)
