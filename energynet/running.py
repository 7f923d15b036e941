"""The samples of a batch that still move, and where the others ended."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from energynet.flow import EnergyFlow
from energynet.recording import Snapshot
from energynet.solvers import Solver
from energynet.solvers.base import mapped
from energynet.state import State
from energynet.stopping import Never, Status, Until

# A look at the residuals, and dropping the samples that have settled, each cost about as much as this many
# multiplications. Where a step is dearer, look and drop more often.
_COSTLY = 4_000_000
_DEAR = 32 * _COSTLY  # of a step after each of which it is worth to look
_EVERY, _EVERY_COSTLY, _EVERY_IDLE = 5, 2, 10  # steps between two looks, if for divergence only
_STATISTIC = "statistic "
_DROP, _DROP_COSTLY = 0.4, 0.75  # drop once the samples that move are at most this part of those that run


class Run:
    """The samples that still move, and where the others ended.

    Settled samples stay in the batch that runs until enough of them can be dropped at once. Where they ended
    is kept apart, so that a sample's result does not depend on when that is.
    """

    def __init__(self, flow: EnergyFlow, solver: Solver, until: Until) -> None:
        self.whole = self.flow = flow
        self.solver = solver
        self.until = until
        self.active = flow.batch > 0
        work = flow.batch * flow.forces.work
        self.costly = work > _COSTLY
        self.every = 1 if work > _DEAR else _EVERY_COSTLY if self.costly else _EVERY
        if isinstance(until, Never):
            self.every = _EVERY_IDLE
        self._out: State | None = None  # of all samples, once some have been dropped
        self._index: Tensor | None = None  # which samples run; None: all of them
        self._hold: State | None = None  # where the samples that run ended, if they have
        self._moving: Tensor | None = None  # which of those that run have not ended; None: all of them
        self._count = flow.batch
        like = next(iter(flow.start.values()))
        self.steps = torch.zeros(flow.batch, dtype=torch.int64, device=like.device)
        self.status = torch.full_like(self.steps, int(Status.MAX_STEPS))

    def look(self, point: State, carry: Any, residual: Tensor, done: int) -> tuple[State, Any]:
        """Put away the samples that have settled, diverged or come into a cycle since the last look."""
        settled = self.until.settled(residual, point)
        moving = residual < math.inf  # false where it is NaN
        if settled is not None:
            moving = moving & ~settled
        cycling = None if settled is None else self.solver.cycling(carry)
        if cycling is not None:
            moving = moving & ~cycling
        if self._moving is not None:
            moving = moving & self._moving
        count = int(moving.sum())
        if count == self._count:
            return point, carry
        fresh = ~moving if self._moving is None else self._moving & ~moving
        now = self._now(point, carry)
        if self._hold is None:
            self._hold = now
        else:
            self._hold = replaced(self._hold, now, fresh.nonzero().squeeze(1))
        self._mark(fresh, residual, cycling, done)
        self._moving, self._count = moving, count
        self.active = count > 0
        if not count or count > (_DROP_COSTLY if self.costly else _DROP) * len(moving):
            return point, carry
        self._out = self._merged(now)
        kept = moving.nonzero().squeeze(1)
        self.flow = self.flow.take(kept)
        self._index = kept if self._index is None else self._index[kept]
        self._hold = self._moving = None
        return take(point, kept), take(carry, kept)

    def _mark(self, fresh: Tensor, residual: Tensor, cycling: Tensor | None, done: int) -> None:
        status = torch.where(residual < math.inf, int(Status.CONVERGED), int(Status.DIVERGED))
        if cycling is not None:
            status = torch.where(cycling, int(Status.CYCLE), status)
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
            hold = {name: self._hold[name] for name in point}
            point = replaced(point, hold, (~self._moving).nonzero().squeeze(1))
        if self._index is None or self._out is None:
            return point
        index = self._index
        return {name: value.index_copy(0, index, point[name]) for name, value in self._out.items()}

    def _now(self, point: State, carry: Any) -> State:
        """The point, and the statistics of the solver beside it."""
        return {**point, **{_STATISTIC + n: v for n, v in self.solver.statistics(carry).items()}}

    def current(self, point: State, carry: Any) -> Snapshot:
        """All samples as they are now."""
        merged = self._merged(self._now(point, carry))
        return Snapshot(self.whole, {name: merged[name] for name in point})

    def finish(self, point: State, carry: Any, done: int) -> tuple[State, State]:
        """The end of every sample, and its statistics; those that still move have run out of steps."""
        self.steps = torch.where(self.status == int(Status.MAX_STEPS), done, self.steps)
        merged = self._merged(self._now(point, carry))
        told = {n.removeprefix(_STATISTIC): v for n, v in merged.items() if n.startswith(_STATISTIC)}
        return {name: merged[name] for name in point}, told


def replaced(point: State, other: State, index: Tensor) -> State:
    """A point with some samples from another one."""
    return {n: v.index_copy(0, index, other[n].index_select(0, index)) for n, v in point.items()}


def take(tree: Any, index: Tensor) -> Any:
    """Some samples of a nested tuple or dict of tensors."""
    return mapped(lambda value: value.index_select(0, index), tree)
