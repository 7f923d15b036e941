"""Exact gradients at the free fixed point, to learn with and to compare rules with."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from energynet.cost import TARGET, Cost
from energynet.energy import Energy
from energynet.errors import SettlingError, StateError
from energynet.flow import EnergyFlow
from energynet.rules.base import LearningRule, Phase, require
from energynet.settle import flow_of, relax
from energynet.solution import Solution, check_converged
from energynet.solvers import BlockDescent, Solver
from energynet.state import State
from energynet.stopping import Never, Until
from energynet.terms.graph import predicted
from energynet.variable import rows


class Reference(LearningRule):
    """The total derivative of the cost at a settled state, the state's own dependence included.

    Parameters
    ----------
    energy
        Of the data, the hidden variables and the output of the cost.
    cost
        Of the output and ``target``.
    """

    def __init__(self, energy: Energy, cost: Cost) -> None:
        super().__init__(energy)
        if cost.output not in energy.variables:
            raise StateError(
                f"{type(self).__name__}: the cost is of {cost.output!r}, which the energy does not have; "
                f"its variables are {', '.join(map(repr, energy.variables))}"
            )
        self.cost = cost

    def _given(self, data: Mapping[str, Tensor]) -> State:
        """The data that are clamped: all but the target."""
        require(self, data, [TARGET], (*self.energy.variables, TARGET))
        given = {name: value for name, value in data.items() if name != TARGET}
        (self.energy + self.cost).check(data, partial=True)
        self.cost.check_target(self.energy.variables[self.cost.output], data[TARGET])
        return given

    def _mean_cost(self, state: State, target: Tensor) -> Tensor:
        return self.cost.energy(**{self.cost.output: state[self.cost.output], TARGET: target}).mean()

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """One phase: the cost at the free state, of which the rule is the total derivative."""
        with torch.no_grad():
            solution = self._settle(self._given(data))
        state = {**solution.state, TARGET: data[TARGET]}
        return [Phase(1.0, self.cost, dataclasses.replace(solution, state=state))]

    def value(self, phases: Sequence[Phase]) -> Tensor:
        (phase,) = phases
        return self._mean_cost(phase.solution.state, phase.solution.state[TARGET])

    @abstractmethod
    def _settle(self, given: State) -> Solution:
        """The settled state whose cost is differentiated."""

    def _gradient(self, value: Tensor, through: Tensor) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        """The value, and the gradient of a number that may differ from it, in all parameters."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(through, parameters, allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(parameters, slopes, strict=True))


