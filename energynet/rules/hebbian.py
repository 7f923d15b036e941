"""Contrastive Hebbian learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.flow import EnergyFlow
from energynet.rules.base import LearningRule, Phase, require, settled
from energynet.settle import flow_of
from energynet.solution import Solution
from energynet.solvers import Solver
from energynet.stopping import Status, Until


@final
class ContrastiveHebbian(LearningRule):
    """Lower the energy of the clamped state, raise that of the free one.

    The value is the contrast E(clamped) - E(free), averaged over the batch (Movellan 1990, "Contrastive
    Hebbian learning in the continuous Hopfield model", eq. 12). It is not negative where the free phase finds
    the lowest energy, and zero where the free state agrees with the data. Its gradient at settled states
    is the rule: an anti-Hebbian term for the free phase, a Hebbian one for the clamped phase.

    Parameters
    ----------
    energy
        Of the data and the hidden variables.
    given
        Variables that are clamped in both phases; all other data are clamped in the clamped phase only.
    solver
        For both phases; `BlockDescent` by default.
    max_steps
        The most steps of each phase.
    until
        When a phase has settled; `Stationary` by default.
    compile
        Settle by compiled steps, see `settle`.

    Notes
    -----
    The clamped phase starts from the free state, so that both phases stay in one basin: with several minima
    the contrast of two unrelated ones teaches nothing.

    Examples
    --------
    >>> rule = en.ContrastiveHebbian(model, given=("x",))
    >>> rule(x=x, y=y).backward()
    """

    owns_gradient = True

    def __init__(
        self,
        energy: Energy,
        given: Sequence[str] = ("x",),
        *,
        solver: Solver | None = None,
        max_steps: int = 1000,
        until: Until | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__(energy)
        self.given = (given,) if isinstance(given, str) else tuple(given)
        for name in self.given:
            if name not in energy.variables:
                raise StateError(
                    f"ContrastiveHebbian: given {name!r} is no variable of the energy; "
                    f"it has {', '.join(map(repr, energy.variables))}"
                )
        self.solver = solver
        self.max_steps = max_steps
        self.until = until
        self.compiled = compile

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        require(self, data, self.given, tuple(self.energy.variables))
        if set(data) == set(self.given):
            raise StateError(
                f"ContrastiveHebbian: all data are given ({', '.join(self.given)}), so the two phases are "
                "one; pass what is to be learnt as well"
            )
        with torch.no_grad():
            conditioned = self.energy.condition(**{name: data[name] for name in self.given})
            free = self._settled(flow_of(conditioned, solver=self.solver))
            rest = {name: value for name, value in data.items() if name not in self.given}
            clamped = self._clamped(data, rest, free)
        return [Phase(1.0, self.energy, clamped), Phase(-1.0, self.energy, free)]

    def _clamped(self, data: dict[str, Tensor], rest: dict[str, Tensor], free: Solution) -> Solution:
        hidden = {n: v for n, v in free.state.items() if n not in data}
        conditioned = free.flow.conditioned.condition(**rest)
        if not conditioned.variables:
            return _clamped_whole(free, rest)
        flow = flow_of(conditioned, state=hidden, solver=self.solver)
        return self._settled(flow)

    def _settled(self, flow: EnergyFlow) -> Solution:
        return settled(
            flow, solver=self.solver, max_steps=self.max_steps, until=self.until, compile=self.compiled
        )

    def value(self, phases: Sequence[Phase]) -> Tensor:
        clamped, free = (phase.solution.energy for phase in phases)
        return (clamped - free).mean()


def _clamped_whole(free: Solution, rest: dict[str, Tensor]) -> Solution:
    """The clamped phase of a network without hidden units, where nothing is left to settle."""
    flow = free.flow
    links = {name: link for name, link in flow.links.items() if name in rest}
    return Solution(
        state={**free.state, **rest},
        steps=torch.zeros_like(free.steps),
        status=torch.full_like(free.status, int(Status.CONVERGED)),
        trajectory=None,
        flow=flow,
        point={name: links[name].potential(v) if name in links else v for name, v in rest.items()},
    )
