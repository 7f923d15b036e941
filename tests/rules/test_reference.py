"""The exact gradients against finite differences and against autograd of a loop by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.functional import Functional, central_difference
from helpers.networks import NETWORKS, Precision, data, difference, gradient, layered

TIGHT = en.Stationary(atol=1e-13)


def settled_cost(energy: en.Energy, cost: en.Cost, batch: dict[str, Tensor]) -> float:
    """The mean cost where a tight settling by Euler's method ends: another solver than the rule's."""
    clamp = {name: value for name, value in batch.items() if name != "target"}
    solution = en.settle(energy, clamp=clamp, solver=en.Euler(0.5), until=TIGHT, max_steps=5000, throw=True)
    return float(cost.energy(**{cost.output: solution.state[cost.output], "target": batch["target"]}).mean())


CASES = [
    *((network, "squared") for network in NETWORKS),
    ("sigmoid", "cross"),
    ("tiny", "cross"),
    ("saturated", "parameters"),
    ("skips", "parameters"),
]


@pytest.mark.parametrize(("network", "cost"), CASES)
def test_implicit_gradients_are_those_of_finite_differences(network: str, cost: str) -> None:
    energy, batch = NETWORKS[network](), data(batch=3)
    torch.manual_seed(1)
    loss: en.Cost = {"squared": en.SquaredError, "cross": en.CrossEntropy}.get(
        cost, lambda name: Precision(name, 3).double()
    )("y")
    if cost == "cross":
        batch["target"] = torch.tensor([0, 2, 1])
    rule = en.ImplicitDifferentiation(energy, loss, until=TIGHT)
    exact = gradient(rule, **batch)
    if network == "saturated":
        state = en.settle(energy, clamp={"x": batch["x"]}).state
        units = torch.cat([state["h1"], state["y"]], 1)
        assert ((units == 0) | (units == 1)).any()
        assert ((units > 0) & (units < 1)).any()
    for name, p in rule.named_parameters():
        entries = range(0, p.numel(), max(1, p.numel() // 4))
        for i in entries:
            cell = p.data.view(-1)[i : i + 1]  # a view: the difference is taken in place
            (expected,) = central_difference(lambda: settled_cost(energy, loss, batch), cell)
            assert float(exact[name].view(-1)[i]) == pytest.approx(float(expected), rel=1e-5, abs=1e-8)


def test_layers_that_are_given_as_data_do_not_respond() -> None:
    """With h1 given, y = clip(W h1 + b) and autograd of that is exact; W of x does not matter."""
    energy = layered("hardsigmoid", 4, 6, 3)
    batch = data(batch=4)
    batch["h1"] = torch.rand(4, 6, dtype=torch.float64)
    exact = gradient(en.ImplicitDifferentiation(energy, en.SquaredError("y"), until=TIGHT), **batch)
    energy.zero_grad()
    weight, bias = energy.couplings["h1_y"].weight, energy.fields["y"].bias  # type: ignore[union-attr]
    y = (batch["h1"] @ weight.T + bias).clamp(0, 1)  # type: ignore[union-attr, operator]
    (0.5 * (y - batch["target"]).square().sum(1)).mean().backward()
    assert torch.allclose(exact["energy.couplings.h1_y.weight"], weight.grad)  # type: ignore[arg-type]
    assert not exact["energy.couplings.x_h1.weight"].any()


@pytest.mark.parametrize("network", ["hardsigmoid", "sigmoid", "tanh", "tiny"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_unrolled_is_backprop_through_a_loop_by_hand(network: str, solver: str) -> None:
    energy, batch = NETWORKS[network](), data()
    dt, steps = 0.3, 6
    rule = en.Unrolled(
        energy, en.SquaredError("y"), steps, solver={"euler": en.Euler, "heun": en.Heun}[solver](dt)
    )
    found = gradient(rule, **batch)
    value = float(rule(**batch).detach())

    free = [name for name in energy.variables if name != "x"]
    links = {name: getattr(energy.variables[name], "link", None) for name in free}
    point = {
        n: torch.zeros(5, *energy.variables[n].shape, dtype=torch.float64, requires_grad=True) for n in free
    }  # the initial potential is 0, and so is the value nearest to 0

    def values(point: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: links[n].value(u) if links[n] else u for n, u in point.items()}

    def velocity(point: dict[str, Tensor]) -> dict[str, Tensor]:
        state = values(point)
        slopes = torch.autograd.grad(
            energy.energy(x=batch["x"], **state).sum(), list(state.values()), create_graph=True
        )
        return {n: -slope for n, slope in zip(state, slopes, strict=True)}

    def shift(point: dict[str, Tensor], speed: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {n: point[n] + dt * speed[n] for n in free}
        return {n: moved[n] if links[n] else energy.variables[n].project(moved[n]) for n in free}

    for _ in range(steps):
        first = velocity(point)
        if solver == "heun":
            second = velocity(shift(point, first))
            first = {n: 0.5 * (first[n] + second[n]) for n in free}
        point = shift(point, first)
    energy.zero_grad()
    cost = 0.5 * (values(point)["y"] - batch["target"]).square().sum(1).mean()
    cost.backward()
    expected = {
        "energy." + n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in energy.named_parameters()
    }
    assert value == pytest.approx(float(cost.detach()), rel=1e-12)
    assert difference(found, expected) < 1e-10


@pytest.mark.parametrize("network", ["hardsigmoid", "sigmoid", "skips", "tiny"])
@pytest.mark.parametrize("momentum", [False, True])
def test_unrolled_for_long_is_implicit(network: str, momentum: bool) -> None:
    energy, batch = NETWORKS[network](), data()
    unrolled = en.Unrolled(energy, en.SquaredError("y"), 150, solver=en.BlockDescent(momentum=momentum))
    exact = en.ImplicitDifferentiation(energy, en.SquaredError("y"), until=TIGHT)
    assert difference(gradient(unrolled, **batch), gradient(exact, **batch)) < 1e-7


def test_what_is_no_minimum_has_no_gradient() -> None:
    """At s = 0 the double well E = (s^2 - 1)^2 / 4 - w x s / 4 has a maximum, where the flow rests."""
    energy = Functional(
        lambda e, x, s: 0.25 * (s.square() - 1).square().sum(1) - (e.w * x * s).sum(1),
        {"w": torch.ones(2)}, x=en.Real(2), s=en.Real(2),
    ).double()  # fmt: skip
    rule = en.ImplicitDifferentiation(energy, en.SquaredError("s"), solver=en.Euler(0.1))
    zero = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(en.SettlingError, match="no minimum"):
        rule(x=zero, target=zero + 1)


def test_not_settling_is_an_error() -> None:
    rule = en.ImplicitDifferentiation(layered("tanh", 4, 6, 3), en.SquaredError("y"), max_steps=2)
    with pytest.raises(en.SettlingError, match="max_steps"):
        rule(**data())


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_unrolled_needs_steps(steps: Any) -> None:
    with pytest.raises(ValueError, match="steps"):
        en.Unrolled(layered("tanh", 4, 6, 3), en.SquaredError("y"), steps)
