"""Predictive coding networks against algebra: energy, fixed points and Hessian of linear chains."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.models import PredictiveCoding
from helpers.predictive import Chain, F, network, supervised

TIGHT = en.Stationary(atol=1e-12)
F64 = torch.float64


def random_state(model: en.Energy, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        n: torch.randn(batch, *v.shape, dtype=F64, generator=generator) for n, v in model.variables.items()
    }


@pytest.mark.parametrize("activation", ["linear", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("direction", ["discriminative", "generative"])
def test_energy_is_the_sum_of_squared_errors_unit_by_unit(activation: str, direction: str) -> None:
    precision = [0.5, torch.tensor([1.0, 2.0, 3.0]) if direction == "discriminative" else 2.0, 3.0]
    sizes = (2, 4, 3, 2)
    model = network(*sizes, activation=activation, direction=direction, precision=precision)
    state = random_state(model)
    order = ["x", "h1", "h2", "y"] if direction == "discriminative" else ["y", "h2", "h1", "x"]
    expected = torch.zeros(3, dtype=F64)
    for level in range(3):
        source, target = order[level], order[level + 1]
        layer: Any = model.predictions[f"{source}_{target}"].module.requires_grad_(False)
        f = F["linear" if level == 0 else activation][0]
        for sample in range(3):
            for i in range(state[target].shape[1]):
                predicted = float(layer.bias[i]) + sum(
                    float(layer.weight[i, j]) * float(f(state[source][sample, j]))
                    for j in range(state[source].shape[1])
                )
                weight = torch.as_tensor(precision[level]).expand(state[target].shape[1])[i]
                expected[sample] += 0.5 * float(weight) * (float(state[target][sample, i]) - predicted) ** 2
    assert torch.allclose(model(state), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"activation": "relu", "direction": "generative"},
        {"residual": True, "mu": True},
        {"bias": False, "mu": True},
    ],
    ids=["plain", "generative", "residual", "no bias"],
)
def test_network_is_where_it_settles_without_a_target(more: dict[str, Any]) -> None:
    torch.manual_seed(3)
    model = PredictiveCoding([4, 5, 5, 3], **more).double()
    value = torch.randn(6, *model.variables[model.first].shape, dtype=F64)
    network = model.network()
    state = model.feedforward(value)
    assert list(state) == ["x", "h1", "h2", "y"]
    assert float(model(state).detach().abs().max()) == 0
    output = "y" if model.first == "x" else "x"
    assert torch.equal(network(value), state[output])
    assert [p.shape for p in network.parameters()] == [p.shape for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), model.parameters(), strict=True))
    free = en.settle(model, clamp={model.first: value}, until=TIGHT, max_steps=20_000, throw=True)
    assert torch.allclose(free.state[output], network(value), atol=1e-9)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)  # the network is a copy
    assert torch.equal(network(value), state[output])


def test_plain_network_is_linear_layers_with_activations_between() -> None:
    kinds = [type(layer) for layer in network(4, 5, 5, 3, activation="sigmoid").network()]
    assert kinds == [nn.Linear, nn.Sigmoid, nn.Linear, nn.Sigmoid, nn.Linear]


LINEAR = {
    "plain": lambda: network(3, 4, 5, 2, activation="linear"),
    "residual": lambda: network(3, 4, 4, 4, 2, activation="linear", residual=True),
    "precise": lambda: network(
        3, 4, 2, activation="linear", precision=[2.0, torch.tensor([0.5, 4.0])], direction="discriminative"
    ),
    "generative": lambda: network(2, 3, 3, activation="linear", direction="generative", precision=0.5),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_fixed_point_and_energy_are_the_closed_forms(name: str) -> None:
    model = LINEAR[name]()
    chain, data = Chain(model), supervised(model)
    ends = {chain.names[0]: data[model.first], chain.names[-1]: data["target"]}
    start = model.feedforward(data[model.first])
    solution = en.settle(model, start, clamp=ends, until=TIGHT, max_steps=20_000, throw=True)
    known = chain.join({**start, **ends})
    fixed = torch.zeros(known.shape[1], dtype=torch.bool)
    fixed[chain.indices(list(ends))] = True
    expected = chain.settled(known, fixed)
    assert torch.allclose(chain.join(solution.state), expected, atol=1e-9)
    # Innocenti et al. 2024, theorem 1: 1/2 r' S^-1 r, with S the covariance of what the errors add up to
    residual = data["target"] - start[chain.names[-1]]
    S, product = (
        torch.zeros_like(torch.eye(residual.shape[1], dtype=F64)),
        torch.eye(residual.shape[1], dtype=F64),
    )
    for W, precision in zip(reversed(chain.weights), reversed(chain.precisions), strict=True):
        S = S + product @ precision.reciprocal().diag() @ product.T
        product = product @ W
    rest = 0.5 * (residual * torch.linalg.solve(S, residual.T).T).sum(1)
    assert torch.allclose(solution.energy, rest, rtol=1e-9)
    assert torch.allclose(chain.energy(expected), rest, rtol=1e-9)


@pytest.mark.parametrize("name", ["plain", "precise"])
def test_hessian_is_that_of_the_chain(name: str) -> None:
    model = LINEAR[name]()
    chain = Chain(model)
    free = chain.names[1:]
    state = random_state(model, batch=1)
    flow = en.GradientFlow(model, {"x": state["x"]}, {n: state[n] for n in free})
    direction = {n: state[n] + 0.3 for n in free}
    found = flow.forces.product({n: state[n] for n in free}, direction)
    index = chain.indices(free)
    H = chain.hessian[index][:, index]
    vector = torch.cat([direction[n] for n in free], 1)
    assert torch.allclose(torch.cat([found[n] for n in free], 1), vector @ H, rtol=1e-12)
    if name == "plain":  # its blocks: I + W'W on the diagonal, -W beside it
        W = chain.weights[1]
        block = chain.hessian[chain.place["h1"], chain.place["h1"]]
        assert torch.allclose(block, torch.eye(4, dtype=F64) + W.T @ W)
        assert torch.allclose(chain.hessian[chain.place["h2"], chain.place["h1"]], -W)


def test_what_is_clamped_decides_and_a_part_is_completed() -> None:
    """Backward and as a memory, against the conditional mean of the Gaussian that a linear network is."""
    model = network(4, 3, 2, activation="linear")
    chain = Chain(model)
    energy = model + 0.5 * en.terms.Leak(x=model.variables["x"])
    index = chain.indices(["x"])
    chain.hessian[index, index] += 0.5
    state = random_state(model)
    known = chain.join(state)
    y = torch.zeros(known.shape[1], dtype=torch.bool)
    y[chain.indices(["y"])] = True
    backward = en.settle(energy, clamp={"y": state["y"]}, until=TIGHT, max_steps=20_000, throw=True)
    assert torch.allclose(chain.join(backward.state), chain.settled(known, y), atol=1e-9)
    mask = torch.tensor([True, True, False, False])
    part = {"x": en.Partial(state["x"], mask), "y": state["y"]}
    completed = en.settle(energy, clamp=part, until=TIGHT, max_steps=20_000, throw=True)
    y[index[:2]] = True
    assert torch.allclose(chain.join(completed.state), chain.settled(known, y), atol=1e-9)
    assert torch.equal(completed.state["x"][:, :2], state["x"][:, :2])


def test_generative_use_of_a_label_is_its_prediction() -> None:
    model = network(4, 3, 2, direction="generative")
    label = torch.eye(2, dtype=F64)
    drawn = en.settle(model, clamp={"y": label}, until=TIGHT, max_steps=20_000, throw=True)
    assert torch.allclose(drawn.state["x"], model.network()(label), atol=1e-9)


def test_a_batch_does_not_change_how_a_sample_relaxes() -> None:
    model = network(3, 5, 4, 2)
    data = supervised(model, batch=4)
    clamp = {"x": data["x"], "y": 3 * data["target"]}
    for solver in (en.BlockDescent(), en.Euler(0.1)):
        together = en.settle(model, model.feedforward(data["x"]), clamp=clamp, solver=solver, max_steps=40)
        for i in range(4):
            one = {n: v[i : i + 1] for n, v in clamp.items()}
            alone = en.settle(model, model.feedforward(one["x"]), clamp=one, solver=solver, max_steps=40)
            assert int(alone.steps) == int(together.steps[i])
            for name in ("h1", "h2"):
                assert torch.allclose(alone.state[name][0], together.state[name][i], rtol=0, atol=1e-13)


def test_mu_scales_by_width_and_depth() -> None:
    model = PredictiveCoding([7, 16, 16, 16, 5], residual=True, mu=True)
    scales = [term.module.scale for term in model.predictions.values()]  # type: ignore[union-attr]
    assert scales == pytest.approx([7**-0.5, 64**-0.5, 64**-0.5, 1 / 16])
    assert [t.module.residual for t in model.predictions.values()] == [False, True, True, False]  # type: ignore[union-attr]
    plain = PredictiveCoding([7, 16, 9, 5], mu=True)
    assert [t.module.scale for t in plain.predictions.values()] == pytest.approx([7**-0.5, 0.25, 1 / 9])  # type: ignore[union-attr]


def test_mu_keeps_the_activity_of_deep_networks() -> None:
    """Each of L linear residual layers adds 1/L of the variance, so it ends e^(1 - 3/L) above where it began.

    With 256 units and 64 samples the measured ratio is within a few percent; without the depth in the scale it
    doubles at each layer, without any scale it grows 256-fold.
    """
    torch.manual_seed(0)
    depth = 33
    model = PredictiveCoding([64, *[256] * (depth - 1), 2], "linear", residual=True, mu=True)
    state = model.feedforward(torch.randn(64, 64))
    first, last = (state[n].square().mean() for n in ("h1", f"h{depth - 1}"))
    assert float(first) == pytest.approx(1, rel=0.2)
    assert float(last / first) == pytest.approx(math.exp(1 - 2 / depth), rel=0.25)


def test_learned_precision_starts_as_given_and_is_in_the_energy() -> None:
    fixed = network(3, 4, 2, precision=2.0)
    learned = network(3, 4, 2, precision=2.0, learn_precision=True)
    state = random_state(fixed)
    names = [n for n, _ in learned.named_parameters() if "log_precision" in n]
    assert names == ["predictions.x_h1.log_precision", "predictions.h1_y.log_precision"]
    assert torch.allclose(learned(state), fixed(state) - 0.5 * 6 * math.log(2.0), rtol=1e-6)


MODELS = {
    "residual": lambda: network(
        2, 3, 3, 2, activation="sigmoid", direction="generative", residual=True, mu=True, learn_precision=True
    ),
}


@en.testing.parametrize_with_checks(MODELS, examples=3)
def test_laws(model: Any, check: Any) -> None:
    check(model)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PredictiveCoding([3]), "at least an input and an output"),
        (lambda: PredictiveCoding([3, 2], "swish"), "linear, relu, sigmoid, tanh, got 'swish'"),
        (lambda: PredictiveCoding([3, 2], direction="up"), "discriminative, generative, got 'up'"),
        (lambda: PredictiveCoding([3, 4, 5, 2], residual=True), "one width, got \\(4, 5\\)"),
        (lambda: PredictiveCoding([3, 4, 2], precision=[1.0]), "each of 2 predictions, got 1"),
        (lambda: PredictiveCoding([3, 4, 2], precision=0.0), "'x', 'h1'.*positive and finite, got 0.0"),
        (
            lambda: PredictiveCoding([3, 4, 2], precision=torch.ones(4)),
            "'h1', 'y'.*shape \\(2,\\), got \\(4,\\)",
        ),
        (lambda: PredictiveCoding([3, 2]).feedforward(torch.zeros(2, 4)), "'x': expected shape"),
    ],
)
def test_bad_arguments(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
