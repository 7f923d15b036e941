"""Settling: run a solver until each sample of the batch is stationary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.energy import Energy, State
from energynet.errors import SettlingError
from energynet.flow import Clamp, EnergyFlow, GradientFlow, MirrorFlow
from energynet.solvers import BlockDescent, Solver
from energynet.variable import Continuous, rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Recorder = str | Callable[[State], Any] | Mapping[str, Callable[[State], Any]]

_COMPACT = 0.9  # drop settled samples once the others are at most this part of those that run


class Status(IntEnum):
    """How settling ended for a sample."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2


class Until(ABC):
    """When a sample has settled."""

    @abstractmethod
    def settled(self, residual: Float[Tensor, batch], point: State) -> Tensor | None:
        """Which samples have settled, shape ``(batch,)``; None where none ever does."""


@final
class Stationary(Until):
    """A sample has settled when its residual is at most ``atol + rtol * max |u|``.

    The residual is the largest entry of the projected velocity, and u what is integrated: the potential
    where a variable has a link, else the value.

    Parameters
    ----------
    atol, rtol
        Absolute and relative tolerance. By default 1e-6 and 1e-6 in float32, where rounding makes smaller
        ones unreachable, and 1e-10 and 1e-10 in float64. If one is given the other is zero.
    """

    def __init__(self, atol: float | None = None, rtol: float | None = None) -> None:
        for name, value in (("atol", atol), ("rtol", rtol)):
            if value is not None and not value >= 0:
                raise ValueError(f"Stationary: {name} must be a number from 0 up, got {value!r}")
        self.atol, self.rtol = atol, rtol

    def settled(self, residual: Tensor, point: State) -> Tensor:
        atol, rtol = self.atol, self.rtol
        if atol is None and rtol is None:
            atol = rtol = 1e-10 if residual.dtype == torch.float64 else 1e-6
        if not rtol:
            return residual <= (atol or 0.0)
        size = torch.stack([rows(value.abs()).amax(1) for value in point.values()]).amax(0)
        return residual <= (atol or 0.0) + rtol * size


@final
class Never(Until):
    """Run for ``max_steps``."""

    def settled(self, residual: Tensor, point: State) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Solution:
    """Where settling ended.

    Attributes
    ----------
    state
        Every variable, the clamped ones too, each ``(batch, *shape)``.
    steps
        Steps that each sample took, ``(batch,)``.
    status
        A `Status` for each sample, ``(batch,)``.
    trajectory
        What was recorded: a tensor ``(times, batch, ...)``, or a dict of such tensors; else None.
    flow
        The flow that was followed.
    point
        What was integrated, at the end: potentials for variables with a link, else values.
    """

    state: State
    steps: Int[Tensor, batch]
    status: Int[Tensor, batch]
    trajectory: Any
    flow: EnergyFlow
    point: State

    @cached_property
    def energy(self) -> Float[Tensor, batch]:
        """The energy of each sample."""
        self.flow.conditioned.check_unchanged()
        with torch.no_grad():
            return self.flow.energy(self.point)

    @cached_property
    def residual(self) -> Float[Tensor, batch]:
        """The largest entry of the projected velocity of each sample."""
        self.flow.conditioned.check_unchanged()
        with torch.no_grad():
            return self.flow.residual(self.point, self.flow.velocity(self.point))


def settle(
    energy: Energy,
    state: Mapping[str, Tensor] | None = None,
    *,
    clamp: Clamp | None = None,
    solver: Solver | None = None,
    max_steps: int = 1000,
    until: Until | None = None,
    record: Recorder | None = None,
    record_every: int = 1,
    generator: torch.Generator | None = None,
    throw: bool = False,
) -> Solution:
    """Move the free variables until the energy is stationary, sample by sample.

    Parameters
    ----------
    energy
        What to settle.
    state
        Values to start from, for any of the free variables; the solution of another settling is a warm
        start. The others start at their domain's initial value.
    clamp
        Variables to hold: tensors, or `Partial` for a part of one. A clamp overrides ``state``.
    solver
        `BlockDescent` by default.
    max_steps
        The most steps that any sample takes.
    until
        When a sample has settled; `Stationary` by default.
    record
        ``"energy"``, ``"residual"``, ``"state"``, a function of the state, or a dict of such functions by
        name, evaluated at the start and after every ``record_every`` steps. A settled sample stays as it is.
    record_every
        Steps between two records.
    generator
        The only source of randomness.
    throw
        Raise `SettlingError` if a sample diverges or runs out of steps.

    Returns
    -------
    Solution
        The end state of each sample, with energy, residual, steps, status and trajectory.

    Raises
    ------
    StateError
        If a value does not fit its variable.
    SettlingError
        If the solver cannot move the variables, or with ``throw`` if a sample did not converge.
    """
    with torch.no_grad():
        flow = flow_of(energy, clamp, state, generator=generator)
        solution = relax(
            flow,
            solver=solver,
            max_steps=max_steps,
            until=until,
            record=record,
            record_every=record_every,
            generator=generator,
        )
        if throw:
            check_converged(solution)
        _ = solution.energy, solution.residual
    return solution


