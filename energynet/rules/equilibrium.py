"""Equilibrium propagation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from energynet.cost import TARGET, Cost
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.rules.base import LearningRule, Phase, require
from energynet.rules.nudge import NUDGE, Nudge, Nudged
from energynet.solution import Solution
from energynet.solvers import Solver
from energynet.stopping import Stationary, Until

ESTIMATORS = ("centered", "one-sided", "random-sign")
_SETTLED = 2000  # steps after which a sample that has not settled is left as it is


@final
class EquilibriumPropagation(LearningRule):
    """The gradient of the cost at the free fixed point, from the response to a weak nudge.

    With F = E + beta * C and s_beta its fixed point, dC(s_0)/dtheta is the derivative of dF/dtheta(s_beta)
    by beta at zero (Scellier and Bengio 2017, Front. Comput. Neurosci. 11:24, theorem 1). The estimators are

    - ``"centered"``: (dF/dtheta(s_beta) - dF/dtheta(s_-beta)) / (2 beta), bias of order beta^2 (Laborieux et
      al. 2021, Front. Neurosci. 15:633674, eq. 10);
    - ``"one-sided"``: (dF/dtheta(s_beta) - dF/dtheta(s_0)) / beta, bias of order beta;
    - ``"random-sign"``: one-sided with a random sign of beta for each sample, whose bias of order beta
      averages out.

    Parameters
    ----------
    energy
        Of the data, the hidden variables and the output of the cost.
    cost
        Of the output and ``target``.
    beta
        Strength of the nudge, not zero. 0.01 to 0.02 times the curvature of the energy is a good choice: the
        bias grows with it, and rounding with its inverse.
    estimator
        One of the three above. The default costs a third phase and is far more exact.
    solver
        For all phases; `BlockDescent` by default.
    free_steps, nudged_steps
        The most steps of a phase; None settles until stationary. A sample stops early where it has settled.
    until
        When a nudged phase has settled. By default a residual of beta / 1000 but not below 1e-6, what
        rounding allows, in float32, and of 1e-10 in float64. The free phase has the same tolerance.
    generator
        Draws the signs of ``"random-sign"``.
    compile
        Settle by compiled steps, see `settle`: one block serves all phases, and every step of learning.

    Examples
    --------
    >>> rule = en.EquilibriumPropagation(model, cost=en.SquaredError("y"), beta=0.01)
    >>> rule(x=x, target=t).backward()
    """

    owns_gradient = True

    def __init__(
        self,
        energy: Energy,
        cost: Cost,
        beta: float,
        estimator: str = "centered",
        solver: Solver | None = None,
        free_steps: int | None = None,
        nudged_steps: int | None = None,
        *,
        until: Until | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__(energy)
        if not isinstance(cost, Cost):
            raise TypeError(
                f'EquilibriumPropagation: expected a cost such as SquaredError("y"), got {cost!r}'
            )
        if not isinstance(beta, (int, float)) or not 0 < abs(beta) < float("inf"):
            raise ValueError(
                f"EquilibriumPropagation: beta must be a finite number other than zero, got {beta!r}; "
                "the rule is the response to a nudge, so there must be one; try 0.01"
            )
        if estimator not in ESTIMATORS:
            raise ValueError(
                f"EquilibriumPropagation: estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}"
            )
        if cost.output not in energy.variables:
            raise StateError(
                f"EquilibriumPropagation: the cost is of {cost.output!r}, which the energy does not have; "
                f"its variables are {', '.join(map(repr, energy.variables))}"
            )
        self.nudge = Nudge(cost)
        self.beta = float(beta)
        self.estimator = estimator
        self.solver = solver
        self.free_steps = free_steps
        self.nudged_steps = nudged_steps
        self.until = until
        self.generator = generator
        self.compiled = compile  # modules have a method of the other name

    @property
    def cost(self) -> Cost:
        return self.nudge.cost

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        with torch.no_grad():
            nudged = self._condition(data)
            free = self._free(nudged)
            return [Phase(0.0, nudged.energy, free), *self._nudged(nudged, free)]

    def value(self, phases: Sequence[Phase]) -> Tensor:
        return self._cost(phases[0].solution)

    def evaluate(self, **data: Tensor) -> Tensor:
        with torch.no_grad():
            return self._cost(self._free(self._condition(data)))

    def _cost(self, solution: Solution) -> Tensor:
        state = {name: solution.state[name] for name in self.cost.variables}
        return self.cost.energy(**state).mean()

    def _condition(self, data: dict[str, Tensor]) -> Nudged:
        names = [n for n in (*self.energy.variables, TARGET) if n != NUDGE]
        require(self, data, [TARGET], names)
        self._warn(data)
        nudged = Nudged(self.energy, self.nudge, data)
        self.cost.check_target(self.energy.variables[self.cost.output], data[TARGET])
        return nudged

    def _warn(self, data: dict[str, Tensor]) -> None:
        dtype = next((v.dtype for v in data.values() if v.is_floating_point()), torch.float32)
        noise = 20 * torch.finfo(dtype).eps / abs(self.beta)
        if noise > 0.01:
            warnings.warn(
                f"EquilibriumPropagation: with beta={self.beta:g} in {dtype} rounding alone makes a relative "
                f"error of about {noise:.1g} in the gradient; use a larger beta or float64",
                stacklevel=5,
            )

    def _until(self, like: Tensor) -> Until | None:
        if self.until is not None or like.dtype == torch.float64:
            return self.until
        return Stationary(atol=max(abs(self.beta) / 1000, 1e-6))

    def _free(self, nudged: Nudged) -> Solution:
        return nudged.free(
            solver=self.solver,
            max_steps=_SETTLED if self.free_steps is None else self.free_steps,
            until=self._until(nudged.like),
            compile=self.compiled,
        )

    def _nudged(self, nudged: Nudged, free: Solution) -> list[Phase]:
        steps = _SETTLED if self.nudged_steps is None else self.nudged_steps
        until = self._until(nudged.like)

        def settle(strength: float | Tensor) -> Solution:
            return nudged.nudged(
                strength,
                free,
                free.point,
                solver=self.solver,
                max_steps=steps,
                until=until,
                compile=self.compiled,
            )

        beta, energy = self.beta, nudged.energy
        if self.estimator == "centered":
            plus, minus = settle(beta), settle(-beta)
            return [Phase(1 / (2 * beta), energy, plus), Phase(-1 / (2 * beta), energy, minus)]
        if self.estimator == "one-sided":
            return [Phase(1 / beta, energy, settle(beta)), Phase(-1 / beta, energy, free)]
        like = nudged.like
        coin = torch.rand(len(like), generator=self.generator, device=like.device, dtype=like.dtype)
        strength = beta * torch.where(coin < 0.5, -1.0, 1.0).to(like.dtype)
        return [Phase(1 / strength, energy, settle(strength)), Phase(-1 / strength, energy, free)]
