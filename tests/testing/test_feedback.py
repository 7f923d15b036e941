"""Contrastive Hebbian learning is backprop in the limit of weak feedback (Xie and Seung 2003)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.testing import ConformanceError, Problem, check_backprop_equivalence
from energynet.testing.feedback import WeakFeedback, weak_feedback

F64 = torch.float64
TIGHT = en.Stationary(atol=1e-13)


def network(*sizes: int, activation: str = "tanh", seed: int = 0) -> en.models.PredictiveCoding:
    torch.manual_seed(seed)
    model = en.models.PredictiveCoding(sizes, activation).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return model


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    sizes = draw(st.lists(st.integers(1, 3), min_size=3, max_size=4))  # without hidden units all is exact
    activation = draw(st.sampled_from(["tanh", "sigmoid", "linear"]))
    model = network(*sizes, activation=activation, seed=draw(st.integers(0, 1000)))
    x, target = torch.randn(2, sizes[0], dtype=F64), torch.randn(2, sizes[-1], dtype=F64)
    return Problem(
        model, en.SquaredError("y"), {"x": x, "target": target}, f"layers of {sizes}, {activation}"
    )


def weak(energy: Any, cost: en.Cost, gain: float) -> Any:
    return WeakFeedback(energy, gain, until=TIGHT)


def test_the_error_falls_in_proportion_to_the_feedback() -> None:
    report = check_backprop_equivalence(weak, order=1, problems=problems(), examples=4)
    assert report.examples >= 4
    assert report.whole.order == pytest.approx(1, abs=0.2)
    assert report.whole.error < 0.1  # at a gain of 0.01
    assert len(report.rows) > 2  # it reached networks with hidden layers


def test_symmetric_feedback_is_not_backprop() -> None:
    with pytest.raises(ConformanceError, match=r"power 1 of the strength, but it falls as -?0"):
        check_backprop_equivalence(
            lambda e, c, gain: weak(e, c, 1.0), order=1, problems=problems(), examples=4
        )


def by_hand(model: en.models.PredictiveCoding, gain: float, x: Tensor, y: Tensor | None) -> list[Tensor]:
    """The fixed point of the rate equations, by iteration; the output clamped where it is given."""
    layers: list[Any] = [term.module for term in model.predictions.values()]
    s = [x, *(torch.zeros(len(x), len(layer.weight), dtype=F64) for layer in layers)]
    if y is not None:
        s[-1] = y
    for _ in range(400):
        for l in range(1, len(s) if y is None else len(s) - 1):  # noqa: E741
            drive = s[l - 1] @ layers[l - 1].weight.T + layers[l - 1].bias
            s[l] = drive if l == len(s) - 1 else (drive + gain * s[l + 1] @ layers[l].weight).tanh()
    return [v.detach() for v in s]


@pytest.mark.parametrize("gain", [0.5, 0.05])
def test_state_and_gradient_are_those_of_the_paper(gain: float) -> None:
    model = network(4, 5, 6, 3)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, n, dtype=F64, generator=generator) for n in (4, 3))
    free, clamped = by_hand(model, gain, x, None), by_hand(model, gain, x, y)
    state = en.settle(weak_feedback(model, gain), clamp={"x": x}, until=TIGHT).state
    for name, expected in zip(model.variables, free, strict=True):
        assert torch.allclose(state[name], expected, atol=1e-11)
    rule = WeakFeedback(model, gain, until=TIGHT)
    rule(x=x, target=y).backward()
    for level, term in enumerate(model.predictions.values()):
        factor = gain ** (level - 2) / len(x)
        products = [s[level + 1].T @ s[level] for s in (clamped, free)]
        slope = term.get_parameter("module.weight").grad
        assert slope is not None
        assert torch.allclose(slope, factor * (products[1] - products[0]), rtol=1e-8, atol=1e-9)
        bias = term.get_parameter("module.bias").grad
        assert bias is not None
        assert torch.allclose(
            bias, factor * (free[level + 1] - clamped[level + 1]).sum(0), rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize(
    ("make", "gain", "words"),
    [
        (lambda: network(3, 4, 2), 0.0, "gain above 0, got 0"),
        (lambda: network(3, 4, 2, activation="relu"), 0.1, "a discriminative one with relu"),
        (lambda: en.models.PredictiveCoding([3, 4, 2], direction="generative"), 0.1, "a generative one"),
        (lambda: en.models.PredictiveCoding([3, 4, 4, 2], residual=True), 0.1, "neither residual nor scaled"),
        (lambda: en.models.PredictiveCoding([3, 4, 2], mu=True), 0.1, "neither residual nor scaled"),
        (lambda: en.models.PredictiveCoding([3, 4, 2], bias=False), 0.1, "layers with biases"),
    ],
)
def test_what_has_no_such_energy_is_refused(make: Any, gain: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        weak_feedback(make(), gain)