def flow_of(
    energy: Energy,
    clamp: Clamp | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
) -> EnergyFlow:
    """Mirror flow where a free variable has a link, else gradient flow; see `EnergyFlow`."""
    linked = any(
        isinstance(v, Continuous) and v.link is not None and not isinstance((clamp or {}).get(n), Tensor)
        for n, v in energy.variables.items()
    )
    kind = MirrorFlow if linked else GradientFlow
    return kind(energy, clamp, state, generator=generator, differentiable=differentiable)


def relax(
    flow: EnergyFlow,
    *,
    solver: Solver | None = None,
    max_steps: int = 1000,
    until: Until | None = None,
    record: Recorder | None = None,
    record_every: int = 1,
    generator: torch.Generator | None = None,
) -> Solution:
    """Settle a flow from its start; `settle` says what the arguments are."""
    solver = BlockDescent() if solver is None else solver
    until = Stationary() if until is None else until
    for name, number in (("max_steps", max_steps), ("record_every", record_every)):
        if not isinstance(number, int) or number < (name == "record_every"):
            raise ValueError(f"settle: {name} must be a whole number above 0, got {number!r}")
    run = _Run(flow, until)
    recorder = _Recorder(record) if record is not None else None
    point, carry = flow.start, solver.init(flow, flow.start)
    if recorder is not None:
        recorder.add(run.current(point))
    done = 0
    while done < max_steps and run.active:
        steps = min(solver.check_every - done % solver.check_every, max_steps - done)
        if recorder is not None:
            steps = min(steps, record_every - done % record_every)
        point, carry, residual = solver.advance(run.flow, point, carry, generator, steps)
        done += steps
        if done % solver.check_every == 0 or done == max_steps:
            point, carry = run.look(point, carry, residual, done)
        if recorder is not None and done % record_every == 0:
            recorder.add(run.current(point))
    final = run.finish(point, done)
    values = {**flow.conditioned.clamp, **flow.values(final)}
    return Solution(
        state={name: values[name] for name in flow.conditioned.base.variables},
        steps=run.steps,
        status=run.status,
        trajectory=None if recorder is None else recorder.stacked(),
        flow=flow,
        point=final,
    )


