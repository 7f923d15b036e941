"""Overdamped Langevin steps against the formula, and their law against closed forms and quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import energynet as en
from helpers.chains import ALARM, F64, fed, flow_of, invariant
from helpers.functional import Functional, autograd_force


def spring(stiffness: float, **variable: en.Variable) -> Functional:
    return Functional(lambda e, x: 0.5 * stiffness * x.square(), **variable).double()


def coupled() -> Functional:
    """Anharmonic, with two variables that read each other."""
    return Functional(
        lambda e, x, y: (x.pow(4) / 4 + x * y.cos()).sum(1) + y.square().sum(1),
        x=en.Real(3, tau=0.5),
        y=en.Real(3, tau=2.0),
    )


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("heat", [0.7, torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=F64)], ids=["one", "each"])
def test_a_step_is_that_of_euler_and_maruyama(heat: Any) -> None:
    energy, sampler, dt = coupled(), en.Langevin(0.05), 0.05
    state = {"x": random(4, 3, seed=1), "y": random(4, 3, seed=2)}
    numbers = [random(4, 3, seed=3), random(4, 3, seed=4)]
    found, _ = fed(sampler, flow_of(sampler, energy, **state), [n.clone() for n in numbers], temperature=heat)
    force = autograd_force(energy, state, ["x", "y"])
    t = torch.as_tensor(heat, dtype=F64).reshape(-1, 1)
    for name, tau, xi in (("x", 0.5, numbers[0]), ("y", 2.0, numbers[1])):
        expected = state[name] + dt / tau * force[name] + (2 * t * dt / tau).sqrt() * xi
        torch.testing.assert_close(found[name], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dt", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(("k", "tau", "heat"), [(1.0, 1.0, 1.0), (2.5, 1.0, 0.3), (2.0, 4.0, 2.0)])
def test_the_variance_on_a_spring_is_that_of_an_autoregression(
    dt: float, k: float, tau: float, heat: float
) -> None:
    """x' = a x + b xi has the variance b^2 / (1 - a^2) = T / (k (1 - k dt / 2 tau)): bias linear in dt."""
    sampler = en.Langevin(dt, temperature=heat)
    x, xi = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    found, _ = fed(sampler, flow_of(sampler, spring(k, x=en.Real(tau=tau)), x=x), [xi])
    a, b = found["x"].tolist()
    assert b**2 / (1 - a**2) == pytest.approx(heat / (k * (1 - k * dt / (2 * tau))), rel=1e-12)


