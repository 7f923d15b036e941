"""The rules that are backprop: against autograd, and against the papers' schedules by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.testing import backprop_problems, check_backprop_equivalence
from helpers.networks import difference, gradient
from helpers.predictive import ByHand, autograd, network, supervised

COST = en.SquaredError("y")
EXACT = {"fixed": en.FixedPrediction, "zil": en.ZIL}
F64 = torch.float64


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-12), (torch.float32, 1e-6)])
def test_exact_on_two_hundred_networks_of_two_to_ten_layers(
    kind: str, dtype: torch.dtype, rtol: float
) -> None:
    problems = backprop_problems(depth=(2, 10), width=6, dtype=dtype)
    report = check_backprop_equivalence(EXACT[kind], problems=problems, examples=200, rtol=rtol, dtype=dtype)
    assert report.examples >= 200
    assert len(report.rows) == 20  # a weight and a bias of every layer down to the tenth
    assert all(row.error < rtol for row in report.rows.values())


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("direction", ["discriminative", "generative"])
def test_exact_against_the_network_of_the_model(kind: str, direction: str) -> None:
    model = network(4, 6, 5, 3, direction=direction, precision=[2.0, 0.5, 3.0])
    cost = en.CrossEntropy("y" if direction == "discriminative" else "x")
    data = {**supervised(model), "target": torch.tensor([0, 2, 1, 1, 0])}
    rule = EXACT[kind](model, cost)
    assert difference(gradient(rule, **data), autograd(model, cost, data)) < 1e-14
    expected = float(
        cost.energy(**{cost.output: model.network()(data[model.first]), "target": data["target"]})
        .detach()
        .mean()
    )
    assert float(rule(**data).detach()) == pytest.approx(expected, rel=1e-14)
    with torch.no_grad():
        assert float(rule(**data)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", EXACT)
def test_the_wavefront_reads_what_the_whole_schedule_reads(kind: str) -> None:
    """Every layer at every step, over states, by the papers' equations and formulas of the derivatives."""
    for activation in ("tanh", "sigmoid", "relu"):
        model = network(4, 5, 6, 4, 3, activation=activation, seed=2)
        data = supervised(model)
        hand = gradient(ByHand(model, COST, kind), **data)
        assert difference(gradient(EXACT[kind](model, COST), **data), hand) < 1e-12


@pytest.mark.parametrize(("kind", "steps"), [("fixed", [3, 3, 3, 3]), ("zil", [3, 2, 1, 0])])
def test_phases_are_the_energies_whose_sum_is_the_rule(kind: str, steps: list[int]) -> None:
    model = network(4, 5, 6, 4, 3, precision=[1.0, 0.5, torch.full((4,), 2.0), 3.0])
    data = supervised(model)
    rule = EXACT[kind](model, COST)
    free, *layers = rule.phases(**data)
    assert free.weight == 0
    assert float(rule.value([free])) == pytest.approx(float(rule(**data).detach()))
    assert [int(p.solution.steps[0]) for p in layers] == steps
    total = sum(p.weight * p.energy(p.solution.state).mean() for p in layers)
    assert isinstance(total, Tensor)
    slopes = torch.autograd.grad(total, list(model.parameters()))
    named = {f"energy.{n}": s for (n, _), s in zip(model.named_parameters(), slopes, strict=True)}
    assert difference(named, gradient(rule, **data)) < 1e-12


def test_fixed_prediction_with_fewer_steps_leaves_the_first_layers_as_they_are() -> None:
    model = network(4, 5, 6, 4, 3)
    data = supervised(model)
    whole = gradient(en.FixedPrediction(model, COST), **data)
    part = gradient(en.FixedPrediction(model, COST, 2), **data)
    assert difference(gradient(en.FixedPrediction(model, COST, 9), **data), whole) == 0
    for name in whole:
        first = "x_h1" in name
        assert torch.equal(part[name], torch.zeros_like(whole[name]) if first else whole[name])