class _Run:
    """The samples that still move, and where the others ended."""

    def __init__(self, flow: EnergyFlow, until: Until) -> None:
        self.whole = self.flow = flow
        self.until = until
        self.out = flow.start
        self.index: Tensor | None = None  # None: every sample is still in the batch that runs
        self.settled: Tensor | None = None  # among those that run; None: none of them
        device = next(iter(flow.start.values())).device
        self.steps = torch.zeros(flow.batch, dtype=torch.int64, device=device)
        self.status = torch.full((flow.batch,), int(Status.MAX_STEPS), dtype=torch.int64, device=device)
        self.active = flow.batch > 0

    def look(self, point: State, carry: Any, residual: Tensor, done: int) -> tuple[State, Any]:
        """Put away the samples that have settled or diverged since the last look."""
        converged = self.until.settled(residual, point)
        diverged = ~residual.isfinite()
        ended = diverged if converged is None else converged | diverged
        fresh = ended if self.settled is None else ended & ~self.settled
        count = int(fresh.sum())
        if not count:
            return point, carry
        status = torch.where(diverged, int(Status.DIVERGED), int(Status.CONVERGED))
        if count == len(fresh) and self.index is None:
            self.out, self.status, self.active = point, status, False
            self.steps = torch.full_like(self.steps, done)
            return point, carry
        self._store(point, fresh, status, done)
        self.settled = fresh if self.settled is None else self.settled | fresh
        moving = (~self.settled).nonzero().squeeze(1)
        self.active = len(moving) > 0
        if len(moving) <= _COMPACT * len(fresh) and self.active:
            self.flow = self.flow.take(moving)
            self.index = moving if self.index is None else self.index[moving]
            self.settled = None
            return take(point, moving), take(carry, moving)
        return point, carry

    def _store(self, point: State, which: Tensor, status: Tensor, done: int) -> None:
        local = which.nonzero().squeeze(1)
        places = local if self.index is None else self.index[local]
        self.out = {
            name: value.index_copy(0, places, point[name].index_select(0, local))
            for name, value in self.out.items()
        }
        self.status = self.status.index_copy(0, places, status.index_select(0, local))
        self.steps = self.steps.index_fill(0, places, done)

    def current(self, point: State) -> _Snapshot:
        """All samples as they are now, the settled ones where they ended."""
        out = self.out
        if self.active and self.index is None and self.settled is None:
            out = point
        elif self.active:
            keep = self._moving(point)
            places = keep if self.index is None else self.index[keep]
            out = {
                name: value.index_copy(0, places, point[name].index_select(0, keep))
                for name, value in out.items()
            }
        return _Snapshot(self.whole, out)

    def _moving(self, point: State) -> Tensor:
        size = len(next(iter(point.values())))
        if self.settled is None:
            return torch.arange(size, device=self.steps.device)
        return (~self.settled).nonzero().squeeze(1)

    def finish(self, point: State, done: int) -> State:
        """The end of every sample; those that still move have run out of steps."""
        self.steps = torch.where(self.status == int(Status.MAX_STEPS), done, self.steps)
        return self.current(point).point


def take(tree: Any, index: Tensor) -> Any:
    """Some samples of a nested tuple or dict of tensors."""
    if isinstance(tree, Tensor):
        return tree.index_select(0, index)
    if isinstance(tree, dict):
        return {key: take(value, index) for key, value in tree.items()}
    return tuple(take(value, index) for value in tree)


@dataclass(frozen=True, eq=False)
class _Snapshot:
    flow: EnergyFlow
    point: State

    @cached_property
    def state(self) -> State:
        return {**self.flow.conditioned.clamp, **self.flow.values(self.point)}


class _Recorder:
    """Evaluates what is recorded."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._found: list[Any] = []

    def add(self, snapshot: _Snapshot) -> None:
        record = self._record
        if record == "energy":
            value: Any = snapshot.flow.energy(snapshot.point)
        elif record == "residual":
            value = snapshot.flow.residual(snapshot.point, snapshot.flow.velocity(snapshot.point))
        elif record == "state":
            value = snapshot.state
        elif isinstance(record, Mapping):
            value = {name: function(snapshot.state) for name, function in record.items()}
        elif callable(record):
            value = record(snapshot.state)
        else:
            raise ValueError(
                "settle: record must be 'energy', 'residual', 'state', a function of the state or a dict of "
                f"functions, got {record!r}"
            )
        self._found.append(value)

    def stacked(self) -> Any:
        first = self._found[0]
        if isinstance(first, dict):
            return {key: torch.stack([found[key] for found in self._found]) for key in first}
        return torch.stack(self._found) if isinstance(first, Tensor) else self._found


def check_converged(solution: Solution) -> None:
    """Raise `SettlingError` if a sample diverged or ran out of steps."""
    diverged = (solution.status == Status.DIVERGED).nonzero().flatten().tolist()
    if diverged:
        sample = diverged[0]
        bad = [n for n, v in solution.point.items() if not bool(v[sample].isfinite().all())]
        raise SettlingError(
            f"settling diverged in {len(diverged)} of {len(solution.status)} samples, first in sample {sample} "
            f"by step {int(solution.steps[sample])}, where {', '.join(bad) or 'the force'} became infinite or "
            "NaN; use a smaller dt or another solver, or check that the energy is bounded below"
        )
    late = (solution.status == Status.MAX_STEPS).nonzero().flatten().tolist()
    if late:
        worst = float(solution.residual[late].max())
        raise SettlingError(
            f"settling did not converge in {int(solution.steps.max())} steps in {len(late)} of "
            f"{len(solution.status)} samples (largest residual {worst:.3g}); raise max_steps, loosen until=, "
            "or use a faster solver"
        )
