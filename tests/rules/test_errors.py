"""Learning at states that were settled in the coordinates of their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from helpers.networks import gradient
from helpers.predictive import Chain, network, supervised

F64 = torch.float64
TIGHT = en.Stationary(atol=1e-12)


def by_errors(energy: en.Energy, **more: Any) -> en.MaximumAPosteriori:
    return en.MaximumAPosteriori(energy, coordinates="errors", **{"max_steps": 500, "until": TIGHT, **more})


def clamped(model: en.models.PredictiveCoding, batch: int = 5) -> dict[str, Tensor]:
    data = supervised(model, batch)
    return {"x": data["x"], "y": data["target"]}


def test_of_a_linear_network_the_gradient_is_the_closed_form() -> None:
    """dE/dW_l = -precision * e_(l+1) z_l' at the dense solution of the normal equations."""
    model = network(3, 4, 5, 2, activation="linear", precision=[2.0, 1.0, 0.5])
    chain, data = Chain(model), clamped(model)
    rule = by_errors(model)
    found = gradient(rule, **data)
    whole = chain.join({**model.feedforward(data["x"]), **data})
    fixed = torch.zeros(whole.shape[1], dtype=torch.bool)
    fixed[chain.indices(["x", "y"])] = True
    z = chain.settled(whole, fixed)
    for l, (source, target) in enumerate(zip(chain.names, chain.names[1:], strict=False)):  # noqa: E741
        before, after = z[:, chain.place[source]], z[:, chain.place[target]]
        error = (after - before @ chain.weights[l].T - chain.biases[l]) * chain.precisions[l]
        name = f"energy.predictions.{source}_{target}.module"
        torch.testing.assert_close(found[f"{name}.weight"], -error.T @ before / 5, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found[f"{name}.bias"], -error.mean(0), rtol=1e-8, atol=1e-9)
    (phase,) = rule.phases(**data)
    torch.testing.assert_close(chain.join(phase.solution.state), z, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(phase.solution.energy, chain.energy(z), rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(rule(**data), chain.energy(z).mean(), rtol=1e-8, atol=1e-9)
    assert set(rule.state_dict()) == {f"energy.{name}" for name in model.state_dict()}


@pytest.mark.parametrize("kind", ["clamped", "cost", "learned precision", "residual"])
def test_settled_it_is_the_gradient_of_the_energy_at_the_states(kind: str) -> None:
    """By plain autograd of the energy of states with the states held fixed, at a state without a force."""
    more: dict[str, dict[str, Any]] = {
        "learned precision": {"learn_precision": True},
        "residual": {"residual": True, "mu": True},
    }
    model = network(3, 5, 5, 2, **more.get(kind, {}))
    energy: en.Energy = model + 0.5 * en.SquaredError("y") if kind == "cost" else model
    data = supervised(model) if kind == "cost" else clamped(model)
    rule = by_errors(energy)
    found = gradient(rule, **data)
    (phase,) = rule.phases(**data)
    states = {n: v.detach().requires_grad_(n not in data) for n, v in phase.solution.state.items()}
    mean = energy.energy(**states).mean()
    named = dict(energy.named_parameters())
    free = [v for v in states.values() if v.requires_grad]
    slopes = torch.autograd.grad(mean, [*named.values(), *free])
    for (name, _), slope in zip(named.items(), slopes, strict=False):
        torch.testing.assert_close(found[f"energy.{name}"], slope, rtol=1e-7, atol=1e-10)
    assert all(float(slope.abs().max()) < 1e-9 for slope in slopes[len(named) :])


def test_a_deep_gradient_is_right_within_fifteen_evaluations() -> None:
    """Eight hidden layers of tanh, in float32 against the fixed point in float64: 1e-3, and so every layer."""
    exact = network(20, *[16] * 8, 4)
    data = clamped(exact, batch=16)
    until = en.Stationary(atol=1e-10)
    best = gradient(by_errors(exact, max_steps=2000, until=until), **data)
    single = en.models.PredictiveCoding([20, *[16] * 8, 4])
    single.load_state_dict(exact.state_dict())
    rule = by_errors(single, max_steps=14, until=en.Never())  # and one evaluation at the start
    found = gradient(rule, **{n: v.float() for n, v in data.items()})
    weights = [name for name in best if name.endswith("weight")]
    errors = {n: float((found[n] - best[n]).norm() / best[n].norm()) for n in weights}
    assert max(errors.values()) < 1e-3, errors
    steps = en.MaximumAPosteriori(exact, solver=en.Euler(0.2), max_steps=100, until=en.Never())
    slow = gradient(steps, **data)
    first = weights[0]
    assert float((slow[first] - best[first]).norm() / best[first].norm()) > 0.1  # states take longer


def test_it_starts_where_it_is_told_to_and_an_amortised_start_learns() -> None:
    model = network(3, 4, 4, 2)
    data = clamped(model)

    class Guess(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4).double()

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"h1": self.layer(x)}

    guess = Guess()
    rule = by_errors(model, start=guess, max_steps=0)
    (phase,) = rule.phases(**data)
    given = guess(**data)["h1"].detach()
    torch.testing.assert_close(phase.solution.state["h1"], given, rtol=1e-12, atol=1e-12)
    second = model.predictions["h1_h2"].module(given).detach()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(phase.solution.state["h2"], second, rtol=1e-12, atol=1e-12)
    settled = by_errors(model, start=guess)
    found = gradient(settled, **data)
    (phase,) = settled.phases(**data)
    error = given - phase.solution.state["h1"]
    torch.testing.assert_close(found["start.layer.weight"], error.T @ data["x"] / 5, rtol=1e-9, atol=1e-12)


def test_coordinates_are_states_or_errors() -> None:
    with pytest.raises(ValueError, match="coordinates must be one of states, errors, got 'z'"):
        en.MaximumAPosteriori(network(3, 2), coordinates="z")
    rule = en.MaximumAPosteriori(network(3, 4, 2), coordinates="errors")
    assert isinstance(rule.solver, en.LBFGS)
    with pytest.raises(en.StateError, match="no data"):
        rule()
