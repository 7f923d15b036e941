"""BAOAB against its closed forms on a spring, and its order on an anharmonic well by quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

import energynet as en
from helpers.chains import F64, fed, flow_of, invariant
from helpers.functional import Functional


def spring(stiffness: float, tau: float = 1.0) -> Functional:
    return Functional(lambda e, x: 0.5 * stiffness * x.square(), x=en.Real(tau=tau)).double()


def one(
    sampler: en.Underdamped, energy: en.Energy, x: Tensor, p: Tensor, xi: Tensor
) -> tuple[Tensor, Tensor]:
    """A later step, from a position and a momentum over the root of the mass."""
    flow = flow_of(sampler, energy, x=x)
    with torch.no_grad():
        carry = sampler.init(flow, {"x": x})
    carry = {**carry, "momentum": {"x": p}, "fresh": torch.zeros_like(x)}
    state, carry = fed(sampler, flow, [xi], carry=carry)
    return state["x"], carry["momentum"]["x"]


@pytest.mark.parametrize("friction", [0.1, 2.0])
@pytest.mark.parametrize(
    ("dt", "k", "tau", "heat"), [(0.1, 1.0, 1.0, 1.0), (0.9, 2.0, 1.0, 0.4), (1.5, 2.0, 3.0, 2.0)]
)
def test_on_a_spring_positions_have_the_exact_variance(
    dt: float, k: float, tau: float, heat: float, friction: float
) -> None:
    """The step is linear; its stationary covariance solves a Lyapunov equation."""
    unit = torch.eye(3, dtype=F64)
    x, p = one(en.Underdamped(dt, friction, heat), spring(k, tau), *unit)
    linear = torch.stack([x, p]).numpy()  # columns: from position, momentum, noise
    noise = linear[:, 2:]
    covariance = solve_discrete_lyapunov(linear[:, :2], noise @ noise.T)
    assert covariance[0, 0] == pytest.approx(heat / k, rel=1e-10)
    assert covariance[0, 1] == pytest.approx(0, abs=1e-10)
    # the step halves a kick at each end, which leaves a known bias in the momenta
    assert covariance[1, 1] == pytest.approx(heat * (1 - dt**2 * k / tau / 4), rel=1e-10)


@pytest.mark.parametrize("friction", [0.3, 3.0])
def test_friction_takes_momenta_away_at_its_rate(friction: float) -> None:
    """Without a force or noise: p' = exp(-friction dt) p."""
    free = Functional(lambda e, x: 0.0 * x, x=en.Real())
    dt, p = 0.25, torch.tensor([1.0, -2.0], dtype=F64)
    zero = torch.zeros_like(p)
    x, after = one(en.Underdamped(dt, friction), free, zero, p, zero)
    kept = math.exp(-friction * dt)
    torch.testing.assert_close(after, kept * p)
    torch.testing.assert_close(x, dt / 2 * (1 + kept) * p)


def test_on_a_quartic_well_the_bias_is_of_second_order() -> None:
    energy = Functional(lambda e, x: x.pow(4) / 4 + x.square() / 2, x=en.Real())

    def bias(dt: float) -> float:
        sampler = en.Underdamped(dt, friction=1.0)
        found, exact = invariant(
            lambda x, p, xi: one(sampler, energy, x, p, xi),
            lambda x: x**4 / 4 + x**2 / 2,
            lambda x: x**2,
            inertia=True,
        )
        return found - exact

    biases = [bias(dt) for dt in (0.2, 0.1, 0.05)]
    assert math.log2(biases[0] / biases[1]) == pytest.approx(2, abs=0.1)
    assert math.log2(biases[1] / biases[2]) == pytest.approx(2, abs=0.04)


def test_the_first_step_draws_the_momenta() -> None:
    """It is a leapfrog step from momenta of variance m T, so that one step is a Langevin step of dt^2 / 2 m."""
    dt, k, tau, heat = 0.6, 1.5, 2.0, 0.7
    sampler = en.Underdamped(dt, 1.0, heat)
    x, xi = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    state, carry = fed(sampler, flow_of(sampler, spring(k, tau), x=x), [xi])
    a, b = state["x"].tolist()
    assert (a, b) == pytest.approx((1 - dt**2 * k / (2 * tau), dt * math.sqrt(heat / tau)), rel=1e-12)
    drawn = math.sqrt(heat) * xi
    after = drawn - dt / (2 * math.sqrt(tau)) * k * (x + state["x"])
    torch.testing.assert_close(carry["momentum"]["x"], after)
    assert carry["fresh"].tolist() == [0, 0]


def test_chains_that_are_taken_up_again_and_again_stay_at_temperature() -> None:
    """A chain of runs of one step each has the variance T / (k (1 - dt^2 k / 4)), by the last test."""
    dt, heat = 0.5, 2.0
    sampler, energy = en.Underdamped(dt, 0.1, heat), spring(1.0)
    x = math.sqrt(heat / (1 - dt**2 / 4)) * torch.tensor(
        np.random.default_rng(0).standard_normal(20_000), dtype=F64
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        x = en.settle(energy, {"x": x}, solver=sampler, max_steps=1, generator=generator).state["x"]
    law = heat / (1 - dt**2 / 4)
    assert float(x.square().mean()) == pytest.approx(law, abs=5 * law * math.sqrt(2 / len(x)))


def test_at_walls_momenta_turn() -> None:
    dt = 0.5
    free = Functional(lambda e, x: 0.0 * x, x=en.Unit())
    p = torch.tensor([1.0, -1.0, 3.0, 8.0], dtype=F64)
    x = torch.tensor([0.9, 0.1, 0.9, 0.5], dtype=F64)
    kept = math.exp(-dt)
    moved, after = one(en.Underdamped(dt, 1.0), free, x, p, torch.zeros_like(p))
    way = x + dt / 2 * (1 + kept) * p  # along the unfolded line, every second cell of which is a mirror image
    torch.testing.assert_close(moved, (way - 2 * (way / 2).round()).abs())
    torch.testing.assert_close(after, torch.where(way.floor() % 2 == 0, kept * p, -kept * p))
