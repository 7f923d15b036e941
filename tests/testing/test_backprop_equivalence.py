"""The check of equivalence passes what is backprop and rejects what is only nearly so."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.testing import ConformanceError, Problem, backprop_problems, check_backprop_equivalence
from energynet.testing.equivalence import backprop
from helpers.predictive import ByHand, supervised

F64 = torch.float64
# By hand an error is a difference of states, which costs digits; a fault costs all of them.
BY_HAND = 1e-6


@pytest.mark.parametrize("rule", [en.ZIL, en.FixedPrediction])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_exact_rules_pass(rule: Any, dtype: torch.dtype) -> None:
    report = check_backprop_equivalence(rule, dtype=dtype, examples=30)
    assert report.rtol == (1e-12 if dtype == F64 else 1e-5)
    assert report.whole.error <= 1e-6
    assert report.whole.least == pytest.approx(1, abs=1e-6)
    assert report.whole.most == pytest.approx(1, abs=1e-6)
    text = str(report)
    assert text.startswith(f"{rule.__name__} against backprop, {report.examples} networks\n")
    assert "weight, 0 below the last" in text
    assert "bias, 3 below the last" in text


@pytest.mark.parametrize("schedule", ["zil", "fixed"])
def test_the_papers_by_hand_pass_at_the_precision_of_states(schedule: str) -> None:
    check_backprop_equivalence(partial(ByHand, schedule=schedule), rtol=BY_HAND, examples=30)


@pytest.mark.parametrize(
    ("schedule", "fault"),
    [
        ("zil", "transposed"),
        ("zil", "derivative"),
        ("zil", "steps"),
        ("fixed", "transposed"),
        ("fixed", "derivative"),
        ("fixed", "bracket"),
        ("fixed", "steps"),
    ],
)
def test_planted_fault_is_caught(schedule: str, fault: str) -> None:
    rule = partial(ByHand, schedule=schedule, fault=fault)
    with pytest.raises(ConformanceError, match="the gradient of ByHand is not that of backprop") as caught:
        check_backprop_equivalence(rule, rtol=BY_HAND)
    assert caught.value.law == "rule_is_backprop"
    text = str(caught.value)
    layers = re.findall(r"layers of ([\d-]+),", text)[0].split("-")
    # shrunk to the shallowest network that shows it: the first bracket is right while the error is still zero
    assert len(layers) == (4 if fault == "bracket" else 3), text
    assert "batch 1" in text
    if fault == "steps":
        assert "nothing has reached this layer" in text


def test_the_bracket_is_no_fault_on_the_wavefront() -> None:
    """Z-IL reads an error that was zero before the step, where (-e + f') * (W' e) is f' * (W' e)."""
    check_backprop_equivalence(partial(ByHand, schedule="zil", fault="bracket"), rtol=BY_HAND, examples=20)


def test_one_step_too_few_of_the_librarys_own_rule_is_caught() -> None:
    def hasty(energy: en.Energy, cost: en.Cost) -> en.LearningRule:
        depth = len(energy.parts()) - 1
        return en.FixedPrediction(energy, cost, max(depth - 1, 0))

    with pytest.raises(
        ConformanceError, match=r"(?s)got: +1 \(norm ratio 0\).*nothing has reached"
    ) as caught:
        check_backprop_equivalence(hasty)
    # a cosine over all parameters would not have seen it: the other layers are right
    rows = caught.value.report.rows
    assert rows["weight, 0 below the last"].error <= 1e-12


def test_nearly_right_is_not_right() -> None:
    def damped(energy: en.Energy, cost: en.Cost) -> en.LearningRule:
        return en.FixedPrediction(energy, cost, 40, rate=0.5)  # off by about 1e-10

    with pytest.raises(ConformanceError, match=r"of at most 1e-12\ngot: .*e-1\d"):
        check_backprop_equivalence(damped)
    check_backprop_equivalence(damped, rtol=1e-7, examples=20)


def test_a_limit_of_the_wrong_order_is_caught() -> None:
    def nudged(energy: en.Energy, cost: en.Cost, beta: float) -> en.LearningRule:
        return en.EquilibriumPropagation(energy, cost, beta, "one-sided")

    with pytest.raises(
        ConformanceError, match=r"falls as the power 2 of the strength, but it falls as (0|1)\.\d"
    ):
        check_backprop_equivalence(nudged, order=2, examples=2)


class Strengthened(ByHand):
    """Backprop plus a number of times a power of the strength, in every entry."""

    def __init__(
        self, energy: en.Energy, cost: en.Cost, strength: float, power: float, floor: float = 0.0
    ) -> None:
        super().__init__(energy, cost, "zil")
        self.off = strength**power + floor

    def learn(self, data: Any) -> tuple[Tensor, dict[Any, Tensor]]:
        value, gradient = super().learn(data)
        return value, {p: g * (1 + self.off) for p, g in gradient.items()}


def test_a_gradient_that_is_no_number_is_caught_and_shown() -> None:
    broken = partial(Strengthened, strength=1.0, power=1.0, floor=math.nan)
    with pytest.raises(ConformanceError, match=r"got: +nan") as caught:
        check_backprop_equivalence(broken)
    assert math.isnan(caught.value.report.whole.error) and math.isnan(caught.value.report.whole.most)


def test_orders_are_measured() -> None:
    for power in (1.0, 2.0):
        make = partial(Strengthened, power=power)
        report = check_backprop_equivalence(make, order=power, examples=10)
        assert report.whole.order == pytest.approx(power, abs=0.02)
        assert f"{power:.2f}" in str(report)
    with pytest.raises(ConformanceError, match=r"power 2 of the strength, but it falls as 1\.00"):
        check_backprop_equivalence(partial(Strengthened, power=1.0), order=2, examples=10)
    with pytest.raises(ConformanceError, match="power 1 of the strength, but it falls as 0"):
        check_backprop_equivalence(partial(Strengthened, power=1.0, floor=0.05), order=1, examples=10)
    exact = check_backprop_equivalence(partial(Strengthened, power=30.0), order=2, examples=10)
    assert math.isnan(exact.whole.order)  # all rounding: it is equal already


@settings(max_examples=30)
@given(backprop_problems(depth=(1, 6)))
def test_the_reference_is_the_gradient_by_differences(problem: Problem) -> None:
    """Of the cost of ``network()``, along one random direction of all parameters."""
    model: Any = problem.energy
    rule = en.ZIL(model, problem.cost)
    slopes = list(backprop(rule, problem).values())
    net = model.network()
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, dtype=F64, generator=generator) for p in net.parameters()]
    values = []
    with torch.no_grad():
        for shift in (1e-6, -2e-6):
            for p, d in zip(net.parameters(), along, strict=True):
                p += shift * d
            state = {problem.cost.output: net(problem.data[model.first]), "target": problem.data["target"]}
            values.append(float(problem.cost.energy(**state).mean()))
    measured = (values[0] - values[1]) / 2e-6
    expected = float(sum((s * d).sum() for s, d in zip(slopes, along, strict=True)))
    assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_other_problems_and_references() -> None:
    torch.manual_seed(0)
    model = en.models.PredictiveCoding([3, 4, 2]).double()
    data = supervised(model)
    one = st.just(Problem(model, en.SquaredError("y"), data, "the only one"))
    report = check_backprop_equivalence(en.ZIL, problems=one)
    assert report.examples == 1

    def doubled(rule: en.LearningRule, problem: Problem) -> dict[str, Tensor]:
        return {n: 2 * g for n, g in backprop(rule, problem).items()}

    with pytest.raises(
        ConformanceError, match=r"(?s)not that of doubled.*network: +the only one.*norm ratio 0.5"
    ):
        check_backprop_equivalence(en.ZIL, problems=one, reference=doubled)


def test_nothing_is_left_behind() -> None:
    before = torch.random.get_rng_state()
    torch.manual_seed(7)
    here = torch.random.get_rng_state()
    check_backprop_equivalence(en.ZIL, examples=3)
    assert torch.equal(torch.random.get_rng_state(), here)
    torch.random.set_rng_state(before)
