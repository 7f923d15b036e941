"""Errors as coordinates: the same energy, the same fixed points, and far fewer steps to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.terms import ErrorCoordinates, Leak, Prediction
from helpers.functional import autograd_force
from helpers.predictive import Chain, network, supervised

F64 = torch.float64
TIGHT = en.Stationary(atol=1e-11)


def clamped(model: en.models.PredictiveCoding, batch: int = 5) -> dict[str, Tensor]:
    data = supervised(model, batch)
    return {"x": data["x"], "y": data["target"]}


def tree() -> en.Energy:
    """x predicts two variables, each of which predicts y: the first in line defines y's error."""
    torch.manual_seed(1)
    x, a, b, y = en.Real(3), en.Real(2), en.Real(2), en.Real(2)
    layers = [nn.Linear(3, 2), nn.Linear(3, 2), nn.Sequential(nn.Tanh(), nn.Linear(2, 2)), nn.Linear(2, 2)]
    energies: list[en.Energy] = [
        Prediction("x", "a", layers[0], x=x, a=a, precision=2.0),
        Prediction("b", "y", layers[3], b=b, y=y, precision=torch.tensor([0.5, 3.0])),
        Prediction("x", "b", layers[1], x=x, b=b, learn_precision=True),
        Prediction("a", "y", layers[2], a=a, y=y),
        0.3 * Leak(x=x),
    ]
    return en.Sum(energies).double()


ENERGIES: dict[str, Any] = {
    "chain": (lambda: network(3, 4, 4, 2, precision=[2.0, 1.0, 0.5]), ("x", "y")),
    "residual": (lambda: network(3, 4, 4, 4, 2, residual=True, mu=True), ("x",)),
    "tree": (tree, ("x",)),
    "backwards": (lambda: network(3, 4, 2, direction="generative"), ("x",)),
    "with a cost": (lambda: network(3, 4, 2) + 0.7 * en.SquaredError("y"), ("x", "target")),
}


@pytest.mark.parametrize("kind", ENERGIES)
def test_it_is_the_same_energy_at_the_states_of_a_forward_sweep(kind: str) -> None:
    """E(e) = sum precision / 2 |e|^2 + the rest, written out from the states and back again."""
    make, kept = ENERGIES[kind]
    energy = make()
    errors = ErrorCoordinates(energy, kept)
    generator = torch.Generator().manual_seed(0)
    size = {
        n: energy.variables["y" if n == "target" else n.removeprefix("e_")].shape for n in errors.variables
    }
    point = {n: torch.randn(4, *s, dtype=F64, generator=generator) for n, s in size.items()}
    states = errors.to_states(point)
    assert list(states) == list(energy.variables)
    torch.testing.assert_close(errors(point), energy(states), rtol=1e-12, atol=1e-12)
    for name, value in errors.to_errors(states).items():
        torch.testing.assert_close(value, point[name], rtol=1e-12, atol=1e-12)
    for term in (part for _, part in energy.parts() if isinstance(part, Prediction)):
        if errors.errors.get(term.target) and term.target != "y":
            error = states[term.target] - term.module(states[term.source])
            torch.testing.assert_close(error, point[errors.errors[term.target]], rtol=1e-12, atol=1e-12)


def test_at_zero_errors_it_is_the_feedforward_pass() -> None:
    model = network(3, 5, 4, 2)
    x = supervised(model)["x"]
    errors = ErrorCoordinates(model, ["x"])
    zero = {n: torch.zeros(5, *v.shape, dtype=F64) for n, v in errors.variables.items()}
    states = errors.to_states({**zero, "x": x})
    for name, value in model.feedforward(x).items():
        torch.testing.assert_close(states[name], value, rtol=1e-13, atol=1e-13)
    assert list(errors.errors.items()) == [("h1", "e_h1"), ("h2", "e_h2"), ("y", "e_y")]


