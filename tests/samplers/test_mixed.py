"""Gibbs and Glauber with real units beside two-valued ones: closed forms, and enumeration with quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, kstest, norm, truncnorm
from torch import Tensor

import energynet as en
from energynet.conditional import Kind
from helpers.discrete import F64, noise
from helpers.functional import Functional
from helpers.mixed import all_states, mixed, places

FALSE_ALARM = 1e-6  # of each test
CHAINS = 20_000
NORMAL = ["gaussian", "rectified", "boxed", "gated"]


def conditional(name: str, h: Tensor, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the real units without their ends, given the others, ``(states, units)``."""
    e: Any = mixed(name)
    with torch.no_grad():
        if name == "gated":
            rate = 1 + h @ e.W.T.square()
            return (e.b / rate).numpy(), (temperature / rate).sqrt().numpy()
        mean = e.b + e.variance * (h @ e.W.T)
        return mean.numpy(), (temperature * e.variance).sqrt().expand(mean.shape).numpy()


def marginal(name: str, temperature: float) -> tuple[dict[str, Tensor], np.ndarray]:
    """The states of the discrete units and their probabilities, the real ones integrated by quadrature."""
    e: Any = mixed(name)
    variable = e.variables["v"]
    states = all_states(e, ["h"])
    weights = []
    for h in states["h"]:
        total = 1.0
        for unit in range(2):

            def density(value: float, unit: int = unit, h: Tensor = h) -> float:
                v = torch.zeros(1, 2, dtype=F64)
                base = float(e.energy(v=v, h=h[None]))
                v[0, unit] = value
                return math.exp(-(float(e.energy(v=v, h=h[None])) - base) / temperature)

            low, high = max(variable.low, -12.0), min(variable.high, 12.0)
            with torch.no_grad():
                total *= quad(density, low, high, limit=200, epsabs=1e-9, epsrel=1e-9)[0]
        with torch.no_grad():
            total *= math.exp(-float(e.energy(v=torch.zeros(1, 2, dtype=F64), h=h[None])) / temperature)
        weights.append(total)
    return states, np.array(weights) / sum(weights)


def chi_square(found: np.ndarray, expected: np.ndarray) -> None:
    assert expected.min() > 5
    statistic = ((found - expected) ** 2 / expected).sum()
    assert statistic < chi2.isf(FALSE_ALARM, len(expected) - 1)


def mixture(name: str, weights: np.ndarray, states: dict[str, Tensor], unit: int, temperature: float) -> Any:
    """The distribution function of a real unit."""
    variable = mixed(name).variables["v"]
    means, deviations = conditional(name, states["h"], temperature)

    def cumulative(value: np.ndarray) -> np.ndarray:
        total = np.zeros_like(value)
        for weight, mean, deviation in zip(weights, means[:, unit], deviations[:, unit], strict=True):
            if variable.bounded:
                ends = (variable.low - mean) / deviation, (variable.high - mean) / deviation
                total += weight * truncnorm.cdf(value, *ends, mean, deviation)
            else:
                total += weight * norm.cdf(value, mean, deviation)
        return total

    return cumulative


SOLVERS = {
    "Gibbs": en.Gibbs(0.9),
    "Gibbs block": en.Gibbs(0.9, scan="block"),
    "Glauber": en.Glauber(0.9),
    "Annealed": en.Annealed(en.Gibbs(), [3.0, 0.9]),
    "ParallelTempering": en.ParallelTempering(en.Gibbs(), [0.9, 2.0]),
}


@pytest.mark.parametrize(("name", "solver"), [(n, "Gibbs") for n in NORMAL] + [("boxed", s) for s in SOLVERS])
def test_samples_have_the_exact_marginals(name: str, solver: str) -> None:
    energy = mixed(name)
    states, weights = marginal(name, 0.9)
    start = {"v": torch.full((CHAINS, 2), 0.5, dtype=F64), "h": states["h"][:1].expand(CHAINS, -1)}
    generator = torch.Generator().manual_seed(1)
    end = en.settle(energy, start, solver=SOLVERS[solver], max_steps=30, generator=generator)
    energy.check(end.state)
    chi_square(np.bincount(places(states, {"h": end.state["h"]}), minlength=8), CHAINS * weights)
    for unit in range(2):
        cumulative = mixture(name, weights, states, unit, 0.9)
        assert kstest(end.state["v"][:, unit].numpy(), cumulative).pvalue > FALSE_ALARM


