"""Safeguarded minimisers: a direction from some model of the energy, a step that the energy confirms."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.derivation import Derivation
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow
from energynet.solvers.base import Solver, energy_flow
from energynet.solvers.chart import Chart
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_DECREASE = 1e-4  # the part of the decrease to first order that the energy must fall by (Armijo)
_UPHILL = 0.8  # how steep the energy may rise at the end of a step: Hager and Zhang's 1 - 2 delta
_ROUNDING = 64  # energies that differ by fewer units of rounding tell nothing
_PROGRESS = 0.9  # the residual's, that confirms a step where energies tell nothing
_SHORTEST, _LONGEST = 0.05, 0.5  # what is kept of a step that was refused
_PATIENCE = 3  # refusals in a row before a direction is given up


@dataclass(frozen=True, eq=False)
class Here:
    """What is known of the energy at the current point of each sample.

    Attributes
    ----------
    chart
        The flow in flat coordinates.
    point
        What is integrated, ``(batch, units)``, as are the next four.
    force
        Zero on units that cannot move.
    free
        Where a unit can move.
    weight
        Of each unit in `dot`: the slope of its link, or 1; zero where it cannot move.
    gain
        How much of its curvature a unit owes to the energy of values: the slope of its link here or one force
        further on, or 1. The rest is its relaxation to a drive, which has curvature 1.
    curvature
        Of the energy of values along the last step, ``(batch,)``.
    """

    chart: Chart
    point: Tensor
    force: Tensor
    free: Tensor
    weight: Tensor
    gain: Tensor
    curvature: Tensor

    @classmethod
    def at(cls, chart: Chart, point: Tensor, force: Tensor, curvature: Tensor) -> Here:
        """Look around at a point with a force, of which held units have none."""
        free = chart.free(point, force)
        force = torch.where(free, force, 0.0)
        slope = chart.weight(point)
        gain = torch.maximum(slope, chart.weight(point + force)) if chart.flow.links else slope
        return cls(chart, point, force, free, torch.where(free, slope, 0.0), gain, curvature)

    def dot(self, one: Tensor, other: Tensor) -> Float[Tensor, batch]:
        """The inner product in which the Jacobian of the force is symmetric."""
        return (self.weight * one * other).sum(1)

    def scaled(self, vector: Tensor) -> Tensor:
        """A vector over the curvature of each unit, as far as `curvature` tells."""
        rest = (1 - self.gain).clamp(min=0.0)
        return torch.where(self.free, vector / (rest + self.gain * self.curvature.unsqueeze(1)), 0.0)

    def after(self, step: Tensor, change: Tensor, refused: Tensor) -> tuple[Here, Bool[Tensor, batch]]:
        """The same with the curvature along a step, and whether that is positive.

        ``change`` is what the step took off the force. Where the curvature is not positive, a refused step
        says no more than that steps have to be shorter.
        """
        _, ratio, positive = self.bend(step, change)
        norm = self.dot(change, change)
        share = self.dot(change, self.gain * change) / torch.where(positive, norm, 1.0)
        found = 1 + (ratio - 1) / torch.where(positive, share, 1.0)
        found = torch.maximum(found, 0.1 * ratio.clamp(max=1.0))
        other = torch.where(refused, 4 * self.curvature, self.curvature)
        return replace(self, curvature=torch.where(positive, found, other)), positive

    def bend(self, step: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For a step and what it took off the force: their product, |change|^2 over it, where it is positive.

        The units are in the last dimension, so that several steps go at once.
        """
        weight = self.weight if step.ndim == 2 else self.weight.unsqueeze(1)
        weighted = weight * change
        bend, norm = (weighted * step).sum(-1), (weighted * change).sum(-1)
        length = (weight * step * step).sum(-1)
        positive = bend > torch.finfo(bend.dtype).eps * (length * norm).sqrt()
        return bend, norm / torch.where(positive, bend, 1.0), positive


