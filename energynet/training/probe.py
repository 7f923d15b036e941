"""Looks at a learner from outside: how exact its gradient is, and how its energy falls."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from energynet.errors import SettlingError
from energynet.rules import ImplicitDifferentiation
from energynet.settle import settle
from energynet.training.learners import EnergyLearner, Learner, apply, cost, energy_rule

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

    from energynet.training.config import Config


@final
class Probe:
    """The angle between a rule's gradient and the exact one at the free fixed point, in float64.

    Both are taken over all parameters together, on one fixed batch, with the weights as they are; the
    learner is not changed.

    Parameters
    ----------
    learner
        Whose gradient.
    x, target
        The batch.
    """

    def __init__(self, learner: EnergyLearner, x: Tensor, target: Tensor) -> None:
        self._learner = learner
        self._energy = copy.deepcopy(learner.energy).double()
        self._x, self._target = x.double(), target.double()
        self._coin = torch.Generator()
        self._rule = energy_rule(learner.name, self._energy, learner.config, self._coin)
        self._exact = ImplicitDifferentiation(self._energy, cost())

    def angle(self) -> float | None:
        """Measure the angle in degrees; None where one of the gradients is zero or does not exist."""
        self._energy.load_state_dict(self._learner.energy.state_dict())
        self._coin.manual_seed(self._learner.config.seed)  # the same draws at every measurement
        try:
            exact = gradient(self._energy, self._exact(x=self._x, target=self._target))
        except SettlingError:
            return None
        return angle(gradient(self._energy, apply(self._rule, self._x, self._target)), exact)


def gradient(module: nn.Module, loss: Tensor) -> Float[Tensor, " parameters"]:
    """Flatten the gradient of a loss in all parameters into one vector."""
    module.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def angle(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float | None:
    """Measure the angle between two vectors in degrees; None where one is zero or not finite."""
    norms = first.norm(), second.norm()
    if not all(math.isfinite(norm) and norm > 0 for norm in map(float, norms)):
        return None
    a, b = first / norms[0], second / norms[1]
    # Exact at small angles, where the arc cosine is not.
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


@dataclass(frozen=True, eq=False)
class Fall:
    """Energies while settling, each ``(times, samples)``.

    Attributes
    ----------
    free
        The energy in the free phase.
    plus, minus
        The energy with the cost times beta and minus beta, from the free state on.
    beta
        Strength of the nudge.
    """

    free: Float[Tensor, "times samples"]
    plus: Float[Tensor, "times samples"]
    minus: Float[Tensor, "times samples"]
    beta: float


def fall(learner: Learner, config: Config, x: Tensor, target: Tensor) -> Fall | None:
    """Record the energy of a few samples while they settle; None for learners without an energy.

    Parameters
    ----------
    learner
        Whose energy.
    config
        Of the run; its solver settles.
    x, target
        The samples.
    """
    if not isinstance(learner, EnergyLearner):
        return None
    energy, beta = copy.deepcopy(learner.energy).double(), abs(config.beta)
    x, target = x.double(), target.double()
    free = settle(energy, clamp={"x": x}, solver=config.make_solver(), record="energy")
    rest = {name: value for name, value in free.state.items() if name != "x"}

    def nudged(strength: float) -> Tensor:
        return settle(
            energy + strength * cost(),
            rest,
            clamp={"x": x, "target": target},
            solver=config.make_solver(),
            record="energy",
        ).trajectory

    return Fall(free.trajectory, nudged(beta), nudged(-beta), beta)