@pytest.mark.parametrize("given", [("x", "y"), ("x",), ("y",)])
def test_of_a_linear_network_the_fixed_point_is_the_closed_form(given: tuple[str, ...]) -> None:
    """Against the dense solution of the normal equations, with unequal precisions."""
    model = network(3, 4, 5, 4, 2, activation="linear", precision=[2.0, 1.0, 0.5, 3.0])
    chain, data = Chain(model), clamped(model)
    clamp = {name: data[name] for name in given}
    energy = ErrorCoordinates(model, given)
    if "x" not in given:  # nothing else holds the first layer, which has no prior
        energy = ErrorCoordinates(model + 0.5 * Leak(x=en.Real(3)), given)
        chain.hessian[chain.place["x"], chain.place["x"]] += 0.5 * torch.eye(3, dtype=F64)
    solution = en.settle(energy, clamp=clamp, solver=en.LBFGS(), max_steps=500, until=TIGHT, throw=True)
    found = chain.join(energy.to_states(solution.state))
    known = torch.zeros_like(found)
    fixed = torch.zeros(found.shape[1], dtype=torch.bool)
    for name in given:
        known[:, chain.place[name]] = data[name]
        fixed[chain.place[name]] = True
    exact = chain.settled(known, fixed)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(solution.energy, chain.energy(exact), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("nudged", [False, True])
@pytest.mark.parametrize("solver", [en.LBFGS(), en.Momentum(0.1), en.Adaptive()], ids=repr)
def test_what_is_settled_in_errors_is_stationary_in_states(nudged: bool, solver: en.Solver) -> None:
    """With the output clamped, and with it free under a cost: the force by plain autograd vanishes."""
    model = network(3, 5, 5, 2)
    data = supervised(model)
    energy: en.Energy = model + 0.5 * en.SquaredError("y") if nudged else model
    clamp = data if nudged else {"x": data["x"], "y": data["target"]}
    errors = ErrorCoordinates(energy, tuple(clamp))
    solution = en.settle(errors, clamp=clamp, solver=solver, max_steps=5000, until=en.Stationary(atol=1e-9))
    assert solution.status.tolist() == [0] * 5
    states = errors.to_states(solution.state)
    free = [name for name in states if name not in clamp]
    force = autograd_force(energy, states, free)
    assert max(float(value.abs().max()) for value in force.values()) < 1e-8
    before = errors.to_states(
        {**solution.state, **{n: 0 * solution.state[n] for n in errors.errors.values()}}
    )
    assert max(float((states[n] - before[n]).detach().abs().max()) for n in free) > 0.01  # it has moved


def test_a_deep_network_settles_in_tens_of_steps() -> None:
    """Ten layers of tanh: the state's own coordinates are far from settled when the errors are."""
    model = network(6, *[12] * 9, 3)
    data = clamped(model)
    errors = ErrorCoordinates(model, ("x", "y"))
    close = en.Stationary(atol=1e-8)
    found = en.settle(errors, clamp=data, solver=en.LBFGS(), max_steps=60, until=close)
    assert found.status.tolist() == [0] * 5
    slow = en.settle(
        model, model.feedforward(data["x"]), clamp=data, solver=en.Euler(0.1), max_steps=600, until=close
    )
    assert slow.status.tolist() == [1] * 5


def test_what_cannot_be_an_error_is_said() -> None:
    model = network(3, 4, 2)
    with pytest.raises(en.StateError, match="has no variable 'z'; its variables are 'x', 'h1', 'y'"):
        ErrorCoordinates(model, ["z"])
    with pytest.raises(en.StateError, match="has a target that is free"):
        ErrorCoordinates(model, ["x", "h1", "y"])
    a, b = en.Real(2), en.Real(2)
    circle = Prediction("a", "b", nn.Linear(2, 2), a=a, b=b) + Prediction("b", "a", nn.Linear(2, 2), a=a, b=b)
    with pytest.raises(en.StateError, match=r"in a circle through \['a', 'b'\]; name one of them in states"):
        ErrorCoordinates(circle, [])
    assert list(ErrorCoordinates(circle, ["a"]).variables) == ["a", "e_b"]
    for bad in (en.Unit(2), en.Real(2, link=en.Tanh()), en.Spin(2)):
        with pytest.raises(en.StateError, match="ErrorCoordinates: 'b' is "):
            ErrorCoordinates(Prediction("a", "b", nn.Linear(2, 2), a=a, b=bad), ["a"])
    taken = Prediction("a", "b", nn.Linear(2, 2), a=a, b=b) + Leak(e_b=en.Real(1))
    with pytest.raises(en.StateError, match="'e_b' is a variable already"):
        ErrorCoordinates(taken, ["a"])
