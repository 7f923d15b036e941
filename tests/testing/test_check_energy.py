"""The laws pass where they should and each planted fault is caught by the law meant for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import energynet as en
from energynet.errors import EagerFallback
from energynet.testing import LAWS, ConformanceError, check_energy
from energynet.testing import strategies as sts
from helpers import faults
from helpers.tiny import Tiny

ALL = [law.name for law in LAWS]


def layered(activation: str, skips: tuple[tuple[str, str], ...] = ()) -> en.Energy:
    network = en.models.LayeredHopfield([3, 4, 3, 2], activation, skips=skips)
    sts.randomise(network, torch.Generator().manual_seed(3))
    return network


def weighted_terms() -> en.Energy:
    s, r = en.Real(2, 2), en.Interval(3, low=-0.5, high=2.0, tau=2.0)
    sums = en.terms.Leak(s=s) + 2.0 * en.terms.Leak(r=r) + 0.5 * en.terms.Bilinear("s", "r", s=s, r=r)
    return sums - 3.0 * en.terms.Field(r=r)


def pulled(term: en.Energy) -> en.Energy:
    """With a leak and a field, so that the minimum is at no kink."""
    field = en.terms.Field(s=en.Real(3))
    with torch.no_grad():
        field.bias.copy_(torch.tensor([2.0, -1.0, 0.1]))
    return term + en.terms.Leak(s=en.Real(3)) + field


def sparse(a: en.Variable) -> en.Energy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return en.terms.Reconstruction("a", "x", a=a, x=en.Real(3)) + en.terms.Sparsity(0.3, a=a)  # type: ignore[arg-type]


SOUND: dict[str, Callable[[], en.Energy]] = {
    "hardsigmoid": lambda: layered("hardsigmoid"),
    "sigmoid with skips": lambda: layered("sigmoid", (("x", "y"), ("x", "h2"))),
    "tanh with skips": lambda: layered("tanh", (("h1", "y"),)),
    "tiny": lambda: Tiny(3, 4, 2),
    "weighted terms": weighted_terms,
    "squared error": lambda: layered("tanh") + 0.3 * en.SquaredError("y"),
    "cross-entropy": lambda: layered("hardsigmoid") + en.CrossEntropy("y"),
    "right force": faults.RightForce,
    "sparse code": lambda: sparse(en.Real(4)),
    "sparse code in a box": lambda: sparse(en.Interval(4, low=0.0, high=0.5, tau=2.0)),
    "locally competitive": lambda: sparse(en.Real(4, link=en.SoftThreshold(0.3))),
    "leak of a link": lambda: en.terms.Leak(s=en.Unit(3, link=en.Sigmoid())),
}


@en.testing.parametrize_with_checks(SOUND)
def test_laws_hold(model: Callable[[], en.Energy], check: Callable[[object], None]) -> None:
    check(model)


@settings(max_examples=6, suppress_health_check=[HealthCheck.nested_given])
@given(sts.energies())
def test_laws_of_form_hold_for_every_generated_energy(model: en.Energy) -> None:
    laws = ["energy_has_the_right_shape", "energies_are_independent", "terms_sum_to_the_energy"]
    report = check_energy(model, laws=[*laws, "force_is_the_gradient"], examples=3)
    assert set(laws) <= set(report.passed)


@pytest.mark.filterwarnings("ignore::energynet.EagerFallback")
@pytest.mark.parametrize(
    ("fault", "law", "at"),
    [
        (faults.WrongShape, "energy_has_the_right_shape", r"expected: +shape \(1,\)\ngot: +shape \(1, 1\)"),
        (faults.Total, "energy_has_the_right_shape", r"got: +shape \(\)"),
        (faults.WrongDtype, "energy_has_the_right_shape", r"torch.float64\ngot: +torch.float32"),
        (faults.ChangesState, "energy_is_pure", r"variable 's' after energy\(\)"),
        (faults.Noisy, "energy_is_pure", "global generator"),
        (faults.MixesBatch, "energies_are_independent", "energy after (permuting|dropping|changing)"),
        (faults.Hidden, "state_dict_round_trip", r"energy after load_state_dict.*'offset'"),
        (faults.HiddenInList, "state_dict_round_trip", r"register_buffer"),
        (faults.SharesItsWeight, "deepcopy_survives", "after its copy has changed"),
        (faults.ForgetsWhenPickled, "pickle_survives", "pickled copy"),
        (faults.WrongForce, "force_override_is_the_gradient", r"WrongForce.force on 'r'"),
        (lambda: faults.SkipsATerm(s=en.Real(3)), "terms_sum_to_the_energy", r"sum of terms\(\)"),
        (lambda: pulled(faults.WrongMap()), "fixed_point_is_stationary", "force on 's'"),
        (lambda: pulled(faults.WrongSubgradient()), "force_is_the_gradient", "force on 's'"),
        (
            lambda: en.terms.Leak(s=en.Interval(3, low=-1, high=1, link=faults.SteepLink())),
            "settling_force_is_the_gradient",
            "velocity of 's'",
        ),
    ],
)
def test_planted_fault_is_caught_by_its_law(fault: Callable[[], en.Energy], law: str, at: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s)breaks the law {law}.*{at}") as caught:
        check_energy(fault())
    assert caught.value.law == law
    assert caught.value.report.names("failed") == [law]
    for word in ("expected:", "got:", "hint:"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("law", "fault"),
    [
        ("force_is_the_gradient", faults.WrongForce),
        ("conditioning_changes_nothing", faults.WrongForce),
        ("force_follows_the_parameters", faults.WrongForce),
        ("settling_force_is_the_gradient", faults.WrongForce),
        ("settling_descends", faults.Uphill),
        ("exact_blocks_descend", faults.TwiceDriven),
        ("fixed_point_is_stationary", faults.TwiceDriven),
    ],
)
def test_wrong_force_breaks_each_law_of_forces(law: str, fault: Callable[[], en.Energy]) -> None:
    """Each law on its own finds it, so none of them leans on the others."""
    with pytest.raises(ConformanceError) as caught:
        check_energy(fault(), laws=[law])
    assert caught.value.law == law


@pytest.mark.parametrize("law", ["forces_are_independent", "settling_is_independent"])
def test_mixing_breaks_each_law_of_the_batch(law: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_energy(faults.MixesBatch(), laws=[law])
    assert caught.value.law == law


def test_force_with_a_stale_copy_of_a_parameter_is_caught() -> None:
    """It is right until the parameters change, so the laws before have no objection."""
    laws = ["force_override_is_the_gradient", "force_is_the_gradient", "force_follows_the_parameters"]
    with pytest.raises(ConformanceError, match="after a step of the parameters") as caught:
        check_energy(faults.StaleForce(), laws=laws)
    assert caught.value.report.passed == laws[:2]


def test_python_flow_that_depends_on_values_is_right_but_warns() -> None:
    with pytest.warns(EagerFallback, match="Branching could not be traced"):
        report = check_energy(faults.Branching())
    assert report.names("failed") == []
    assert {"force_is_the_gradient", "settling_descends", "settling_is_independent"} <= set(report.passed)


def test_what_raises_is_reported_with_its_law() -> None:
    class Broken(faults.Spring):
        def energy(self, s: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
            raise KeyError("planted")

    with pytest.raises(ConformanceError, match=r"(?s)energy_has_the_right_shape.*KeyError.*planted"):
        check_energy(Broken())


def test_failure_that_does_not_come_back_is_reported_with_its_cause() -> None:
    """Where warnings are errors, the fallback is one only when it is first met."""
    with pytest.raises(
        ConformanceError, match=r"(?s)raised EagerFallback: Branching.*only at the first"
    ) as caught:
        check_energy(faults.Branching(), laws=["force_is_the_gradient"])
    assert caught.value.law == "force_is_the_gradient"


def test_model_is_left_alone() -> None:
    model = Tiny(3, 4, 2).eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_energy(model, examples=2)
    assert torch.equal(random, torch.get_rng_state())
    assert not model.training
    assert model.first.weight.dtype == torch.float32
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_laws_hold_in_float32_too() -> None:
    report = check_energy(layered("hardsigmoid"), dtype=torch.float32, examples=4)
    assert "float32" in report.subject
    assert report.names("failed") == []


def test_what_does_not_apply_is_skipped_with_the_reason() -> None:
    report = check_energy(en.SquaredError("y"), examples=2)
    assert report.skipped == ALL
    assert "'y' has no shape of its own" in str(report)
    spins = check_energy(en.terms.Field(s=en.Spin(4)), examples=2)
    assert "force_is_the_gradient" in spins.skipped
    assert "settling_descends" in spins.skipped
    assert "energy_has_the_right_shape" in spins.passed
    assert "all variables are discrete" in str(spins)


def test_declared_variables_stand_in_for_unspecified_ones() -> None:
    report = check_energy(en.SquaredError("y"), declare={"y": en.Real(3)}, examples=2)
    assert "force_is_the_gradient" in report.passed


def test_local_class_cannot_be_pickled_and_is_skipped() -> None:
    class Local(faults.Spring):
        pass

    report = check_energy(Local(), laws=["pickle_survives"])
    assert report.skipped == ["pickle_survives"]
    assert "not defined at the top of a module" in str(report)


def test_wrong_arguments_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match="expected an Energy, got Linear"):
        check_energy(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="check the energy that was conditioned"):
        check_energy(Tiny(2, 2, 2).condition(x=torch.ones(1, 2)))
    with pytest.raises(ValueError, match="no law is called 'gravity'"):
        check_energy(Tiny(2, 2, 2), laws=["gravity"])


def test_parametrize_skips_with_the_reason() -> None:
    marker = en.testing.parametrize_with_checks([faults.RightForce, Tiny(2, 2, 2)])
    cases = marker.args[1]
    assert len(cases) == 2 * len(LAWS)
    assert {case.id for case in cases} >= {f"Tiny-{ALL[0]}", f"RightForce-{ALL[0]}"}
    by_id = {case.id: case.values for case in cases}
    model, check = by_id["Tiny-force_override_is_the_gradient"]
    with pytest.raises(pytest.skip.Exception, match="no term overrides force"):
        check(model)


def test_reports_do_not_depend_on_the_run() -> None:
    with warnings.catch_warnings(), pytest.raises(ConformanceError) as first:
        check_energy(faults.WrongForce())
    with pytest.raises(ConformanceError) as second:
        check_energy(faults.WrongForce())
    assert str(first.value) == str(second.value)