def test_the_marginal_of_a_gaussian_machine_is_its_closed_form() -> None:
    """That the quadrature of these tests is right: log p(h) = c.h + variance . (b / variance + W h)^2 / 2."""
    e: Any = mixed("gaussian")
    states, weights = marginal("gaussian", 1.0)
    with torch.no_grad():
        h = states["h"]
        free = h @ e.c + 0.5 * (e.variance * (e.b / e.variance + h @ e.W.T).square()).sum(1)
    assert weights == pytest.approx(torch.softmax(free, 0).numpy(), rel=1e-7)


@pytest.mark.parametrize("name", NORMAL)
def test_a_sweep_draws_real_units_first_and_then_the_others_given_them(name: str) -> None:
    """The joint law after one sweep, from one state: v from its conditional, and h from that given v."""
    e: Any = mixed(name)
    h = all_states(e, ["h"])["h"][5:6]
    start = {"v": torch.full((CHAINS, 2), 0.1, dtype=F64), "h": h.expand(CHAINS, -1)}
    generator = torch.Generator().manual_seed(2)
    end = en.settle(e, start, solver=en.Gibbs(0.9), max_steps=1, generator=generator)
    v = end.state["v"]
    for unit in range(2):
        cumulative = mixture(name, np.ones(1), {"h": h}, unit, 0.9)
        assert kstest(v[:, unit].numpy(), cumulative).pvalue > FALSE_ALARM
    low = torch.full((CHAINS, 3), e.variables["h"].low, dtype=F64)
    with torch.no_grad():
        for unit in range(3):
            high = low.clone()
            high[:, unit] = e.variables["h"].high
            chance = ((e.energy(v=v, h=low) - e.energy(v=v, h=high)) / 0.9).sigmoid()
            excess = ((end.state["h"][:, unit] == high[:, unit]).to(F64) - chance).sum()
            sigma = (chance * (1 - chance)).sum().sqrt()
            assert abs(float(excess / sigma)) < norm.isf(FALSE_ALARM / 6)


@pytest.mark.parametrize("scan", ["systematic", "block"])
def test_coupled_real_units_have_the_covariance_of_the_inverse(scan: str) -> None:
    energy: Any = mixed("coupled")
    h = all_states(energy, ["h"])["h"][3:].expand(CHAINS, -1)
    flow = en.ConditionalFlow(energy, {"h": h}, {})
    assert flow.kind("s") is Kind.COUPLED
    generator = torch.Generator().manual_seed(3)
    end = en.settle(
        energy, clamp={"h": h}, solver=en.Gibbs(0.7, scan=scan), max_steps=60, generator=generator
    )
    matrix = energy.H.detach()
    mean = torch.linalg.solve(matrix, (h[0] @ energy.W).detach())
    factor = torch.linalg.cholesky(matrix)
    white = ((end.state["s"] - mean) @ factor / 0.7**0.5).numpy()  # independent standard normal, if right
    bound = norm.isf(FALSE_ALARM / 20)
    assert np.abs(white.mean(0)).max() < bound / CHAINS**0.5
    second = white.T @ white / CHAINS
    assert np.abs(second - np.eye(3)).max() < bound * (2 / CHAINS) ** 0.5
    for column in white.T:
        assert kstest(column, norm.cdf).pvalue > FALSE_ALARM


def test_coupled_real_units_beside_bits_have_the_enumerated_law() -> None:
    energy: Any = mixed("coupled")
    generator = torch.Generator().manual_seed(4)
    states = all_states(energy, ["h"])
    start = {"s": torch.zeros(CHAINS, 3, dtype=F64), "h": states["h"][:1].expand(CHAINS, -1)}
    end = en.settle(energy, start, solver=en.Gibbs(), max_steps=60, generator=generator)
    with torch.no_grad():
        drive = states["h"] @ energy.W
        free = states["h"] @ energy.c + 0.5 * (torch.linalg.solve(energy.H, drive.T).T * drive).sum(1)
    weights = torch.softmax(free, 0).numpy()
    chi_square(np.bincount(places(states, {"h": end.state["h"]}), minlength=4), CHAINS * weights)


