"""One step of the embedded Runge-Kutta pair of Dormand and Prince, with a step size for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.solvers.base import column
from energynet.state import State

if TYPE_CHECKING:
    from jaxtyping import Float

# Dormand and Prince 1980, J. Comput. Appl. Math. 6:19, RK5(4)7M. The last row is the solution of fifth order,
# at which the last stage is evaluated: it is the first stage of the next step.
STAGES: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# What the solution of fourth order, with weights 5179/57600, 0, 7571/16695, 393/640, -92097/339200, 187/2100
# and 1/40, is away from it.
ERROR: tuple[float, ...] = (
    71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40,
)  # fmt: skip


class Trial(NamedTuple):
    """A step that may be accepted.

    Attributes
    ----------
    point, velocity
        The solution of fifth order, and the velocity there.
    error
        Its difference from the solution of fourth order, both within the domains.
    sixth, sixth_velocity
        The sixth stage: another point at the end of the step, and its velocity.
    """

    point: State
    velocity: State
    error: State
    sixth: State
    sixth_velocity: State


def trial(flow: Flow, point: State, velocity: State, dt: Float[Tensor, batch]) -> Trial:
    """A step from a point whose velocity is known; every stage is projected onto the domains."""
    slopes = [velocity]
    stage = sixth = point
    for weights in STAGES:
        sixth = stage
        change = _change(slopes, weights, dt)
        stage = flow.project({name: value + change[name] for name, value in point.items()})
        slopes.append(flow.velocity(stage))
    error = _change(slopes, ERROR, dt)
    fourth = flow.project({name: value - error[name] for name, value in stage.items()})
    error = {name: value - fourth[name] for name, value in stage.items()}
    return Trial(stage, slopes[-1], error, sixth, slopes[-2])


def _change(slopes: Sequence[State], weights: Sequence[float], dt: Tensor) -> State:
    change: State = {}
    for name, first in slopes[0].items():
        total = first * weights[0]
        for slope, weight in zip(slopes[1:], weights[1:], strict=True):
            if weight:
                total = torch.add(total, slope[name], alpha=weight)
        change[name] = total * column(dt, total)
    return change