class Guarded(Solver):
    """A minimiser with one evaluation of energy and force in a step, each sample on its own.

    A step tries ``project(point + pace * direction)``. The energy has to fall in proportion to the slope
    (Armijo); where energies agree to within rounding, the slope at the trial decides (the approximate Wolfe
    condition of Hager and Zhang 2005, SIAM J. Optim. 16:170, eq. 4.1), or the residual, if it shrinks. What
    is confirmed becomes the point and a subclass proposes a new direction. What is not is tried again with a
    shorter pace, by the secant of the slopes; after three refusals in a row the memory is cleared and the
    direction is the force, over the curvature that the trials met (Barzilai and Borwein 1988). So is a
    direction that does not lead downhill. Hence the energy never rises, but for rounding.

    Units at an end of their domain that the force pushes against, and held ones, take no part in a direction
    (two-metric projection; Bertsekas 1982, SIAM J. Control Optim. 20:221).
    """

    @abstractmethod
    def propose(self, here: Here, memory: State) -> Float[Tensor, "batch units"]:
        """A direction, in flat coordinates; entries of units that cannot move are ignored."""

    def blank(self, here: Here) -> State:
        """An empty memory: a dict of tensors, zero where nothing is known."""
        return {}

    def remember(self, memory: State, step: Tensor, change: Tensor, positive: Tensor) -> State:
        """The memory after a step was confirmed, and what it took off the force."""
        return memory

    @final
    def init(self, flow: Flow, state: State) -> Any:
        chart = Chart(smooth_flow(self, flow), state)
        point = chart.join(state)
        energy, force = chart.evaluate(point)
        one = torch.ones_like(energy)
        here = Here.at(chart, point, force, one)
        memory = self.blank(here)
        direction, _ = _downhill(here, self.propose(here, memory))
        count = torch.zeros_like(energy)
        return {
            "energy": energy, "force": force, "direction": direction, "pace": one, "curvature": one,
            "refusals": count, "refused": count, "memory": memory,
        }  # fmt: skip

    @final
    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        chart = Chart(flow, state)
        before, direction = chart.join(state), carry["direction"]
        trial = chart.project(before + carry["pace"].unsqueeze(1) * direction)
        energy, force = chart.evaluate(trial)
        step, change = trial - before, carry["force"] - force
        confirmed, kept = _judge(chart, before, trial, carry, energy, force)
        column = confirmed.unsqueeze(1)
        point, force = torch.where(column, trial, before), torch.where(column, force, carry["force"])
        here, positive = Here.at(chart, point, force, carry["curvature"]).after(step, change, ~confirmed)
        refusals = torch.where(confirmed, 0.0, carry["refusals"] + 1)
        stuck = (refusals > 0) & (refusals % _PATIENCE == 0)
        kept_memory = carry["memory"]
        memory = choose(confirmed, self.remember(kept_memory, step, change, positive), kept_memory)
        proposed, downhill = _downhill(here, self.propose(here, memory))
        fresh = confirmed | stuck
        plain = stuck | (confirmed & ~downhill)
        kept_on = torch.where(fresh.unsqueeze(1), proposed, direction)
        blank = {name: torch.zeros_like(value) for name, value in memory.items()}
        new = {
            "energy": torch.where(confirmed, energy, carry["energy"]),
            "force": force,
            "direction": torch.where(
                plain.unsqueeze(1),
                here.scaled(here.force),
                torch.where(fresh.unsqueeze(1), proposed, direction),
            ),
            "pace": torch.where(fresh, 1.0, carry["pace"] * kept),
            "curvature": here.curvature,
            "refusals": refusals,
            "refused": carry["refused"] + (~confirmed).to(refusals.dtype),
            "memory": choose(plain, blank, memory),
        }
        return chart.split(point), new, chart.residual(point, force)

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        """``refused``: how many steps did not lower the energy and were taken back."""
        return {"refused": carry["refused"]}


def smooth_flow(solver: Solver, flow: Flow) -> EnergyFlow:
    """The flow, if it is that of an energy without kinks that are known; else `SettlingError`."""
    flow = energy_flow(solver, flow)
    for _, part in flow.conditioned.base.parts():
        if part.derivation(flow.links) is Derivation.PROXIMAL and set(part.variables) & set(flow.names):
            raise SettlingError(
                f"{type(solver).__name__} needs an energy without kinks, but {part} may have one; use "
                "Proximal, or give the variable a link that absorbs it, such as SoftThreshold"
            )
    return flow


def choose(condition: Bool[Tensor, batch], first: State, second: State) -> State:
    """For each sample, one dict of tensors or the other."""
    return {
        name: torch.where(condition.reshape(-1, *[1] * (value.ndim - 1)), value, second[name])
        for name, value in first.items()
    }


def _downhill(here: Here, direction: Tensor) -> tuple[Tensor, Bool[Tensor, batch]]:
    """The direction on units that can move, and whether the energy falls along it; else the scaled force."""
    direction = torch.where(here.free, direction, 0.0)
    step = here.chart.project(here.point + direction) - here.point
    least = torch.finfo(step.dtype).eps ** 0.5
    fall, length = here.dot(here.force, step), here.dot(step, step) * here.dot(here.force, here.force)
    downhill = (fall >= least * length.sqrt()) & torch.isfinite(direction).all(1)
    return torch.where(downhill.unsqueeze(1), direction, here.scaled(here.force)), downhill


def _judge(
    chart: Chart, before: Tensor, trial: Tensor, carry: Any, energy: Tensor, force: Tensor
) -> tuple[Bool[Tensor, batch], Float[Tensor, batch]]:
    """Whether a trial is confirmed, and what part of the pace to keep if it is not."""
    step = trial - before
    first = -(chart.weight(before) * carry["force"] * step).sum(1)
    last = -(chart.weight(trial) * force * step).sum(1)
    change = energy - carry["energy"]
    size = torch.maximum(energy.abs(), carry["energy"].abs())
    alike = change.abs() <= _ROUNDING * torch.finfo(energy.dtype).eps * size
    falls = change <= _DECREASE * first.clamp(max=0.0)
    smaller = chart.residual(trial, force) <= _PROGRESS * chart.residual(before, carry["force"])
    confirmed = torch.where(alike, (last <= _UPHILL * first.abs()) | smaller, falls)
    rises = last > first
    flat = first / torch.where(rises, first - last, 1.0)  # where the secant of the slopes vanishes
    kept = torch.where(rises, flat.clamp(_SHORTEST, _LONGEST), _LONGEST)
    return confirmed, torch.where(torch.isfinite(change), kept, _SHORTEST)