@final
class ImplicitDifferentiation(Reference):
    """The exact gradient at the free fixed point, by the implicit function theorem.

    With F(a, theta) the force and H = -dF/da the Hessian at the fixed point, dC/dtheta = v . dF/dtheta where
    H v = dC/da (Almeida 1987; Pineda 1987; Bai et al. 2019, NeurIPS, theorem 1). Units that sit at an end of
    their domain, or are held, do not respond and drop out; units with a link enter by the slope of the link,
    so that saturated ones do not spoil the conditioning.

    Parameters
    ----------
    energy, cost
        As in `Reference`.
    solver, max_steps, until
        Of the free phase, see `settle`.
    tol
        Relative residual of the linear system, for each sample; by default 1e-12 in float64, 1e-6 in float32.

    Raises
    ------
    SettlingError
        If settling does not converge, or the fixed point is no isolated minimum.
    """

    def __init__(
        self,
        energy: Energy,
        cost: Cost,
        *,
        solver: Solver | None = None,
        max_steps: int = 10_000,
        until: Until | None = None,
        tol: float | None = None,
    ) -> None:
        super().__init__(energy, cost)
        self.solver = solver
        self.max_steps = max_steps
        self.until = until
        self.tol = tol

    def _settle(self, given: State) -> Solution:
        solution = relax(
            flow_of(self.energy, given, predicted(self.energy, given), solver=self.solver),
            solver=self.solver,
            max_steps=self.max_steps,
            until=self.until,
        )
        check_converged(solution)
        return solution

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        given = self._given(data)
        with torch.no_grad():
            solution = self._settle(given)
        return self.gradient_at(solution, data[TARGET])

    def gradient_at(self, solution: Solution, target: Tensor) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        """The mean cost at a free fixed point, and its exact gradient there."""
        flow = solution.flow.differentiable()
        with torch.enable_grad():
            point = {name: value.detach().requires_grad_() for name, value in solution.point.items()}
            values = {n: v.detach().requires_grad_() for n, v in solution.state.items() if n in point}
            cost = self._mean_cost({**solution.state, **values}, target)
            slopes = torch.autograd.grad(
                cost, list(values.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            force = flow.forces.force(point)
            adjoint = self._adjoint(flow, point, force, dict(zip(values, slopes, strict=True)))
            response = sum((adjoint[name] * force[name]).sum() for name in force)
            through = self._mean_cost({n: v.detach() for n, v in solution.state.items()}, target) + response
            return self._gradient(cost, through)

    def _adjoint(self, flow: EnergyFlow, point: State, force: State, slope: State) -> State:
        """The solution v of H v = slope on the units that can move, zero on the others."""
        root = {name: value.sqrt() for name, value in flow.mobility(point).items()}
        tiny = torch.finfo(next(iter(root.values())).dtype).tiny ** 0.5
        names, leaves = list(point), list(point.values())
        sizes = [value[0].numel() for value in leaves]

        def join(state: State) -> Tensor:
            return torch.cat([rows(state[name]) for name in names], 1)

        def split(flat: Tensor) -> State:
            pieces = flat.split(sizes, 1)
            return {n: p.view_as(leaf) for n, p, leaf in zip(names, pieces, leaves, strict=True)}

        scale = join(root)
        moves = scale > tiny

        def apply(flat: Tensor) -> Tensor:
            """H between two factors of the root of the mobility; the identity where nothing moves."""
            seed = split(torch.where(moves, scale * flat, 0.0))
            slopes = torch.autograd.grad(
                [force[n] for n in names],
                leaves,
                [seed[n] for n in names],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            product = -torch.cat([rows(s) for s in slopes], 1) / scale.clamp(min=tiny)
            return torch.where(moves, product, flat)

        with torch.no_grad():
            right = torch.where(moves, scale * join(slope), 0.0)
        tol = self.tol if self.tol is not None else (1e-12 if right.dtype == torch.float64 else 1e-6)
        solution = conjugate_gradient(apply, right, tol)
        return split((scale * solution).detach())


def conjugate_gradient(apply: Callable[[Tensor], Tensor], right: Tensor, tol: float) -> Tensor:
    """Solve A z = right for each row, A symmetric and positive definite, each row with its own steps.

    Raises
    ------
    SettlingError
        If a row meets a direction of non-positive curvature, or does not converge.
    """
    solution = torch.zeros_like(right)
    residual = right.clone()
    direction = residual.clone()
    norm = residual.square().sum(1)
    goal = tol**2 * norm
    for _ in range(20 + 10 * right.shape[1]):
        moving = norm > goal
        if not bool(moving.any()):
            return solution
        image = apply(direction)
        bend = (direction * image).sum(1)
        if bool((moving & (bend <= 0)).any()):
            raise SettlingError(
                "the energy is not convex at the fixed point, so it is no minimum and its gradient is not "
                "defined; settle further, or start elsewhere"
            )
        rate = torch.where(moving, norm / bend, 0.0).unsqueeze(1)
        solution += rate * direction
        residual -= rate * image
        new = residual.square().sum(1)
        direction = residual + torch.where(moving, new / norm, 0.0).unsqueeze(1) * direction
        norm = torch.where(moving, new, norm)
    raise SettlingError(
        f"the adjoint equation did not converge to {tol:g}: the largest relative residual is "
        f"{float((norm / right.square().sum(1)).max().sqrt()):.2g}; the fixed point is nearly flat"
    )


@final
class Unrolled(Reference):
    """Backprop through the settling: the exact gradient of the cost after a number of steps.

    Parameters
    ----------
    energy, cost
        As in `Reference`.
    steps
        Steps of the solver, from the initial state. Memory grows in proportion.
    solver
        `BlockDescent` by default.
    """

    def __init__(self, energy: Energy, cost: Cost, steps: int, *, solver: Solver | None = None) -> None:
        super().__init__(energy, cost)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"Unrolled: steps must be a whole number above 0, got {steps!r}")
        self.steps = steps
        self.solver = BlockDescent() if solver is None else solver

    def _settle(self, given: State) -> Solution:
        flow = flow_of(self.energy, given, solver=self.solver)
        return relax(flow, solver=self.solver, max_steps=self.steps, until=Never())

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        given = self._given(data)
        with torch.enable_grad():
            flow = flow_of(self.energy, given, solver=self.solver, differentiable=True)
            point = flow.start
            carry = self.solver.init(flow, point)
            for _ in range(self.steps):
                point, carry, _ = self.solver.step(flow, point, carry, None)
            cost = self._mean_cost(flow.values(point), data[TARGET])
            return self._gradient(cost, cost)
