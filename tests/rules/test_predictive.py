"""Rules of predictive coding against algebra, against the papers' schedules by hand, and in their limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.testing import backprop_problems, check_backprop_equivalence
from helpers.networks import difference, gradient
from helpers.predictive import ByHand, Chain, network, supervised

TIGHT = en.Stationary(atol=1e-13)
COST = en.SquaredError("y")
EXACT = {"fixed": en.FixedPrediction, "zil": en.ZIL}
F64 = torch.float64


def autograd(model: en.models.PredictiveCoding, cost: en.Cost, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain backprop through the network, under the names of the rule."""
    net = model.network()
    cost.energy(**{cost.output: net(data[model.first]), "target": data["target"]}).mean().backward()
    names = [f"energy.{n}" for n, p in model.named_parameters()]
    return {n: p.grad for n, p in zip(names, net.parameters(), strict=True) if p.grad is not None}


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


# -- maximum a posteriori


def clamped(model: en.models.PredictiveCoding) -> dict[str, Tensor]:
    data = supervised(model)
    return {"x": data["x"], "y": data["target"]}


def test_map_is_hebbian_in_the_errors_at_the_settled_state() -> None:
    """dE/dW_l = -precision * e_(l+1) z_l', at the closed form of the fixed point of a linear network."""
    model = network(3, 4, 5, 2, activation="linear", precision=[2.0, 1.0, 0.5])
    chain, data = Chain(model), clamped(model)
    found = gradient(en.MaximumAPosteriori(model, max_steps=20_000, until=TIGHT), **data)
    whole = chain.join({**model.feedforward(data["x"]), **data})
    fixed = torch.zeros(whole.shape[1], dtype=torch.bool)
    fixed[chain.indices(["x", "y"])] = True
    z = chain.settled(whole, fixed)
    for l, (source, target) in enumerate(zip(chain.names, chain.names[1:], strict=False)):  # noqa: E741
        before, after = z[:, chain.place[source]], z[:, chain.place[target]]
        error = (after - before @ chain.weights[l].T - chain.biases[l]) * chain.precisions[l]
        name = f"energy.predictions.{source}_{target}.module"
        assert torch.allclose(found[f"{name}.weight"], -error.T @ before / 5, atol=1e-9)
        assert torch.allclose(found[f"{name}.bias"], -error.mean(0), atol=1e-9)
    rule = en.MaximumAPosteriori(model, max_steps=20_000, until=TIGHT)
    with torch.no_grad():
        assert float(rule(**data)) == pytest.approx(float(chain.energy(z).mean()), rel=1e-9)


def test_map_is_the_gradient_of_its_value_learned_precisions_too() -> None:
    model = network(3, 4, 2, learn_precision=True)
    rule = en.MaximumAPosteriori(model, max_steps=20_000, until=en.Stationary(atol=1e-11))
    en.testing.check_gradient(rule, rtol=1e-5, **clamped(model))


def test_map_with_everything_clamped_is_the_energy_of_the_data() -> None:
    model = network(3, 2)
    data = clamped(model)
    rule = en.MaximumAPosteriori(model)
    found = gradient(rule, **data)
    slopes = torch.autograd.grad(model(data).mean(), list(model.parameters()))
    for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
        assert torch.allclose(found[f"energy.{name}"], slope, rtol=1e-12)
    assert float(rule(**data).detach()) == pytest.approx(float(model(data).detach().mean()))


def test_map_is_the_rule_of_sparse_coding_and_takes_a_cost() -> None:
    """Olshausen and Field (1996, eq. 6): the residual times the code, at the code."""
    torch.manual_seed(0)
    a, x = en.Real(5, link=en.SoftThreshold(0.1)), en.Real(4)
    energy = (en.terms.Reconstruction("a", "x", a=a, x=x) + en.terms.Sparsity(0.1, a=a)).double()
    value = torch.randn(6, 4, dtype=F64)
    rule = en.MaximumAPosteriori(
        energy, solver=en.Euler(0.1), max_steps=5000, until=en.Stationary(atol=1e-10)
    )
    (phase,) = rule.phases(x=value)
    code = phase.solution.state["a"]
    assert 0 < int((code == 0).sum()) < code.numel()
    (weight,) = energy.parameters()
    (found,) = gradient(rule, x=value).values()
    assert torch.allclose(found, -(value - code @ weight.T).T @ code / 6, atol=1e-9)
    model = network(3, 4, 2)
    data = supervised(model)
    costly = en.MaximumAPosteriori(model + COST, max_steps=5000, until=TIGHT)
    doubled = network(3, 4, 2)  # y between its prediction and the target: two springs in a row
    doubled.load_state_dict(model.state_dict())
    twin = en.MaximumAPosteriori(doubled, max_steps=5000, until=TIGHT)
    (phase,) = costly.phases(**data)
    y = phase.solution.state["y"]
    assert float((y - data["target"]).abs().max()) > 0.01
    expected = gradient(twin, x=data["x"], y=y)
    found = gradient(costly, **data)
    assert (
        difference({n: found[n.replace("energy.", "energy.energies.0.")] for n in expected}, expected) < 1e-8
    )


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 4, dtype=F64)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"h1": self.up(x)}


