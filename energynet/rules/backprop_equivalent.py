"""Predictive coding that computes exactly what backprop does: fixed predictions, and Z-IL."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from energynet.cost import TARGET, Cost
from energynet.energy import Energy, Sum
from energynet.flow import GradientFlow
from energynet.rules.base import LearningRule, Phase, require
from energynet.rules.contrast import accumulate
from energynet.solution import Solution
from energynet.state import State
from energynet.stopping import Status
from energynet.terms.graph import chain_to
from energynet.terms.pullback import Linearised

Gradient = dict[nn.Parameter, Tensor]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The feed-forward pass of a batch, and the slope of the mean cost at its end.

    Attributes
    ----------
    source
        The value of the first variable.
    layers
        Each prediction of the chain, linearised at the value of its source.
    value
        The mean cost.
    slope
        Of the mean cost in the last prediction.
    gradient
        Of the mean cost in the parameters of the cost itself.
    """

    source: Tensor
    layers: list[Linearised]
    value: Tensor
    slope: Tensor
    gradient: Gradient


class BackpropEquivalent(LearningRule):
    """A schedule of predictive coding on a chain of predictions, started at the feed-forward pass.

    With mu_l the prediction of layer l and J_l the derivative of the one after it, both at the feed-forward
    pass, every error is zero at first but that of the output, which is minus the slope of the cost. Errors
    are what is kept, weighted by their precision, and states follow as z_l = mu_l + e_l / precision: a
    small error read off as a difference of states would lose digits to rounding.

    A layer is stepped by its time constant 1 / precision, that is by 1 for the precision of 1 of the papers;
    so the gradient depends on no precision, and none is learned (see `MaximumAPosteriori` for that).

    Parameters
    ----------
    energy
        A sum of `Prediction` terms with any modules. The path that leads to the output of the cost learns.
    cost
        Of the output and ``target``.
    """

    owns_gradient = True

    def __init__(self, energy: Energy, cost: Cost) -> None:
        super().__init__(energy)
        name = type(self).__name__
        if not isinstance(cost, Cost):
            raise TypeError(f'{name}: expected a cost such as SquaredError("y"), got {cost!r}')
        self.cost = cost
        self.chain = tuple(chain_to(name, energy, cost.output))
        self._whole = (Sum([energy, cost]),)  # in a tuple, for its parameters are those of the two above

    @property
    def first(self) -> str:
        """Name of the variable that starts the chain, which is clamped."""
        return self.chain[0].source

    def sweep(self, data: Mapping[str, Tensor]) -> Sweep:
        """Predict forwards, and take the slope of the cost at the output's prediction."""
        self._check(data)
        layers: list[Linearised] = []
        value = data[self.first]
        for term in self.chain:
            layers.append(term.linearise(value))
            value = layers[-1].prediction
        mean, slope, gradient = self.cost.linearised(value, data[TARGET])
        return Sweep(data[self.first], layers, mean, slope, gradient)

    def _check(self, data: Mapping[str, Tensor]) -> None:
        require(self, data, [self.first, TARGET], (self.first, TARGET))
        self._whole[0].check(data, partial=True)
        self.cost.check_target(self.energy.variables[self.cost.output], data[TARGET])

    def evaluate(self, **data: Tensor) -> Tensor:
        self._check(data)
        with torch.no_grad():
            value = data[self.first]
            for term in self.chain:
                value = term.predict(value)
            return self.cost.energy(**{self.cost.output: value, TARGET: data[TARGET]}).mean()

    def value(self, phases: Sequence[Phase]) -> Tensor:
        state = phases[0].solution.state
        return self.cost.energy(**{name: state[name] for name in self.cost.variables}).mean()

    @abstractmethod
    def errors(self, sweep: Sweep) -> tuple[list[Tensor], Gradient]:
        """Run the schedule.

        Returns
        -------
        slopes
            For each prediction the slope of the mean cost that it is read with: minus the precision times its
            error, divided by the batch.
        gradient
            Of each parameter on the chain.
        """

    @abstractmethod
    def read_at(self, level: int) -> int:
        """The step after which the weights of a prediction are read."""

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, Gradient]:
        sweep = self.sweep(data)
        _, gradient = self.errors(sweep)
        accumulate(gradient, sweep.gradient)
        return sweep.value, gradient

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """The output's cost at the feed-forward pass, and each prediction where its weights are read.

        The gradient of the sum of their energies is the rule, but for precisions, which it does not teach.
        """
        sweep = self.sweep(data)
        slopes, _ = self.errors(sweep)
        source = sweep.source
        inputs = [source, *(layer.prediction for layer in sweep.layers[:-1])]
        last, output = self.chain[-1], self.cost.output
        answer = {last.source: inputs[-1], output: sweep.layers[-1].prediction, TARGET: data[TARGET]}
        costly = Sum([last, self.cost])
        result = [Phase(0.0, costly, _standing(costly, answer, output, 0))]
        with torch.no_grad():
            for level, term in enumerate(self.chain):
                error = -len(source) * slopes[level] / term.precision
                state = {term.source: inputs[level], term.target: sweep.layers[level].prediction + error}
                result.append(Phase(1.0, term, _standing(term, state, term.target, self.read_at(level))))
        return result

    def _reversed(self, sweep: Sweep) -> tuple[list[Tensor], Gradient]:
        """One step a layer from the output down, each layer read after its own."""
        slopes = [sweep.slope]
        gradient: Gradient = {}
        for level in range(len(self.chain) - 1, -1, -1):
            slope, found = sweep.layers[level].pull(slopes[0], source=level > 0, parameters=True)
            accumulate(gradient, found)
            if slope is not None:
                slopes.insert(0, slope)
        return slopes, gradient


