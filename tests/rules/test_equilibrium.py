"""Equilibrium propagation against the exact gradient, in the limits its theory has."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import energynet as en
from helpers.networks import NETWORKS, Precision, clear_seed, data, difference, gradient, layered

TIGHT = en.Stationary(atol=1e-13)


def smooth(seed: int) -> en.Energy:
    """Units that do not saturate: at the ends of a hard sigmoid the error has no power law."""
    return layered("tanh", 4, 5, 3, seed=seed)


def error(energy: en.Energy, beta: float, estimator: str, seed: int, cost: en.Cost | None = None) -> float:
    cost = en.SquaredError("y") if cost is None else cost
    rule = en.EquilibriumPropagation(energy, cost, beta, estimator, until=TIGHT)
    exact = en.ImplicitDifferentiation(energy, cost, until=TIGHT)
    found = {k.replace("nudge.cost", "cost"): v for k, v in gradient(rule, **data(seed=seed)).items()}
    return difference(found, gradient(exact, **data(seed=seed)))


@settings(max_examples=3)
@given(seed=st.integers(0, 10_000), estimator=st.sampled_from([("centered", 2), ("one-sided", 1)]))
def test_the_error_falls_with_the_power_of_beta(seed: int, estimator: tuple[str, int]) -> None:
    kind, power = estimator
    betas = [0.1, 0.01, 0.001]
    errors = [error(smooth(seed), beta, kind, seed) for beta in betas]
    for above, below in pairwise(errors):
        assert math.log10(above / below) == pytest.approx(power, abs=0.25)


@pytest.mark.parametrize("network", NETWORKS)
def test_centered_at_one_hundredth_is_within_a_thousandth(network: str) -> None:
    energy = NETWORKS[network]()
    assert error(energy, 0.01, "centered", seed=clear_seed(energy)) < 1e-3


@pytest.mark.parametrize("estimator", ["centered", "one-sided"])
def test_parameters_of_the_cost_learn_too(estimator: str) -> None:
    torch.manual_seed(2)
    cost = Precision("y", 3).double()
    assert error(smooth(0), 1e-4, estimator, seed=0, cost=cost) < 1e-3


def test_a_negative_beta_nudges_the_other_way() -> None:
    energy = smooth(3)
    one, other = (
        gradient(
            en.EquilibriumPropagation(energy, en.SquaredError("y"), b, "one-sided", until=TIGHT), **data()
        )
        for b in (0.01, -0.01)
    )
    both = gradient(en.EquilibriumPropagation(energy, en.SquaredError("y"), 0.01, until=TIGHT), **data())
    assert difference({n: (one[n] + other[n]) / 2 for n in one}, both) < 1e-8


def test_random_signs_are_one_sided_estimates_sample_by_sample() -> None:
    energy, batch, beta = smooth(1), data(batch=3), 0.05

    def rule(sign: float, estimator: str = "one-sided", **more: Any) -> en.EquilibriumPropagation:
        return en.EquilibriumPropagation(
            energy, en.SquaredError("y"), sign * beta, estimator, until=TIGHT, **more
        )

    found = gradient(rule(1, "random-sign", generator=torch.Generator().manual_seed(5)), **batch)
    again = gradient(rule(1, "random-sign", generator=torch.Generator().manual_seed(5)), **batch)
    assert all(torch.equal(found[n], again[n]) for n in found)
    signs = torch.where(
        torch.rand(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) < 0.5, -1, 1
    )
    assert {-1, 1} == set(signs.tolist())
    parts = [
        gradient(rule(int(sign)), **{n: v[i : i + 1] for n, v in batch.items()})
        for i, sign in enumerate(signs)
    ]
    assert difference(found, {n: torch.stack([p[n] for p in parts]).mean(0) for n in found}) < 1e-9


def test_the_value_is_the_mean_cost_of_the_free_state() -> None:
    energy, batch = smooth(0), data()
    rule = en.EquilibriumPropagation(energy, en.SquaredError("y"), 0.01, until=TIGHT)
    y = en.settle(energy, clamp={"x": batch["x"]}, until=TIGHT).state["y"]
    expected = float(0.5 * (y - batch["target"]).square().sum(1).mean())
    assert float(rule(**batch).detach()) == pytest.approx(expected, rel=1e-10)
    with torch.no_grad():
        assert float(rule(**batch)) == pytest.approx(expected, rel=1e-10)


def test_fixed_steps_are_what_they_say() -> None:
    energy, batch = smooth(0), data()
    rule = en.EquilibriumPropagation(
        energy,
        en.SquaredError("y"),
        0.1,
        solver=en.Euler(0.2),
        free_steps=7,
        nudged_steps=3,
        until=en.Never(),
    )
    free, plus, minus = rule.phases(**batch)
    assert [set(p.solution.steps.tolist()) for p in (free, plus, minus)] == [{7}, {3}, {3}]
    assert (free.weight, plus.weight, minus.weight) == (0.0, pytest.approx(5.0), pytest.approx(-5.0))
    start = en.settle(energy, clamp={"x": batch["x"]}, solver=en.Euler(0.2), max_steps=7, until=en.Never())
    nudged = energy + 0.1 * en.SquaredError("y")
    expected = en.settle(
        nudged, start.state, clamp=batch, solver=en.Euler(0.2), max_steps=3, until=en.Never()
    ).state
    assert torch.allclose(plus.solution.state["y"], expected["y"], atol=1e-14)


@pytest.mark.parametrize("beta", [0, 0.0, float("nan"), float("inf"), "0.1", None])
def test_beta_is_a_number_but_zero(beta: Any) -> None:
    with pytest.raises(ValueError, match="beta must be a finite number other than zero"):
        en.EquilibriumPropagation(smooth(0), en.SquaredError("y"), beta)


def test_a_beta_that_rounding_swamps_warns_in_float32_only() -> None:
    energy, batch = smooth(0), data()
    rule = en.EquilibriumPropagation(energy, en.SquaredError("y"), 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule(**batch)
    energy.float()
    with pytest.warns(UserWarning, match=r"beta=1e-05 in torch.float32 rounding"):
        rule(**{n: v.float() for n, v in batch.items()})


@pytest.mark.parametrize("network", NETWORKS)
def test_float32_is_within_a_hundredth(network: str) -> None:
    energy = NETWORKS[network]()
    batch = data(seed=clear_seed(energy))
    exact = gradient(en.ImplicitDifferentiation(energy, en.SquaredError("y"), until=TIGHT), **batch)
    rule = en.EquilibriumPropagation(energy.float(), en.SquaredError("y"), 0.01)
    found = gradient(rule, **{n: v.float() for n, v in batch.items()})
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert difference({n: g.double() for n, g in found.items()}, exact) < 1e-2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: en.EquilibriumPropagation(e, en.SquaredError("z"), 0.1), "'z'.*'x', 'h1', 'y'"),
        (
            lambda e: en.EquilibriumPropagation(e, en.SquaredError("y"), 0.1, "backward"),
            "centered.*'backward'",
        ),
        (lambda e: en.EquilibriumPropagation(e, e, 0.1), "expected a cost"),
        (lambda e: en.ImplicitDifferentiation(e, en.SquaredError("z")), "'z'"),
        (lambda e: en.ContrastiveHebbian(e, given=("z",)), "'z'"),
    ],
    ids=["output", "estimator", "cost", "implicit", "hebbian"],
)
def test_rules_that_do_not_fit_the_energy_are_refused(make: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make(smooth(0))
