"""Settling: run a solver until each sample of the batch is stationary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import Clamp, EnergyFlow, GradientFlow, MirrorFlow
from energynet.solvers import BlockDescent, Solver
from energynet.state import State
from energynet.stopping import Stationary, Status, Until
from energynet.variable import Continuous

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Recorder = str | Callable[[State], Any] | Mapping[str, Callable[[State], Any]]

# A look at the residuals, and dropping the samples that have settled, each cost about as much as this many
# multiplications. Where a step is dearer, look and drop more often.
_COSTLY = 4_000_000
_EVERY, _EVERY_COSTLY = 5, 2  # steps between two looks
_DROP, _DROP_COSTLY = 0.4, 0.75  # drop once the samples that move are at most this part of those that run


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
    every = _EVERY_COSTLY if run.costly else _EVERY
    if recorder is not None:
        recorder.add(run.current(point))
    done = 0
    while done < max_steps and run.active:
        steps = min(every - done % every, max_steps - done)
        if recorder is not None:
            steps = min(steps, record_every - done % record_every)
        point, carry, residual = solver.advance(run.flow, point, carry, generator, steps)
        done += steps
        if done % every == 0 or done == max_steps:
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
    """The samples that still move, and where the others ended.

    Settled samples stay in the batch that runs until enough of them can be dropped at once. Where they ended
    is kept apart, so that a sample's result does not depend on when that is.
    """

    def __init__(self, flow: EnergyFlow, until: Until) -> None:
        self.whole = self.flow = flow
        self.until = until
        self.active = flow.batch > 0
        self.costly = flow.batch * flow.forces.work > _COSTLY
        self._out: State | None = None  # of all samples, once some have been dropped
        self._index: Tensor | None = None  # which samples run; None: all of them
        self._hold: State | None = None  # where the samples that run ended, if they have
        self._moving: Tensor | None = None  # which of those that run have not ended; None: all of them
        self._count = flow.batch
        like = next(iter(flow.start.values()))
        self.steps = torch.zeros(flow.batch, dtype=torch.int64, device=like.device)
        self.status = torch.full_like(self.steps, int(Status.MAX_STEPS))

    def look(self, point: State, carry: Any, residual: Tensor, done: int) -> tuple[State, Any]:
        """Put away the samples that have settled or diverged since the last look."""
        settled = self.until.settled(residual, point)
        moving = residual < math.inf  # false where it is NaN
        if settled is not None:
            moving = moving & ~settled
        if self._moving is not None:
            moving = moving & self._moving
        count = int(moving.sum())
        if count == self._count:
            return point, carry
        fresh = ~moving if self._moving is None else self._moving & ~moving
        hold = point if self._hold is None else self._hold
        self._hold = {n: torch.where(_column(fresh, v), point[n], v) for n, v in hold.items()}
        self._mark(fresh, residual, done)
        self._moving, self._count = moving, count
        self.active = count > 0
        if not count or count > (_DROP_COSTLY if self.costly else _DROP) * len(moving):
            return point, carry
        self._out = self._merged(point)
        kept = moving.nonzero().squeeze(1)
        self.flow = self.flow.take(kept)
        self._index = kept if self._index is None else self._index[kept]
        self._hold = self._moving = None
        return take(point, kept), take(carry, kept)

    def _mark(self, fresh: Tensor, residual: Tensor, done: int) -> None:
        status = torch.where(residual < math.inf, int(Status.CONVERGED), int(Status.DIVERGED))
        if self._index is None:
            self.steps = torch.where(fresh, done, self.steps)
            self.status = torch.where(fresh, status, self.status)
        else:
            ended = fresh.nonzero().squeeze(1)
            places = self._index[ended]
            self.steps = self.steps.index_fill(0, places, done)
            self.status = self.status.index_copy(0, places, status[ended])

    def _merged(self, point: State) -> State:
        """All samples as they are now, the settled ones where they ended."""
        if self._hold is not None and self._moving is not None:
            hold, moving = self._hold, self._moving
            point = {n: torch.where(_column(moving, v), v, hold[n]) for n, v in point.items()}
        if self._index is None or self._out is None:
            return point
        index = self._index
        return {name: value.index_copy(0, index, point[name]) for name, value in self._out.items()}

    def current(self, point: State) -> _Snapshot:
        return _Snapshot(self.whole, self._merged(point))

    def finish(self, point: State, done: int) -> State:
        """The end of every sample; those that still move have run out of steps."""
        self.steps = torch.where(self.status == int(Status.MAX_STEPS), done, self.steps)
        return self._merged(point)


def _column(each: Tensor, like: Tensor) -> Tensor:
    return each.reshape(-1, *[1] * (like.ndim - 1))


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


def check_finite(solution: Solution) -> None:
    """Raise `SettlingError` if a sample diverged."""
    diverged = (solution.status == Status.DIVERGED).nonzero().flatten().tolist()
    if diverged:
        sample = diverged[0]
        bad = [n for n, v in solution.point.items() if not bool(v[sample].isfinite().all())]
        raise SettlingError(
            f"settling diverged in {len(diverged)} of {len(solution.status)} samples, first in sample "
            f"{sample} by step {int(solution.steps[sample])}, where {', '.join(bad) or 'the force'} became "
            "infinite or NaN; use a smaller dt or another solver, or check that the energy is bounded below"
        )


def check_converged(solution: Solution) -> None:
    """Raise `SettlingError` if a sample diverged or ran out of steps."""
    check_finite(solution)
    late = (solution.status == Status.MAX_STEPS).nonzero().flatten().tolist()
    if late:
        worst = float(solution.residual[late].max())
        raise SettlingError(
            f"settling did not converge in {int(solution.steps.max())} steps in {len(late)} of "
            f"{len(solution.status)} samples (largest residual {worst:.3g}); raise max_steps, loosen until=, "
            "or use a faster solver"
        )