def _standing(energy: Energy, state: State, free: str, steps: int) -> Solution:
    """A state as a solution; it is on its way, so it is not called settled."""
    value = state[free]
    flow = GradientFlow(energy, {n: v for n, v in state.items() if n != free}, {free: value})
    count = torch.full((len(value),), steps, device=value.device)
    status = torch.full_like(count, int(Status.MAX_STEPS))
    return Solution(state=state, steps=count, status=status, trajectory=None, flow=flow, point={free: value})


@final
class FixedPrediction(BackpropEquivalent):
    """Predictive coding with predictions and derivatives frozen at the feed-forward pass.

    Every step moves all hidden layers at once by e_l <- (1 - rate) e_l + rate * J_l' e_(l+1), and the weights
    are read at the end (Millidge et al. 2022, Neural Comput. 34:1329, section 3; Rosenbaum 2022, PLoS ONE
    17:e0266102, algorithm 2). The fixed point is backprop's. At ``rate=1`` it is reached exactly, after one
    step for each hidden layer: an error is zero until the one above it has come, and final a step later. Only
    that wavefront has to be computed, which makes the whole schedule cost what one backward pass does.

    Parameters
    ----------
    energy, cost
        As in `BackpropEquivalent`.
    steps
        By default one for each hidden layer, where ``rate=1`` is exact. With less the layers that the
        wavefront has not reached do not learn; with another rate the gradient is off by a term of order
        steps^k (1 - rate)^steps in the layer that is k below the last hidden one.
    rate
        Of a step, in (0, 1].

    Examples
    --------
    >>> rule = en.FixedPrediction(en.models.PredictiveCoding([4, 8, 2]), en.SquaredError("y"))
    >>> rule(x=x, target=t).backward()
    """

    def __init__(self, energy: Energy, cost: Cost, steps: int | None = None, *, rate: float = 1.0) -> None:
        super().__init__(energy, cost)
        if steps is not None and (not isinstance(steps, int) or steps < 0):
            raise ValueError(
                f"FixedPrediction: steps must be a whole number, or None for one a layer; got {steps!r}"
            )
        if not 0 < rate <= 1 or math.isnan(rate):
            raise ValueError(f"FixedPrediction: rate must be above 0 and at most 1, got {rate!r}")
        self.steps = len(self.chain) - 1 if steps is None else steps
        self.rate = float(rate)

    def errors(self, sweep: Sweep) -> tuple[list[Tensor], Gradient]:
        last = len(self.chain) - 1
        if self.rate == 1 and self.steps >= last:
            return self._reversed(sweep)
        slopes = [*(torch.zeros_like(layer.prediction) for layer in sweep.layers[:-1]), sweep.slope]
        for step in range(1, self.steps + 1):
            front = last - step
            moving = range(max(front, 0), last) if self.rate < 1 else range(front, front + (front >= 0))
            for level in moving:  # from below, so that each reads the error above it as it was
                above, _ = sweep.layers[level + 1].pull(slopes[level + 1], source=True, parameters=False)
                assert above is not None
                slopes[level] = torch.lerp(slopes[level], above, self.rate)
        gradient: Gradient = {}
        for layer, slope in zip(sweep.layers, slopes, strict=True):
            accumulate(gradient, layer.pull(slope, source=False, parameters=True)[1])
        return slopes, gradient

    def read_at(self, level: int) -> int:
        return self.steps


@final
class ZIL(BackpropEquivalent):
    """Zero-divergence inference learning: predictive coding whose layers learn one step after another.

    From the feed-forward pass every step moves all hidden layers by their force, z_l <- z_l - dE/dz_l. The
    weights of the prediction of layer L - t are read after step t, when its error has just come and neither
    the layer below nor the derivatives that brought it have moved yet (Song et al. 2020, NeurIPS 33, "Can the
    brain do backpropagation?"). What has been read goes on moving, but nothing that is still to be read
    depends on it, so it is not computed: the schedule costs what one backward pass does.

    Parameters
    ----------
    energy, cost
        As in `BackpropEquivalent`.

    Examples
    --------
    >>> rule = en.ZIL(en.models.PredictiveCoding([4, 8, 2]), en.SquaredError("y"))
    >>> rule(x=x, target=t).backward()
    """

    def errors(self, sweep: Sweep) -> tuple[list[Tensor], Gradient]:
        return self._reversed(sweep)

    def read_at(self, level: int) -> int:
        return len(self.chain) - 1 - level