def test_fixed_prediction_with_a_smaller_rate_comes_as_a_power_of_one_minus_it() -> None:
    """The error of the last hidden layer is exactly 1 - (1 - rate)^steps of its fixed point."""
    model = network(4, 5, 6, 3)
    data = supervised(model)
    whole = gradient(en.FixedPrediction(model, COST), **data)
    for steps in (1, 4, 9):
        part = gradient(en.FixedPrediction(model, COST, steps, rate=0.3), **data)
        name = "energy.predictions.h1_h2.module.weight"
        assert torch.allclose(part[name], (1 - 0.7**steps) * whole[name], rtol=1e-10)
        # one layer further down: the binomial sum over the steps at which the two layers move
        binomial = sum(math.comb(steps, k) * 0.3**k * 0.7 ** (steps - k) for k in range(2, steps + 1))
        name = "energy.predictions.x_h1.module.bias"
        assert torch.allclose(part[name], binomial * whole[name], rtol=1e-10, atol=1e-15)
    late = gradient(en.FixedPrediction(model, COST, 200, rate=0.3), **data)
    assert difference(late, whole) < 1e-12


class Block(nn.Module):
    """A residual block with a convolution: neither linear nor an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.inner(z.tanh())


def convolutional() -> tuple[en.Energy, nn.Sequential]:
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Tanh(), nn.Linear(6, 6))
    modules = [
        nn.Conv2d(1, 2, 3),
        Block(2),
        nn.Sequential(nn.Softplus(), nn.Flatten(), nn.Linear(18, 6)),
        shared,
        shared,
        nn.Sequential(nn.Sigmoid(), nn.Linear(6, 3, bias=False)),
    ]
    names = ["x", "a", "b", "c", "d", "e", "y"]
    shapes = [(1, 5, 5), (2, 3, 3), (2, 3, 3), (6,), (6,), (6,), (3,)]
    declared = {n: en.Real(*s) for n, s in zip(names, shapes, strict=True)}
    terms = [
        en.terms.Prediction(s, t, module, **{s: declared[s], t: declared[t]})
        for s, t, module in zip(names, names[1:], modules, strict=False)
    ]
    energy = sum(terms[1:], start=terms[0]).double()  # type: ignore[arg-type]
    return energy, nn.Sequential(*modules)


@pytest.mark.parametrize("kind", EXACT)
def test_exact_through_any_module_even_a_shared_one(kind: str) -> None:
    energy, net = convolutional()
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(4, *s, dtype=F64, generator=generator) for s in ((1, 5, 5), (3,)))
    mean = COST.energy(y=net(x), target=target).mean()
    expected = torch.autograd.grad(mean, list(net.parameters()))
    rule = EXACT[kind](energy, COST)
    rule(x=x, target=target).backward()
    for p, slope in zip(net.parameters(), expected, strict=True):
        assert p.grad is not None
        assert float((p.grad - slope).norm() / slope.norm()) < 1e-13


@pytest.mark.parametrize("kind", EXACT)
def test_the_gradient_is_the_users_own(kind: str) -> None:
    """It is handed over without a copy, and still may be asked for again, added to or changed."""
    model = network(4, 5, 3)
    data = supervised(model)
    rule = EXACT[kind](model, COST)
    once = gradient(rule, **data)
    rule.zero_grad()
    loss = rule(**data)
    for count in (1, 2, 3):
        loss.backward(retain_graph=True)
        for name, p in rule.named_parameters():
            assert p.grad is not None
            assert torch.allclose(p.grad, count * once[name], rtol=1e-12)
    (0.5 * rule(**data)).backward()
    for name, p in rule.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, 3.5 * once[name], rtol=1e-12)
    rule.zero_grad()
    loss = rule(**data)
    loss.backward(retain_graph=True)
    nn.utils.clip_grad_norm_(rule.parameters(), 1e-3)
    with pytest.raises(RuntimeError, match="was changed in place"):
        loss.backward()


def test_no_two_parameters_share_the_memory_of_a_gradient() -> None:
    class Shifts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.ones(1, 3))

        def forward(self, z: Tensor) -> Tensor:
            return z + self.one + self.two

    energy = en.terms.Prediction("x", "y", Shifts(), x=en.Real(3), y=en.Real(3))
    rule = en.ZIL(energy, COST)
    rule(x=torch.ones(1, 3), target=torch.zeros(1, 3)).backward()
    one, two = (p.grad for p in rule.parameters())
    assert one is not None and two is not None
    one.zero_()
    assert torch.equal(two, torch.full((1, 3), 2.0))


@pytest.mark.parametrize("kind", EXACT)
def test_frozen_parameters_get_nothing(kind: str) -> None:
    model = network(4, 5, 5, 3)
    data = supervised(model)
    rule = EXACT[kind](model, COST)
    whole = gradient(rule, **data)
    frozen = model.get_parameter("predictions.h1_h2.module.weight").requires_grad_(False)
    frozen.grad = None
    part = gradient(rule, **data)
    assert frozen.grad is None
    assert set(whole) - set(part) == {"energy.predictions.h1_h2.module.weight"}
    assert all(torch.equal(part[n], whole[n]) for n in part)


def other_sums() -> dict[str, tuple[en.Energy, str]]:
    chain = network(3, 4, 2)
    x, y, h = en.Real(3), en.Real(2), en.Real(4)
    twice = chain + en.terms.Prediction("x", "y", nn.Linear(3, 2), x=x, y=y)
    circle = en.terms.Prediction("h", "y", nn.Linear(4, 2), h=h, y=y) + en.terms.Prediction(
        "y", "h", nn.Linear(2, 4), h=h, y=y
    )
    return {
        "a leak": (chain + en.terms.Leak(x=x), "has Leak\\(x\\), of which backprop knows nothing"),
        "twice": (twice, "'y' is predicted by 'h1' and by 'x'"),
        "a circle": (circle, "in a circle through 'y'"),
        "negative": (-1.0 * chain, "with the factor -1"),
        "no output": (en.terms.Prediction("y", "h", nn.Linear(2, 4), h=h, y=y), "nothing predicts 'y'"),
    }


@pytest.mark.parametrize("case", ["a leak", "twice", "a circle", "negative", "no output"])
def test_energies_that_are_no_chain_are_refused(case: str) -> None:
    energy, words = other_sums()[case]
    with pytest.raises(en.StateError, match=f"ZIL: .*{words}"):
        en.ZIL(energy, COST)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m, d: en.FixedPrediction(m, COST, -1), "steps must be a whole number"),
        (lambda m, d: en.FixedPrediction(m, COST, rate=1.5), "rate must be above 0 and at most 1, got 1.5"),
        (lambda m, d: en.ZIL(m, m), "expected a cost"),
        (lambda m, d: en.ZIL(m, COST)(x=d["x"]), "no value for 'target'"),
        (lambda m, d: en.ZIL(m, COST)(**d, h1=d["x"]), "no variable 'h1'"),
        (lambda m, d: en.ZIL(m, COST)(x=d["x"], target=d["x"]), "'target': expected shape"),
        (lambda m, d: en.MaximumAPosteriori(m)(), "no data"),
        (lambda m, d: en.MaximumAPosteriori(m)(z=d["x"]), "no variable 'z'"),
        (lambda m, d: en.MaximumAPosteriori(m, start=3), "start is a function"),
        (lambda m, d: en.IncrementalPC(m, -1.0), "rate must be a finite number from 0 up"),
        (lambda m, d: en.IncrementalPC(m, 0.1, steps=0), "steps must be a whole number above 0"),
    ],
)
def test_bad_arguments(make: Any, words: str) -> None:
    model = network(4, 5, 3)
    with pytest.raises((ValueError, TypeError), match=words):
        make(model, supervised(model))


@pytest.mark.parametrize("kind", EXACT)
def test_exact_rules_are_the_implicit_gradient_and_survive_a_copy(kind: str) -> None:
    model = network(4, 5, 3)
    rule = EXACT[kind](model, COST)
    report = en.testing.check_gradient(rule, rtol=1e-9, **supervised(model))
    assert report.reference == "ImplicitDifferentiation"
    narrow = en.testing.check_gradient(rule, rtol=1e-5, dtype=torch.float32, **supervised(model))
    assert narrow.whole.error > 0


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("cost", [COST, en.CrossEntropy("y")])
def test_data_may_be_made_in_inference_mode(kind: str, cost: en.Cost) -> None:
    """A module that is no dense layer, and a cost whose slope is by autograd, save what they are given."""
    torch.manual_seed(0)
    h, y = en.Real(3), en.Real(2)
    bent = nn.Sequential(nn.Linear(4, 3), nn.GELU()).double()
    energy = en.terms.Prediction("x", "h", bent, x=en.Real(4), h=h)
    energy = energy + en.terms.Prediction("h", "y", nn.Linear(3, 2).double(), h=h, y=y)
    rule = EXACT[kind](energy, cost)
    with torch.inference_mode():
        data = {"x": torch.randn(5, 4, dtype=F64), "target": torch.randn(5, 2, dtype=F64).softmax(1)}
    expected = gradient(rule, **{name: value.clone() for name, value in data.items()})
    assert difference(gradient(rule, **data), expected) == 0
