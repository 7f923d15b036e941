"""What a minimiser knows of the energy around the points it is at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.solvers.chart import Chart

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Here:
    """The point of each sample, and what is known of the energy around it.

    Attributes
    ----------
    chart
        The flow in flat coordinates.
    point
        What is integrated, ``(batch, units)``, as are the next four.
    force
        Zero on units that cannot move.
    free
        Where a unit can move: not held, and not at an end of its domain that the force pushes against.
    weight
        Of each unit in `dot`: the slope of its link, or 1; zero where it cannot move.
    gain
        The slope of the link of each unit, here or one force further on, whichever is larger; or 1. As `free`
        and `weight`, one column where it is the same for all units.
    curvature
        Of the energy along the last steps, ``(batch,)``, such that ``1 - gain + gain * curvature`` is the
        curvature of a unit: that of a potential which relaxes to a drive has a 1 of its own.
    limit
        The length of the longest step that is worth a trial, ``(batch,)``.
    """

    chart: Chart
    point: Tensor
    force: Tensor
    free: Tensor
    weight: Tensor
    gain: Tensor
    curvature: Tensor
    limit: Tensor

    @classmethod
    def at(
        cls, chart: Chart, point: Tensor, force: Tensor, slope: Tensor, curvature: Tensor, limit: Tensor
    ) -> Here:
        """Look around at a point with a force, of which held units have none, and the slopes of its links."""
        free = chart.free(point, force)
        force = force if chart.open else torch.where(free, force, 0.0)
        gain = torch.maximum(slope, chart.slope(point + force)) if chart.flow.links else slope
        weight = slope if chart.open else torch.where(free, slope, 0.0)
        return cls(chart, point, force, free, weight, gain, curvature, limit)

    def dot(self, one: Tensor, other: Tensor) -> Float[Tensor, batch]:
        """The inner product in which the Jacobian of the force is symmetric."""
        return self.chart.dot(self.weight, one, other)

    def scaled(self, vector: Tensor) -> Tensor:
        """A vector over the curvature of each unit, as far as `curvature` tells."""
        curvature = self.curvature.unsqueeze(1)
        if not self.chart.plain:
            curvature = (1 - self.gain).clamp(min=0.0) + self.gain * curvature
        return self.movable(vector / curvature)

    def movable(self, vector: Tensor) -> Tensor:
        """A vector, zero on units that cannot move."""
        return vector if self.chart.open else torch.where(self.free, vector, 0.0)

    def within(self, direction: Tensor) -> Tensor:
        """A direction, shortened to the limit."""
        part = (self.limit / torch.linalg.vector_norm(direction, dim=1)).clamp(max=1.0)
        return torch.where(part < 1, part, 1.0).unsqueeze(1) * direction

    def after(self, step: Tensor, change: Tensor, confirmed: Tensor) -> tuple[Here, Bool[Tensor, batch]]:
        """The same with the curvature along a step, and whether that is positive beyond rounding.

        ``change`` is what the step took off the force. Where the curvature is not positive, steps may be
        longer once one was confirmed.
        """
        bend, norm = self.dot(step, change), self.dot(change, change)
        positive = bend > torch.finfo(bend.dtype).eps * (self.dot(step, step) * norm).sqrt()
        ratio = norm / torch.where(positive, bend, 1.0)
        if self.chart.plain:
            found = ratio
        else:
            share = self.dot(change, self.gain * change) / torch.where(positive, norm, 1.0)
            found = 1 + (ratio - 1) / torch.where(positive, share, 1.0)
        found = torch.maximum(found, 0.1 * ratio.clamp(max=1.0))
        other = torch.where(confirmed, 0.5 * self.curvature, self.curvature)
        return replace(self, curvature=torch.where(positive, found, other)), positive