@pytest.mark.parametrize("dt", [0.1, 0.5])
def test_chains_have_that_variance(dt: float) -> None:
    """From zero, after n steps, it is v (1 - a^2n)."""
    heat, k, chains, steps = 0.7, 1.5, 20_000, 12
    state = {"x": torch.zeros(chains, dtype=F64)}
    found = en.settle(
        spring(k, x=en.Real()),
        state,
        solver=en.Langevin(dt, temperature=heat),
        max_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    law = heat / (k * (1 - k * dt / 2)) * (1 - (1 - k * dt) ** (2 * steps))
    error = law * math.sqrt(2 / chains)
    assert float(found.state["x"].square().mean()) == pytest.approx(law, abs=norm.isf(ALARM / 2) * error)
    assert found.status.tolist() == [en.Status.MAX_STEPS] * chains


def test_on_a_quartic_well_the_bias_is_linear_in_the_step() -> None:
    """The law is exp(-E - dt (2 E'' - E'^2) / 4) to first order, whence the slope of the bias."""
    energy = Functional(lambda e, x: x.pow(4) / 4 + x.square() / 2, x=en.Real())

    def bias(dt: float) -> float:
        sampler = en.Langevin(dt)

        def step(x: Tensor, p: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
            return fed(sampler, flow_of(sampler, energy, x=x), [xi])[0]["x"], p

        found, exact = invariant(step, lambda x: x**4 / 4 + x**2 / 2, lambda x: x**2, inertia=False)
        return found - exact

    x = torch.linspace(-6, 6, 4001, dtype=F64)
    weight = torch.exp(-(x**4) / 4 - x**2 / 2)
    weight = weight / weight.sum()
    change = 2 * (1 + 3 * x**2) - (x + x**3) ** 2
    slope = -0.25 * ((weight * x**2 * change).sum() - (weight * x**2).sum() * (weight * change).sum())
    biases = [bias(dt) for dt in (0.02, 0.01, 0.005)]
    assert math.log2(biases[0] / biases[1]) == pytest.approx(1, abs=0.04)
    assert math.log2(biases[1] / biases[2]) == pytest.approx(1, abs=0.02)
    assert (2 * biases[2] / 0.005 - biases[1] / 0.01) == pytest.approx(float(slope), rel=2e-3)


def test_at_temperature_zero_it_is_euler() -> None:
    energy = coupled()
    state = {"x": random(4, 3, seed=1), "y": random(4, 3, seed=2)}
    ends = [
        en.settle(energy, state, solver=solver, max_steps=20, until=en.Never())
        for solver in (en.Euler(0.1), en.Langevin(0.1, temperature=0))
    ]
    for name in state:
        torch.testing.assert_close(ends[1].state[name], ends[0].state[name], rtol=1e-13, atol=1e-13)


def test_at_walls_steps_are_folded_back() -> None:
    sampler, dt = en.Langevin(0.3), 0.3
    energy = Functional(
        lambda e, a, b, c: 3 * a + b - 2 * c,
        a=en.Unit(), b=en.NonNegative(), c=en.Interval(low=-math.inf, high=1.0),
    )  # fmt: skip
    start = {n: torch.linspace(0, 1, 7, dtype=F64) for n in "abc"}
    numbers = [2 * random(7, seed=i) for i in range(3)]
    found, _ = fed(sampler, flow_of(sampler, energy, **start), numbers)
    free = {
        n: start[n] - dt * k + math.sqrt(2 * dt) * xi
        for n, k, xi in zip("abc", (3, 1, -2), numbers, strict=True)
    }
    # the distance to the nearest even number is the triangle wave of a fold at 0 and 1
    expected = {
        "a": (free["a"] - 2 * (free["a"] / 2).round()).abs(),
        "b": free["b"].abs(),
        "c": 1 - (1 - free["c"]).abs(),
    }
    assert any(bool((free[n] != expected[n]).any()) for n in "abc")
    for name in "abc":
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heat", [1.0, torch.tensor([0.5, 1.0, 2.0], dtype=F64)], ids=["one", "each"])
def test_with_a_link_the_drift_has_that_of_the_volume(heat: Any) -> None:
    """E = 3 a at a = sigmoid(u): -dE/du + T d log(a (1 - a))/du = -3 a (1 - a) + T (1 - 2 a)."""
    sampler, dt, tau = en.Langevin(0.2), 0.2, 0.5
    energy = Functional(lambda e, a: 3 * a.sum(1), a=en.Unit(2, link=en.Sigmoid(), tau=tau))
    a = torch.tensor([[0.1, 0.5], [0.7, 0.9], [0.3, 0.2]], dtype=F64)
    xi = random(3, 2)
    found, _ = fed(sampler, flow_of(sampler, energy, a=a), [xi], temperature=heat)
    t = torch.as_tensor(heat, dtype=F64).reshape(-1, 1)
    drift = -3 * a * (1 - a) + t * (1 - 2 * a)
    expected = a.logit() + dt / tau * drift + (2 * t * dt / tau).sqrt() * xi
    torch.testing.assert_close(found["a"], expected, rtol=1e-12, atol=1e-12)


def test_a_step_that_is_too_large_is_seen_to_diverge() -> None:
    found = en.settle(
        Functional(lambda e, x: x.pow(4), x=en.Real()),
        {"x": torch.tensor([0.1, 50.0])},
        solver=en.Langevin(0.01),
        max_steps=40,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.status.tolist() == [en.Status.MAX_STEPS, en.Status.DIVERGED]
