"""The loss form: every rule is a number whose backward leaves the update where optimisers look for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.rules import base
from helpers.networks import data, difference, gradient, layered

COST = en.SquaredError("y")
RULES: dict[str, Any] = {
    "equilibrium": lambda e: en.EquilibriumPropagation(e, COST, 0.01),
    "one-sided": lambda e: en.EquilibriumPropagation(e, COST, 0.01, "one-sided"),
    "implicit": lambda e: en.ImplicitDifferentiation(e, COST),
    "unrolled": lambda e: en.Unrolled(e, COST, 20),
    "hebbian": en.ContrastiveHebbian,
}


def network(**more: Any) -> en.models.LayeredHopfield:
    return layered("tanh", 4, 5, 3, **more)


def batch_for(rule: str, seed: int = 0, batch: int = 5) -> dict[str, Tensor]:
    given = data(batch, seed)
    return {"x": given["x"], "y": given["target"]} if rule == "hebbian" else given


@pytest.mark.parametrize("name", RULES)
def test_backward_scales_and_accumulates(name: str) -> None:
    rule, batch = RULES[name](network()), batch_for(name)
    once = gradient(rule, **batch)
    assert all(g.any() for g in once.values())
    rule.zero_grad()
    (3.0 * rule(**batch)).backward()
    (rule(**batch) * 0.5 - 7.0).backward()
    for key, p in rule.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, 3.5 * once[key], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_a_mean_over_the_batch(name: str) -> None:
    rule, batch = RULES[name](network()), batch_for(name, batch=4)
    halves = [gradient(rule, **{n: v[rows] for n, v in batch.items()}) for rows in (slice(0, 2), slice(2, 4))]
    whole = gradient(rule, **batch)
    assert difference({n: (halves[0][n] + halves[1][n]) / 2 for n in whole}, whole) < 1e-6


@pytest.mark.parametrize("name", RULES)
def test_a_module_with_gradients_of_its_own_adds_up(name: str) -> None:
    energy, batch = network(), batch_for(name)
    rule = RULES[name](energy)
    once = gradient(rule, **batch)
    rule.zero_grad()
    decay = sum(p.square().sum() for p in energy.parameters())
    (rule(**batch) + 0.1 * decay).backward()
    for key, p in rule.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, once[key] + 0.2 * p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "optimiser"), [*((name, "SGD") for name in RULES), ("equilibrium", "Adam")])
def test_any_optimiser_lowers_the_value(name: str, optimiser: str) -> None:
    rule, batch = RULES[name](network()), batch_for(name)
    optimise = getattr(torch.optim, optimiser)(rule.parameters(), lr=0.02)
    values = []
    for _ in range(5):
        optimise.zero_grad()
        loss = rule(**batch)
        loss.backward()
        optimise.step()
        values.append(float(loss.detach()))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", RULES)
def test_frozen_parameters_get_nothing_and_change_nothing_for_others(name: str) -> None:
    energy, batch = network(), batch_for(name)
    rule = RULES[name](energy)
    whole = gradient(rule, **batch)
    frozen = energy.get_parameter("couplings.x_h1.weight")
    frozen.requires_grad_(False)
    rule.zero_grad()
    frozen.grad = None
    part = gradient(rule, **batch)
    assert frozen.grad is None
    assert difference(part, {n: g for n, g in whole.items() if n in part}) < 1e-9
    frozen.requires_grad_(True)
    assert difference(gradient(rule, **batch), whole) < 1e-9


@pytest.mark.parametrize("name", ["equilibrium", "one-sided"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"])
def test_evaluation_settles_the_free_phase_only(
    name: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from energynet.rules import nudge

    rule, batch = RULES[name](network()), batch_for(name)
    expected = float(rule(**batch).detach())
    runs: list[int] = []
    relax = nudge.settled
    monkeypatch.setattr(nudge, "settled", lambda *a, **k: runs.append(1) or relax(*a, **k))
    with mode():
        value = rule(**{n: v.clone() for n, v in batch.items()})
    assert float(value) == pytest.approx(expected, rel=1e-9)
    assert not value.requires_grad
    assert len(runs) == 1


@pytest.mark.parametrize("name", RULES)
def test_evaluation_has_the_value_of_training(name: str) -> None:
    rule, batch = RULES[name](network()), batch_for(name)
    value = float(rule(**batch).detach())
    with torch.no_grad():
        assert float(rule(**batch)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_missing_and_unknown_data_are_named(name: str) -> None:
    rule, batch = RULES[name](network()), batch_for(name)
    missing = "x" if name == "hebbian" else "target"
    with pytest.raises(en.StateError, match=f"'{missing}'"):
        rule(**{n: v for n, v in batch.items() if n != missing})
    with pytest.raises(en.StateError, match=r"'z'.*'x', 'h1', 'y'"):
        rule(**batch, z=batch["x"])
    with pytest.raises(en.StateError, match=r"'x'.*finite"):
        rule(**{**batch, "x": batch["x"] * torch.nan})


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_a_module(name: str) -> None:
    energy, batch = network(), batch_for(name)
    rule = RULES[name](energy)
    other = RULES[name](network(seed=9))
    other.load_state_dict(rule.state_dict())
    assert difference(gradient(other, **batch), gradient(rule, **batch)) < 1e-12
    assert {id(p) for p in energy.parameters()} == {id(p) for p in rule.parameters()}
    assert rule.float() is rule
    found = gradient(rule, **{n: v.float() for n, v in batch.items()})
    assert {g.dtype for g in found.values()} == {torch.float32}


def test_tied_weights_collect_from_everywhere() -> None:
    """One matrix in two couplings: its gradient is the sum of the two that separate copies have."""
    tied, apart = layered("tanh", 3, 3, 3), layered("tanh", 3, 3, 3)
    for model in (tied, apart):
        first, second = (model.couplings[n] for n in ("x_h1", "h1_y"))
        if model is tied:
            second.weight = first.weight
        else:
            second.weight.data.copy_(first.weight.data)  # type: ignore[union-attr, operator, arg-type]
        for field in model.fields.values():
            nn.init.constant_(field.bias, 0.3)  # type: ignore[arg-type]
    batch = {"x": torch.randn(4, 3, dtype=torch.float64), "target": torch.rand(4, 3, dtype=torch.float64)}
    for name in ("equilibrium", "implicit", "unrolled"):
        one, two = gradient(RULES[name](tied), **batch), gradient(RULES[name](apart), **batch)
        both = two["energy.couplings.x_h1.weight"] + two["energy.couplings.h1_y.weight"]
        assert torch.allclose(one["energy.couplings.x_h1.weight"], both, rtol=1e-6, atol=1e-12)


def test_compiled_energies_are_taken() -> None:
    energy, batch = network(), batch_for("equilibrium")
    compiled = torch.compile(energy, backend="eager")
    found = gradient(en.EquilibriumPropagation(compiled, COST, 0.01), **batch)  # type: ignore[arg-type]
    expected = gradient(RULES["equilibrium"](energy), **batch)
    renamed = {name.replace("_orig_mod.", ""): g for name, g in found.items()}
    assert difference(renamed, expected) < 1e-12


def test_a_custom_rule_is_phases_and_a_value() -> None:
    class Clamped(en.LearningRule):
        """Lower the energy of the data: d E(data) / d theta, which autograd knows."""

        def phases(self, **given: Tensor) -> list[en.Phase]:
            with torch.no_grad():
                return [en.Phase(1.0, self.energy, en.settle(self.energy, clamp=given))]

        def value(self, phases: Any) -> Tensor:
            return phases[0].solution.energy.mean()

    energy, batch = network(), batch_for("hebbian")
    rule = Clamped(energy)
    state = {n: v.detach() for n, v in rule.phases(**batch)[0].solution.state.items()}
    found = gradient(rule, **batch)
    energy.zero_grad()
    energy(state).mean().backward()
    expected = {"energy." + n: p.grad for n, p in energy.named_parameters()}
    assert difference(found, expected) < 1e-12  # type: ignore[arg-type]
    assert isinstance(rule, base.LearningRule)


def stretched() -> Any:
    """An energy without a minimum: h runs away."""
    return en.models.LayeredHopfield([3, 4, 2], "tanh") - 2.0 * en.terms.Leak(
        h1=en.models.LayeredHopfield([3, 4, 2], "tanh").variables["h1"]  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", ["nudged", "hebbian"])
def test_a_phase_that_diverges_is_an_error_and_no_gradient(name: str) -> None:
    model, x, y = stretched(), torch.rand(5, 3), torch.zeros(5, 2)
    options: dict[str, Any] = {"solver": en.Euler(dt=50.0)}
    rule, data = {
        "nudged": (en.EquilibriumPropagation(model, COST, 0.01, **options), {"x": x, "target": y}),
        "hebbian": (en.ContrastiveHebbian(model, **options), {"x": x, "y": y}),
    }[name]
    with pytest.raises(en.SettlingError, match=r"diverged in 5 of 5 samples.*smaller dt"):
        rule(**data)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", RULES)
def test_data_that_require_grad_are_refused(name: str) -> None:
    model = en.models.LayeredHopfield([3, 4, 2], "tanh")
    x, y = torch.rand(5, 3, requires_grad=True), torch.zeros(5, 2)
    with pytest.raises(en.StateError, match=r"'x' requires grad.*detached"):
        RULES[name](model)(x=x, **{"y" if name == "hebbian" else "target": y})


@pytest.mark.parametrize("name", ["equilibrium", "implicit", "unrolled"])
def test_a_target_outside_the_domain_of_the_output_is_refused(name: str) -> None:
    model = en.models.LayeredHopfield([3, 4, 2])
    with pytest.raises(en.StateError, match=r"'target'.*Unit\(2\).*\[0, 1\].*from 0 to 255"):
        RULES[name](model)(x=torch.rand(2, 3), target=torch.tensor([[0.0, 255.0], [0.0, 1.0]]))


class Twice(en.Energy):
    """E = |h - x - a - b|^2 / 2: what a and b are told is one node of a trace; c is told nothing."""

    def __init__(self) -> None:
        super().__init__(x=en.Real(3), h=en.Real(3))
        self.a, self.b, self.c = (nn.Parameter(torch.full((3,), v, dtype=torch.float64)) for v in (1, 2, 3))

    def energy(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * (h - x - self.a - self.b).square().sum(1)


@pytest.mark.parametrize("make", [en.MaximumAPosteriori, lambda e: en.IncrementalPC(e, 0.0, steps=1)])
def test_parameters_that_are_told_the_same_do_not_share_it(make: Any) -> None:
    """Gradients that accumulate in the memory of one another would count twice."""
    energy = Twice()
    rule = make(energy)
    x, h = (
        torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    for _ in range(2):
        rule(x=x, h=h).backward()
    grads = [energy.a.grad, energy.b.grad, energy.c.grad]
    expected = 2 * (x + 3 - h).mean(0)
    for grad, factor in zip(grads, (1, 1, 0), strict=True):
        assert grad is not None
        assert torch.allclose(grad, factor * expected, atol=1e-14)
        grad.zero_()  # as an optimiser may
    rule(x=x, h=h).backward()
    assert energy.a.grad is not None and torch.allclose(energy.a.grad, expected / 2, atol=1e-14)
    assert energy.c.grad is not None and not energy.c.grad.any()
