"""Contrastive Hebbian learning against its definition and the rule in Hopfield networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.networks import data, difference, gradient, layered

TIGHT = en.Stationary(atol=1e-13)


def given_data(batch: int = 6) -> dict[str, Tensor]:
    found = data(batch)
    return {"x": found["x"], "y": found["target"]}


def phases(rule: en.ContrastiveHebbian, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [phase.solution.state for phase in rule.phases(**batch)]


@pytest.mark.parametrize("activation", ["hardsigmoid", "sigmoid", "tanh"])
def test_it_is_hebbian_clamped_and_anti_hebbian_free(activation: str) -> None:
    """dW = -(s_post s_pre' clamped - s_post s_pre' free), db = -(s clamped - s free), averaged."""
    model, batch = layered(activation, 4, 5, 3), given_data()
    rule = en.ContrastiveHebbian(model, until=TIGHT)
    clamped, free = phases(rule, batch)
    found = gradient(rule, **batch)
    for pre, post in (("x", "h1"), ("h1", "y")):
        outer = [torch.einsum("bi,bj->ij", s[post], s[pre]) / 6 for s in (clamped, free)]
        assert torch.allclose(found[f"energy.couplings.{pre}_{post}.weight"], outer[1] - outer[0], atol=1e-12)
        bias = [s[post].mean(0) for s in (clamped, free)]
        assert torch.allclose(found[f"energy.fields.{post}.bias"], bias[1] - bias[0], atol=1e-12)


def test_its_gradient_is_that_of_its_value() -> None:
    """At settled states the contrast has no derivative through them: by differences of the value."""
    model, batch = layered("tanh", 4, 5, 3), given_data()
    rule = en.ContrastiveHebbian(model, until=TIGHT)
    found = gradient(rule, **batch)
    with torch.no_grad():
        for name, p in model.named_parameters():
            flat = p.view(-1)
            kept = float(flat[1])
            values = []
            for shift in (1e-5, -1e-5):
                flat[1] = kept + shift
                values.append(float(rule(**batch)))
            flat[1] = kept
            slope = (values[0] - values[1]) / 2e-5
            assert float(found["energy." + name].view(-1)[1]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_given_variables_are_held_in_both_phases_and_the_others_in_one() -> None:
    model, batch = layered("hardsigmoid", 4, 5, 3), given_data()
    clamped, free = phases(en.ContrastiveHebbian(model, until=TIGHT), batch)
    assert torch.equal(clamped["x"], batch["x"])
    assert torch.equal(free["x"], batch["x"])
    assert torch.equal(clamped["y"], batch["y"])
    expected = en.settle(model, clamp={"x": batch["x"]}, until=TIGHT).state
    assert torch.allclose(free["y"], expected["y"], atol=1e-10)
    assert not torch.allclose(free["y"], batch["y"], atol=1e-2)


def test_the_contrast_is_the_difference_of_energies_and_vanishes_on_what_is_known() -> None:
    model, batch = layered("tanh", 4, 5, 3), given_data()
    rule = en.ContrastiveHebbian(model, until=TIGHT)
    clamped, free = phases(rule, batch)
    expected = float((model(clamped) - model(free)).mean().detach())
    assert expected > 0
    assert float(rule(**batch).detach()) == pytest.approx(expected, rel=1e-9)
    known = {"x": batch["x"], "y": free["y"]}
    assert float(rule(**known).detach()) == pytest.approx(0.0, abs=1e-9)
    assert max(float(g.abs().max()) for g in gradient(rule, **known).values()) < 1e-8


@pytest.mark.parametrize("activation", ["hardsigmoid", "sigmoid"])
def test_without_hidden_units_it_is_the_delta_rule(activation: str) -> None:
    """y = f(W x + b) free, the target clamped: dW = (y - target) x', and nothing to settle when clamped."""
    model, batch = layered(activation, 4, 3), given_data()
    rule = en.ContrastiveHebbian(model, until=TIGHT)
    weight, bias = model.couplings["x_y"].weight, model.fields["y"].bias
    field = batch["x"] @ weight.T + bias  # type: ignore[union-attr, operator]
    y = (field.sigmoid() if activation == "sigmoid" else field.clamp(0, 1)).detach()
    found = gradient(rule, **batch)
    expected = {
        "energy.couplings.x_y.weight": (y - batch["y"]).T @ batch["x"] / 6,
        "energy.fields.y.bias": (y - batch["y"]).mean(0),
    }
    assert difference(found, expected) < 1e-10
    states = [{"x": batch["x"], "y": batch["y"]}, {"x": batch["x"], "y": y}]
    contrast = (model(states[0]) - model(states[1])).mean().detach()
    assert float(rule(**batch).detach()) == pytest.approx(float(contrast), rel=1e-7)


def test_all_given_teaches_nothing_and_is_refused() -> None:
    model, batch = layered("tanh", 4, 5, 3), given_data()
    with pytest.raises(en.StateError, match="two phases are one"):
        en.ContrastiveHebbian(model, given=("x", "y"))(**batch)
    assert en.ContrastiveHebbian(model, given="x").given == ("x",)