@pytest.mark.parametrize("name", [*NORMAL, "coupled"])
def test_without_temperature_every_unit_goes_to_its_minimum(name: str) -> None:
    """Glauber at T = 0, the default: the energy never rises, and no unit alone can lower it in the end."""
    energy: Any = mixed(name)
    states = all_states(energy, ["h"])
    real = next(iter(energy.variables))
    count = len(states["h"])
    start = {
        **states,
        real: energy.variables[real].project(noise(count, *energy.variables[real].shape, seed=9)),
    }
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        end = en.settle(energy, start, record="energy", generator=generator)
        assert (end.status == en.Status.CONVERGED).all()
        assert (end.residual == 0).all()
        assert (end.trajectory.diff(dim=0) <= 1e-12).all()
        lowest = end.energy
        for step in (1e-4, -1e-4):
            for unit in range(end.state[real].shape[1]):
                other = end.state[real].clone()
                other[:, unit] += step
                other = energy.variables[real].project(other)
                assert (energy.energy(**{**end.state, real: other}) >= lowest - 1e-12).all()
        flips = energy.variables["h"]
        for unit in range(end.state["h"].shape[1]):
            other = end.state["h"].clone()
            other[:, unit] = flips.low + flips.high - other[:, unit]
            assert (energy.energy(**{**end.state, "h": other}) >= lowest - 1e-12).all()


def test_the_cold_limit_of_each_sample_is_its_own() -> None:
    energy = mixed("boxed")
    sampler = en.Gibbs()
    h = torch.ones(4, 3, dtype=F64)
    flow = sampler.flow(energy, {"h": h}, {"v": torch.zeros(4, 2, dtype=F64)})
    heat = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=F64)
    carry = sampler.init(flow, flow.start)
    warm = sampler.sample(flow, flow.start, carry, torch.Generator().manual_seed(0), heat)[0]["v"]
    cold = sampler.sample(flow, flow.start, carry, None, 0.0)[0]["v"]
    assert torch.equal(warm[::2], cold[::2])
    assert (warm[1::2] != cold[1::2]).all()


def test_released_energy_is_what_the_energy_falls_by() -> None:
    energy = mixed("gaussian")
    states = all_states(energy, ["h"])
    v = noise(8, 2, seed=3)
    with torch.no_grad():
        flow = en.ConditionalFlow(energy, None, {**states, "v": v})
        released = flow.velocity(flow.start)
        mean, _ = conditional("gaussian", states["h"], 1.0)
        for unit in range(2):
            best = v.clone()
            best[:, unit] = torch.from_numpy(mean[:, unit])
            fall = energy.energy(v=v, **states) - energy.energy(v=best, **states)
            assert torch.allclose(released["v"][:, unit], fall, rtol=0, atol=1e-12)


def test_held_real_units_stay() -> None:
    energy = mixed("gaussian")
    value = torch.full((CHAINS, 2), 2.5, dtype=F64)
    clamp = {"v": en.Partial(value, torch.tensor([False, True]))}
    end = en.settle(
        energy, clamp=clamp, solver=en.Gibbs(), max_steps=3, generator=torch.Generator().manual_seed(0)
    )
    assert (end.state["v"][:, 1] == 2.5).all()
    assert float(end.state["v"][:, 0].std()) > 0.5
    assert (end.statistics["flips"] < 1).all()


def test_a_curvature_that_turns_negative_on_the_way_is_divergence() -> None:
    def saddle(e: Any, v: Tensor, h: Tensor) -> Tensor:
        return (v.square() * (1 - 2 * h)).sum(1) - 50 * h.sum(1)

    energy = Functional(saddle, {"b": torch.zeros(1, dtype=F64)}, v=en.Real(1), h=en.Bit(1))
    start = {"v": torch.ones(1, 1, dtype=F64), "h": torch.zeros(1, 1, dtype=F64)}
    end = en.settle(
        energy, start, solver=en.Gibbs(), max_steps=20, generator=torch.Generator().manual_seed(0)
    )
    assert end.status.tolist() == [en.Status.DIVERGED]


def test_annealed_importance_sampling_of_real_units_and_bits() -> None:
    """log Z of a Gaussian machine: enumeration of the bits, the real units integrated in closed form."""
    e: Any = mixed("gaussian")
    found = en.AnnealedImportanceSampling(e, steps=80, chains=500).estimate(
        generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        h = all_states(e, ["h"])["h"]
        free = h @ e.c + 0.5 * (e.variance * (e.b / e.variance + h @ e.W.T).square()).sum(1)
        exact = (
            free.logsumexp(0) + 0.5 * ((2 * torch.pi * e.variance).log() - e.b.square() / e.variance).sum()
        )
    assert float(found.standard_error) < 0.1
    assert float((found.log_partition - exact).abs()) < 6 * float(found.standard_error)
