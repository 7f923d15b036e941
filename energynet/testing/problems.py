"""Problems on which a rule is compared with backprop: a network of predictions, a cost and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from energynet.cost import TARGET, Cost, CrossEntropy, SquaredError
from energynet.energy import Energy
from energynet.models import PredictiveCoding
from energynet.models.predictive import ACTIVATIONS, DIRECTIONS
from energynet.terms import Dense, Prediction
from energynet.testing.strategies import batches, generators

COSTS: dict[str, type[SquaredError] | type[CrossEntropy]] = {"squared": SquaredError, "entropy": CrossEntropy}


@dataclass(frozen=True, eq=False)
class Problem:
    """What a rule is made of and called with.

    Attributes
    ----------
    energy, cost
        The first arguments of the rule.
    data
        What it is called with.
    name
        The structure in words, for a report.
    """

    energy: Energy
    cost: Cost
    data: Mapping[str, Tensor]
    name: str


@st.composite
def predictive_networks(
    draw: st.DrawFn,
    *,
    depth: tuple[int, int] = (1, 5),
    width: int = 5,
    activations: Sequence[str] = tuple(ACTIVATIONS),
    directions: Sequence[str] = DIRECTIONS,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> PredictiveCoding:
    """Predictive coding networks with generic weights and biases, some of them residual.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    depth
        The least and the most predictions.
    width
        The most units of a layer.
    activations, directions
        To choose from.
    gain
        Of the weights: their entries have the standard deviation gain / sqrt(units that predict).
    dtype
        Of the parameters.
    """
    count = draw(st.integers(*depth))
    sizes = draw(st.lists(st.integers(1, width), min_size=count + 1, max_size=count + 1))
    residual = draw(st.booleans())
    if residual:
        sizes = [sizes[0], *[sizes[1]] * (count - 1), sizes[-1]]
    with torch.random.fork_rng(devices=[]):
        model = PredictiveCoding(
            sizes,
            draw(st.sampled_from(list(activations))),
            draw(st.sampled_from(list(directions))),
            precision=draw(st.sampled_from([1.0, 0.5, 2.0])),
            residual=residual,
            mu=draw(st.booleans()),
        ).to(dtype)
    generator = draw(generators())
    with torch.no_grad():
        for term in model.predictions.values():
            assert isinstance(term, Prediction) and isinstance(term.module, Dense)
            layer = term.module
            spread = gain / (layer.scale * layer.weight.shape[1] ** 0.5)
            _normal(layer.weight, generator, spread)
            if layer.bias is not None:
                _normal(layer.bias, generator, 0.3)
    return model


def _normal(parameter: Tensor, generator: torch.Generator, spread: float) -> None:
    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


@st.composite
def backprop_problems(
    draw: st.DrawFn,
    *,
    depth: tuple[int, int] = (1, 5),
    width: int = 5,
    activations: Sequence[str] = tuple(ACTIVATIONS),
    costs: Sequence[str] = tuple(COSTS),
    batch: int = 4,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Predictive coding networks with a squared error or a cross-entropy, and data.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    depth, width, activations, gain, dtype
        As in `predictive_networks`.
    costs
        Of ``"squared"`` and ``"entropy"``.
    batch
        The most samples.
    """
    model = draw(
        predictive_networks(depth=depth, width=width, activations=activations, gain=gain, dtype=dtype)
    )
    size = draw(batches(batch))
    generator = draw(generators())
    kind = draw(st.sampled_from(list(costs)))
    output = "y" if model.first == "x" else "x"
    units = model.variables[output].shape[0]
    order = list(model.variables) if model.first == "x" else list(model.variables)[::-1]
    sizes = "-".join(str(model.variables[name].shape[0]) for name in order)
    given = torch.randn(size, *model.variables[model.first].shape, generator=generator, dtype=torch.float64)
    target = torch.randn(size, units, generator=generator, dtype=torch.float64)
    if kind == "entropy":
        target = target.softmax(1)
    name = (
        f"{model.direction}, layers of {sizes}, {model.activation}, {kind}, "
        f"batch {size}, {str(dtype).removeprefix('torch.')}"
    )
    data = {model.first: given.to(dtype), TARGET: target.to(dtype)}
    return Problem(model, COSTS[kind](output), data, name)
