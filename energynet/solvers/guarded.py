"""Safeguarded minimisers: a direction from some model of the energy, a step that the energy confirms."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.derivation import Derivation
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow
from energynet.solvers.base import Solver, column, energy_flow
from energynet.solvers.chart import Chart
from energynet.solvers.here import Here
from energynet.solvers.rate import choose
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_DECREASE = 1e-4  # the part of the decrease to first order that the energy must fall by (Armijo)
_UPHILL = 0.8  # how steep the energy may rise at the end of a step: Hager and Zhang's 1 - 2 delta
_ROUNDING = 16  # energies that differ by fewer units of rounding tell nothing
_PROGRESS = 0.9  # the residual's, that confirms a step where energies tell nothing
_SHORTEST, _LONGEST = 0.05, 0.5  # what is kept of a step that was refused
_GROWTH = 4.0  # of the limit, from a step that was as long and was confirmed
_PATIENCE = 3  # refusals in a row before what is remembered is given up


Memory = dict[str, Any]  # tensors, or tuples of them, as a carry


class Guarded(Solver):
    """A minimiser with one evaluation of energy and force in a step, each sample on its own.

    A step tries ``project(point + direction)``. The energy has to fall in proportion to the slope (Armijo);
    where energies agree to within rounding, the slope at the trial decides (the approximate Wolfe condition
    of Hager and Zhang 2005, SIAM J. Optim. 16:170, eq. 4.1), or the residual, if it shrinks. A trial that is
    confirmed becomes the point. One that is not sets a limit to the next direction, by the secant of the
    slopes, which grows again with every step that is confirmed. After three refusals in a row what is
    remembered is cleared and the direction is the force, over the curvature that the trials met (Barzilai and
    Borwein 1988, IMA J. Numer. Anal. 8:141); so is a direction that does not lead downhill. Hence the energy
    never rises, but for rounding.

    Units at an end of their domain that the force pushes against, and held ones, take no part in a direction
    (two-metric projection; Bertsekas 1982, SIAM J. Control Optim. 20:221). Time constants do not matter.

    Raises
    ------
    SettlingError
        If the flow has no energy, or one with kinks: a term with a proximal map.
    """

    @abstractmethod
    def propose(self, here: Here, memory: Memory) -> Float[Tensor, "batch units"]:
        """A direction, in flat coordinates; entries of units that cannot move are ignored.

        It is shortened to ``here.limit``, unless it keeps to it.
        """

    def blank(self, here: Here) -> Memory:
        """An empty memory: tensors that are zero where nothing is known."""
        return {}

    def remember(self, memory: Memory, step: Tensor, change: Tensor, here: Here, positive: Tensor) -> Memory:
        """The memory after a step, and what it took off the force; both are zero where it was refused.

        ``positive`` tells where ``here.curvature`` is that of the step.
        """
        return memory

    def forget(self, memory: Memory, stuck: Tensor) -> Memory:
        """The memory, empty for some samples."""
        return memory

    @final
    def init(self, flow: Flow, state: State) -> Any:
        chart = Chart(_smooth(self, flow), state)
        point = chart.join(state)
        energy, force = chart.evaluate(point)
        slope, one, count = chart.slope(point), torch.ones_like(energy), torch.zeros_like(energy)
        here = Here.at(chart, point, force, slope, one, one * math.inf)
        return {
            "energy": energy,
            "force": force,
            "slope": slope,
            "residual": chart.residual(point, force),
            "curvature": one,
            "limit": here.limit,
            "refusals": count,  # in a row
            "refused": count,
            "memory": self.blank(here),
        }

    @final
    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        chart = Chart(flow, state)
        before = chart.join(state)
        here = Here.at(chart, before, *(carry[n] for n in ("force", "slope", "curvature", "limit")))
        stuck = (carry["refusals"] > 0) & (carry["refusals"] % _PATIENCE == 0)
        direction = _downhill(here, self.propose(here, carry["memory"]), stuck)
        point = chart.project(before + direction)
        energy, force = chart.evaluate(point)
        step, change = point - before, carry["force"] - force
        trial = {
            "energy": energy,
            "force": force,
            "slope": chart.slope(point),
            "residual": chart.residual(point, force),
        }
        confirmed, kept = _judge(chart, before, step, carry, trial)
        new: dict[str, Any] = {**choose(confirmed, trial, carry)}
        point = torch.where(column(confirmed, point), point, before)
        moved, lost = point - before, carry["force"] - new["force"]
        here = Here.at(
            chart,
            point,
            new["force"],
            new["slope"],
            carry["curvature"],
            _limit(carry["limit"], direction, confirmed, kept),
        )
        here, positive = here.after(step, change, confirmed)
        memory = self.remember(carry["memory"], moved, lost, here, confirmed & positive)
        refusals = torch.where(confirmed, 0.0, carry["refusals"] + 1)
        stuck = (refusals > 0) & (refusals % _PATIENCE == 0)
        new |= {
            "curvature": here.curvature,
            "limit": here.limit,
            "refusals": refusals,
            "refused": carry["refused"] + (~confirmed).to(refusals.dtype),
            "memory": self.forget(memory, stuck),
        }
        return chart.split(point), new, new["residual"]

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        """``refused``: how many steps were taken back because they did not lower the energy."""
        return {"refused": carry["refused"]}


def _smooth(solver: Solver, flow: Flow) -> EnergyFlow:
    """The flow, if it is that of an energy without known kinks; else `SettlingError`."""
    flow = energy_flow(solver, flow)
    for _, part in flow.conditioned.base.parts():
        if part.derivation(flow.links) is Derivation.PROXIMAL and set(part.variables) & set(flow.names):
            raise SettlingError(
                f"{type(solver).__name__} needs an energy without kinks, but {part} may have one; use "
                "Proximal, or give the variable a link that absorbs it, such as SoftThreshold"
            )
    return flow


def _judge(
    chart: Chart, point: Tensor, step: Tensor, here: State, there: State
) -> tuple[Bool[Tensor, batch], Float[Tensor, batch]]:
    """Whether a trial is confirmed, and what part of the step to keep if it is not."""
    first, last = (-chart.dot(at["slope"], at["force"], step) for at in (here, there))
    change = there["energy"] - here["energy"]
    # the energy is a sum of terms that may cancel; they are about as large as this
    size = torch.maximum(there["energy"].abs(), here["energy"].abs())
    size = torch.maximum(size, here["curvature"] * chart.dot(here["slope"], point, point))
    alike = change.abs() <= _ROUNDING * torch.finfo(change.dtype).eps * size
    calm = (last <= _UPHILL * first.abs()) | (there["residual"] <= _PROGRESS * here["residual"])
    confirmed = torch.where(alike, calm, change <= _DECREASE * first.clamp(max=0.0))
    bends = last > first
    flat = first / torch.where(bends, first - last, 1.0)  # where the secant of the slopes vanishes
    kept = torch.where(bends, flat.clamp(_SHORTEST, _LONGEST), _LONGEST)
    return confirmed, torch.where(change.abs() < math.inf, kept, _SHORTEST)


def _limit(limit: Tensor, direction: Tensor, confirmed: Tensor, kept: Tensor) -> Float[Tensor, batch]:
    """The length of the longest step that is worth a trial after one was confirmed or not."""
    length = torch.linalg.vector_norm(direction, dim=1)
    bound = length > 0.9 * limit
    return torch.where(confirmed, torch.where(bound, _GROWTH * length, math.inf), kept * length)


def _downhill(here: Here, direction: Tensor, stuck: Tensor) -> Tensor:
    """The direction on units that can move, within the limit; the force where it does not lead downhill."""
    direction = here.within(here.movable(direction))
    step = here.chart.change(here.point, direction)
    least = torch.finfo(step.dtype).eps ** 0.5
    fall, length = here.dot(here.force, step), here.dot(step, step) * here.dot(here.force, here.force)
    finite = torch.linalg.vector_norm(direction, dim=1) < math.inf
    downhill = (fall >= least * length.sqrt()) & finite & ~stuck
    return torch.where(column(downhill, direction), direction, here.within(here.scaled(here.force)))