def test_amortised_inference_starts_there_and_learns_where_it_ended() -> None:
    model, data = network(3, 4, 2), {}
    data = clamped(model)
    torch.manual_seed(1)
    encoder = Encoder()
    rule = en.MaximumAPosteriori(model, start=encoder, max_steps=3)
    (phase,) = rule.phases(**data)
    by_hand = en.settle(model, {"h1": encoder.up(data["x"]).detach()}, clamp=data, max_steps=3).state["h1"]
    assert torch.equal(phase.solution.state["h1"], by_hand)
    distance = 0.5 * (encoder.up(data["x"]) - by_hand).square().sum(1).mean()
    slopes = torch.autograd.grad(distance, list(encoder.parameters()))
    found = gradient(rule, **data)
    assert torch.allclose(found["start.up.weight"], slopes[0], rtol=1e-12)
    assert torch.allclose(found["start.up.bias"], slopes[1], rtol=1e-12)
    plain = gradient(en.MaximumAPosteriori(model, start=encoder.forward, max_steps=3), **data)
    assert difference({n: found[n] for n in plain}, plain) == 0


# -- incremental


def test_incremental_is_the_loop_by_hand() -> None:
    """Weights and states move together, each by the gradient at the same point."""
    model, rate, dt = network(3, 4, 4, 2), 0.05, 0.1
    data = clamped(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rule = en.IncrementalPC(model, rate, steps=7)
    found = gradient(rule, **data)
    value = float(rule(**data).detach())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    hand = network(3, 4, 4, 2)
    state = hand.feedforward(data["x"])
    h = {n: state[n] for n in ("h1", "h2")}
    for _ in range(7):
        leaves = {n: v.detach().requires_grad_() for n, v in h.items()}
        each = hand.energy(**data, **leaves)
        forces = torch.autograd.grad(each.sum(), list(leaves.values()), retain_graph=True)
        slopes = torch.autograd.grad(each.mean(), list(hand.parameters()))
        h = {n: v.detach() - dt * f for (n, v), f in zip(leaves.items(), forces, strict=True)}
        with torch.no_grad():
            for p, slope in zip(hand.parameters(), slopes, strict=True):
                p -= rate * slope
    end = dict(hand.named_parameters())
    moved = {f"energy.{n}": (before[n] - end[n].detach()) / rate for n in before}
    assert difference(found, moved) < 1e-11
    assert value == pytest.approx(float(hand(data | h).detach().mean()), rel=1e-12)
    torch.optim.SGD(model.parameters(), lr=rate).step()
    assert all(torch.allclose(p, end[n], rtol=1e-12, atol=1e-14) for n, p in model.named_parameters())


def test_incremental_without_a_rate_sums_the_gradients_on_the_way() -> None:
    model = network(3, 4, 2)
    data = clamped(model)
    states = en.settle(
        model,
        model.feedforward(data["x"]),
        clamp=data,
        solver=en.Euler(0.1),
        max_steps=4,
        until=en.Never(),
        record="state",
    ).trajectory
    total = sum(model.energy(**data, h1=states["h1"][i]).mean() for i in range(4))
    assert isinstance(total, Tensor)
    slopes = torch.autograd.grad(total, list(model.parameters()))
    named = {f"energy.{n}": s for (n, _), s in zip(model.named_parameters(), slopes, strict=True)}
    assert difference(gradient(en.IncrementalPC(model, 0.0, steps=4), **data), named) < 1e-12


def test_incremental_puts_the_weights_back_when_it_diverges() -> None:
    model = network(3, 4, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(en.SettlingError, match="diverged"):
        en.IncrementalPC(model, 1e200, steps=20)(**clamped(model))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


# -- weak nudges


@pytest.mark.parametrize(("estimator", "order"), [("centered", 2.0), ("one-sided", 1.0)])
def test_nudged_predictive_coding_is_backprop_in_the_weak_limit(estimator: str, order: float) -> None:
    def rule(energy: en.Energy, cost: en.Cost, beta: float) -> en.LearningRule:
        return en.EquilibriumPropagation(energy, cost, beta, estimator)

    report = check_backprop_equivalence(rule, order=order, examples=3)
    assert report.whole.order == pytest.approx(order, abs=0.2)


def test_the_free_phase_of_a_nudge_starts_where_it_ends() -> None:
    model = network(4, 6, 5, 3)
    data = supervised(model)
    free, *_ = en.EquilibriumPropagation(model, COST, 0.01).phases(**data)
    assert int(free.solution.steps.max()) <= 5  # the first look
    assert torch.allclose(free.solution.state["y"], model.network()(data["x"]), atol=1e-12)
    exact = gradient(en.ImplicitDifferentiation(model, COST), **data)
    assert difference({n: exact[n] for n in exact}, autograd(model, COST, data)) < 1e-10
