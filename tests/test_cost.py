"""Costs against plain arithmetic, and targets that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor

import energynet as en

Y = torch.tensor([[0.2, 0.9, 0.4], [0.0, 1.0, 0.5]], dtype=torch.float64)


def test_squared_error_is_half_the_sum_of_squares() -> None:
    target = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = [0.5 * (0.04 + 0.01 + 0.16), 0.5 * (1 + 0 + 0.25)]
    found = en.SquaredError("y").energy(y=Y, target=target)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_cross_entropy_of_classes_is_minus_the_log_probability() -> None:
    found = en.CrossEntropy("y").energy(y=Y, target=torch.tensor([2, 0]))
    y = Y.numpy()
    assert found.tolist() == pytest.approx([logsumexp(y[0]) - y[0, 2], logsumexp(y[1]) - y[1, 0]])


def test_cross_entropy_of_probabilities_is_their_mean() -> None:
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = en.CrossEntropy("y").energy(y=Y, target=target)
    expected = -(target.numpy() * log_softmax(Y.numpy(), axis=1)).sum(1)
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("cost", [en.SquaredError("y"), en.CrossEntropy("y")], ids=lambda c: type(c).__name__)
def test_a_nudged_energy_takes_the_output_from_the_model(cost: en.Cost) -> None:
    torch.manual_seed(0)
    model = en.models.LayeredHopfield([3, 4, 2], "sigmoid")  # no unit of it is stuck at an end
    nudged = model + 0.1 * cost
    assert nudged.variables["y"] == en.Unit(2, link=en.Sigmoid())
    target = torch.tensor([[0.0, 1.0]] * 5)
    x = torch.randn(5, 3)
    free = en.settle(model, clamp={"x": x})
    pulled = en.settle(nudged, clamp={"x": x, "target": target})

    def value(solution: en.Solution) -> Tensor:
        return cost.energy(y=solution.state["y"], target=target)

    assert (value(pulled) < value(free)).all()


SQUARED, CROSS = en.SquaredError("y"), en.CrossEntropy("y")
BAD = {
    "classes for squared error": (SQUARED, torch.tensor([0, 1, 1]), ["floating", "int64", "one_hot"]),
    "shape": (SQUARED, torch.zeros(3, 5), ["(3, 2)", "(3, 5)"]),
    "no units": (SQUARED, torch.zeros(3), ["(3, 2)", "(3,)"]),
    "nan": (SQUARED, torch.full((3, 2), math.nan), ["finite", "nan"]),
    "dtype": (SQUARED, torch.zeros(3, 2).double(), ["float32", "float64"]),
    "device": (SQUARED, torch.zeros(3, 2, device="meta"), ["cpu", "meta"]),
    "batch": (SQUARED, torch.zeros(4, 2), ["batch of 3", "4"]),
    "class above": (CROSS, torch.tensor([0, 1, 2]), ["below 2", "0 to 2"]),
    "class below": (CROSS, torch.tensor([0, -1, 1]), ["from 0", "-1"]),
    "class columns": (CROSS, torch.tensor([[0], [1], [1]]), ["(batch,)", "(3, 1)"]),
    "int32": (CROSS, torch.tensor([0, 1, 1], dtype=torch.int32), ["int64", "int32"]),
    "no distribution": (CROSS, torch.full((3, 2), 0.8), ["sum to 1", "1.6"]),
    "negative": (CROSS, torch.tensor([[1.5, -0.5]] * 3), ["non-negative", "-0.5"]),
    "list": (SQUARED, [[0.0, 1.0]] * 3, ["tensor"]),
}


@pytest.mark.parametrize("rule", ["EquilibriumPropagation", "ImplicitDifferentiation", "Unrolled"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_targets_are_refused_before_settling(kind: str, rule: str) -> None:
    cost, target, words = BAD[kind]
    model = en.models.LayeredHopfield([3, 4, 2])
    more = {"EquilibriumPropagation": (0.01,), "Unrolled": (3,)}.get(rule, ())
    learner = getattr(en, rule)(model, cost, *more)
    with pytest.raises(en.StateError) as caught:
        learner(x=torch.zeros(3, 3), target=target)
    assert "'target'" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_cross_entropy_wants_a_vector_of_logits() -> None:
    with pytest.raises(en.StateError, match=r"'y'.*\(batch, classes\)"):
        CROSS({"y": torch.zeros(3, 2, 2), "target": torch.tensor([0, 1, 1])})


def test_the_output_is_not_the_target() -> None:
    with pytest.raises(ValueError, match="target"):
        en.SquaredError("target")
