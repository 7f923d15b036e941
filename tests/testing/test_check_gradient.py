"""The gradient check passes for sound rules and names what is wrong with the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.rules.base import LearningRule
from energynet.testing import ConformanceError, check_gradient
from energynet.testing import strategies as sts
from energynet.testing.gradients import default_rtol
from helpers.faults import Tampered
from helpers.tiny import Tiny

COST = en.SquaredError("y")


def tiny() -> Tiny:
    """Three units a layer, so that the weights are square; curvature at least 0.5 (see test_beta)."""
    model = Tiny(3, 3, 3)
    sts.randomise(model, torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.second.weight.mul_(0.5 / torch.linalg.matrix_norm(model.second.weight, 2))
    return model


def batch(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, target = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return {"x": x.to(dtype), "target": target.to(dtype)}


@pytest.mark.parametrize("estimator", ["centered", "one-sided", "random-sign"])
def test_equilibrium_propagation_passes(estimator: str) -> None:
    rule = en.EquilibriumPropagation(
        tiny(), COST, 0.01, estimator, generator=torch.Generator().manual_seed(1)
    )
    report = check_gradient(rule, **batch())
    assert [row.name for row in report.rows] == [name for name, _ in rule.named_parameters()]
    assert report.reference == "ImplicitDifferentiation"
    assert report.whole.error <= (1e-3 if estimator == "centered" else 5e-2)
    assert "energy.first.weight" in str(report)


def test_rule_is_computed_in_the_dtype_that_is_asked_for() -> None:
    rule = en.EquilibriumPropagation(tiny(), COST, 0.01)
    narrow = check_gradient(rule, dtype=torch.float32, **batch())
    wide = check_gradient(rule, **batch())
    assert narrow.whole.error <= 1e-2
    assert narrow.whole.error != wide.whole.error
    assert narrow.whole.norm == pytest.approx(wide.whole.norm, rel=1e-12)  # the reference is in float64


@pytest.mark.parametrize("kind", ["implicit", "unrolled"])
def test_exact_rules_pass_against_finite_differences(kind: str) -> None:
    rule = en.ImplicitDifferentiation(tiny(), COST) if kind == "implicit" else en.Unrolled(tiny(), COST, 3)
    report = check_gradient(rule, **batch())
    assert report.reference == "central differences of its value"
    # steps of 1e-4 leave an error of 1e-8 of the third derivative
    assert report.whole.error < 1e-6


def test_contrastive_hebbian_is_the_gradient_of_its_contrast() -> None:
    data = batch()
    report = check_gradient(en.ContrastiveHebbian(tiny()), x=data["x"], y=data["target"])
    assert report.whole.error < 1e-6


class WrongContrast(LearningRule):
    """Contrastive Hebbian learning without the free phase."""

    def __init__(self, energy: en.Energy) -> None:
        super().__init__(energy)
        self.inner = en.ContrastiveHebbian(energy)

    def phases(self, **data: Tensor) -> Sequence[en.Phase]:
        return self.inner.phases(**data)

    def value(self, phases: Sequence[en.Phase]) -> Tensor:
        return self.inner.value(phases)

    def learn(self, data):
        value, _ = self.inner.learn(data)
        clamped, _ = self.phases(**data)
        from energynet.rules.contrast import by_parameter, contrast

        return value, by_parameter(clamped.energy, contrast([clamped]))


def test_wrong_contrast_is_caught_without_a_cost() -> None:
    data = batch()
    with pytest.raises(ConformanceError, match=r"(?s)parameter 'energy\.first\.weight'.*central differences"):
        check_gradient(WrongContrast(tiny()), x=data["x"], y=data["target"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sign", r"cosine -(1|0\.99\d+), norm ratio (1|1\.00\d+|0\.99\d+)\).*the sign is wrong"),
        ("beta", r"the direction is right and the size is not: it is 0\.(01|0100\d|0099\d+) times"),
        ("transposed", r"'energy\.first\.weight'.*derive the rule again"),
        ("missing", r"'energy\.first\.weight'.*got: +1 "),
    ],
)
def test_planted_fault_is_caught_by_name(fault: str, said: str) -> None:
    rule = Tampered(en.EquilibriumPropagation(tiny(), COST, 0.01), fault)
    with pytest.raises(ConformanceError, match=f"(?s){said}") as caught:
        check_gradient(rule, **batch())
    assert caught.value.law == "gradient_is_exact"
    assert "energy.first.weight" in str(caught.value)


def test_untampered_rule_passes_through_the_same_door() -> None:
    check_gradient(Tampered(en.EquilibriumPropagation(tiny(), COST, 0.01), "none"), **batch())


def test_only_what_is_asked_for_is_judged() -> None:
    short = Tampered(en.EquilibriumPropagation(tiny(), COST, 0.01), "beta")
    report = check_gradient(short, cosine=0.999, **batch())  # the right direction is enough
    assert report.whole.ratio == pytest.approx(0.01, rel=1e-3)
    wrong = Tampered(en.EquilibriumPropagation(tiny(), COST, 0.01), "sign")
    with pytest.raises(ConformanceError, match=r"cosine of at least 0\.999"):
        check_gradient(wrong, cosine=0.999, **batch())
    check_gradient(wrong, rtol=2.1, **batch())


def test_other_reference() -> None:
    model = tiny()
    rule = en.EquilibriumPropagation(model, COST, 0.01)
    report = check_gradient(rule, reference=en.Unrolled(model, COST, 200), **batch())
    assert report.reference == "Unrolled"
    with pytest.raises(ConformanceError, match="is not that of Unrolled"):
        check_gradient(rule, reference=en.Unrolled(model, COST, 1), **batch())


def test_small_parameter_is_judged_beside_the_whole() -> None:
    """The gradient of the weight of an input near zero is a 1e-4th of the others."""
    data = batch()
    data["x"] = data["x"] * 1e-4
    report = check_gradient(en.EquilibriumPropagation(tiny(), COST, 0.01), **data)
    row = next(row for row in report.rows if row.name == "energy.first.weight")
    assert row.small
    assert row.norm < 0.01 * report.whole.norm
    assert "smaller than 0.01 of the whole" in str(report)


def test_vanishing_gradient_is_no_pass() -> None:
    with pytest.raises(ValueError, match="vanishes or is NaN, so there is nothing to compare"):
        check_gradient(Constant(tiny()), x=batch()["x"])


class Constant(LearningRule):
    """Its value does not depend on the parameters."""

    def phases(self, **data: Tensor) -> Sequence[en.Phase]:
        return []

    def value(self, phases: Sequence[en.Phase]) -> Tensor:
        return torch.tensor(1.0, dtype=torch.float64)

    def learn(self, data):
        return self.value([]), {p: torch.zeros_like(p) for p in self.parameters()}


def test_rule_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    rule = en.EquilibriumPropagation(tiny(), COST, 0.01, "random-sign", generator=generator)
    before, random = generator.get_state(), torch.get_rng_state()
    values = [p.detach().clone() for p in rule.parameters()]
    check_gradient(rule, **batch())
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.dtype == torch.float32 for p in rule.parameters())
    assert all(torch.equal(p, value) for p, value in zip(rule.parameters(), values, strict=True))


@pytest.mark.parametrize(
    ("beta", "estimator", "dtype", "expected"),
    [
        (0.01, "centered", torch.float64, 1e-3),
        (0.001, "centered", torch.float64, 1e-3),
        (0.1, "centered", torch.float64, 0.1),
        (-0.1, "centered", torch.float64, 0.1),
        (0.01, "one-sided", torch.float64, 0.05),
        (0.02, "random-sign", torch.float64, 0.1),
        (0.01, "centered", torch.float32, 1e-2),
    ],
)
def test_default_tolerance(beta: float, estimator: str, dtype: torch.dtype, expected: float) -> None:
    rule = en.EquilibriumPropagation(tiny(), COST, beta, estimator)
    assert default_rtol(rule, dtype) == pytest.approx(expected)


def test_wrong_arguments_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match="expected a LearningRule, got Tiny"):
        check_gradient(tiny())  # type: ignore[arg-type]
