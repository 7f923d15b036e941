"""Neural sampling in one and two dimensions against quadrature, and cold, against enumeration."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.optimize import brentq
from torch import Tensor

import energynet as en
from helpers.chains import F64, check_mean, fed, flow_of

X, SIGMA, RATE = 0.6, 0.5, 2.0
GRID = torch.linspace(-3.0, 3.5, 1001, dtype=F64)


def spike_slab(threshold: float, weight: Any = ((1.0,),), **more: Any) -> en.models.SpikeSlabCoding:
    weight = torch.tensor(weight, dtype=F64)
    model = en.models.SpikeSlabCoding(*weight.shape, RATE, threshold, variance=SIGMA**2, **more).double()
    model.weight.data.copy_(weight)
    return model


def laplace(weight: Any = ((1.0,),)) -> en.models.SparseCoding:
    weight = torch.tensor(weight, dtype=F64)
    model = en.models.SparseCoding(*weight.shape, RATE, variance=SIGMA**2, link=False).double()
    model.weight.data.copy_(weight)
    return model


def likelihood(code: float) -> float:
    return math.exp(-((X - code) ** 2) / (2 * SIGMA**2))


def slab(power: int) -> float:
    """The integral of s^power times Laplace's law times the likelihood."""

    def density(s: float) -> float:
        return s**power * 0.5 * RATE * math.exp(-RATE * abs(s)) * likelihood(s)

    return quad(density, -9, 0, epsabs=1e-13)[0] + quad(density, 0, 9, epsabs=1e-13)[0]


def probability_of_zero(threshold: float) -> float:
    """Bayes' rule: the spike has prior probability 1 - exp(-rate * threshold)."""
    active = math.exp(-RATE * threshold)
    spike = (1 - active) * likelihood(0.0)
    return spike / (spike + active * slab(0))


# The threshold at which a code is zero with the probability 0.622.
THRESHOLD = brentq(lambda threshold: probability_of_zero(threshold) - 0.622, 0.1, 2.0)


def chain_law(energy: en.Energy, name: str, dt: float) -> Tensor:
    """The law on a grid that steps of `Langevin` leave as it is, from two steps of the sampler itself."""
    sampler = en.Langevin(dt)
    start = GRID[:, None]
    conditioned = energy.condition(x=torch.full_like(start, X))
    flow = flow_of(sampler, conditioned, **{name: start})
    still, moved = (fed(sampler, flow, [torch.full_like(start, n)])[0][name] for n in (0.0, 1.0))
    width = moved - still
    kernel = torch.exp(-0.5 * ((GRID[None, :] - still) / width).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    system = torch.cat([kernel.mT - torch.eye(len(GRID), dtype=F64), torch.ones(1, len(GRID), dtype=F64)])
    right = torch.zeros(len(GRID) + 1, 1, dtype=F64)
    right[-1] = 1
    return torch.linalg.lstsq(system, right).solution[:, 0]


def test_the_figures_in_one_dimension() -> None:
    """Of the Laplace prior: mean 0.3092 and variance 0.1485; of spike and slab, the threshold of 0.622."""
    mean = slab(1) / slab(0)
    assert abs(mean - 0.3092) < 5e-5
    assert slab(2) / slab(0) - mean**2 == pytest.approx(0.1485, abs=5e-5)
    assert abs(THRESHOLD - 0.46632) < 5e-6


def test_langevin_samples_the_laplace_posterior_with_a_bias_linear_in_dt() -> None:
    exact = torch.tensor([slab(1) / slab(0), slab(2) / slab(0)], dtype=F64)
    found = []
    for dt in (0.02, 0.01, 0.005):
        law = chain_law(laplace(), "a", dt)
        found.append(torch.stack([law @ GRID, law @ GRID.square()]))
    bias = [value - exact for value in found]
    for larger, smaller in pairwise(bias):
        assert torch.allclose(larger / smaller, torch.full((2,), 2.0, dtype=F64), rtol=0.2)
    assert torch.allclose(2 * found[2] - found[1], exact, atol=1e-3)


@pytest.mark.parametrize("threshold", [0.2, THRESHOLD, 1.0])
def test_langevin_samples_the_probability_of_zero(threshold: float) -> None:
    """And the moments of codes, to the square of dt by Richardson's extrapolation."""
    active = math.exp(-RATE * threshold)
    total = (1 - active) * likelihood(0.0) + active * slab(0)
    exact = torch.tensor(
        [probability_of_zero(threshold), *(active * slab(n) / total for n in (1, 2))], dtype=F64
    )
    model = spike_slab(threshold)
    codes = model.codes(GRID)
    # half of a cell that the threshold cuts
    spacing = float(GRID[1] - GRID[0])
    zero = ((threshold - GRID.abs()) / spacing + 0.5).clamp(0, 1)
    found = []
    for dt in (0.01, 0.005):
        law = chain_law(model, "u", dt)
        found.append(torch.stack([law @ zero, law @ codes, law @ codes.square()]).detach())
    assert torch.allclose(2 * found[1] - found[0], exact, atol=2e-3)
    assert float((found[1] - exact).abs().max()) < 0.02


class StraightThrough(en.Energy):
    """The force of the spike and slab without the derivative of the threshold."""

    def __init__(self, model: en.models.SpikeSlabCoding) -> None:
        super().__init__(**model.variables)
        self.model = model

    def energy(self, x: Tensor, u: Tensor) -> Tensor:
        return self.model.energy(x=x, u=u)

    def force(self, state: dict[str, Tensor], wrt: Any) -> dict[str, Tensor]:
        error = state["x"] - self.model.codes(state["u"]) @ self.model.weight.mT
        return {"u": (error @ self.model.weight) / SIGMA**2 - RATE * state["u"].sign()}


def test_straight_through_samples_another_law() -> None:
    """That of the potential of its force in one dimension, V' = -(x - f(u)) / sigma^2 + rate sign(u)."""

    def density(u: float) -> float:
        code = max(abs(u) - THRESHOLD, 0.0)
        return math.exp((X * u - 0.5 * code**2) / SIGMA**2 - RATE * abs(u))

    inside = quad(density, -THRESHOLD, 0)[0] + quad(density, 0, THRESHOLD)[0]
    outside = quad(density, -9, -THRESHOLD)[0] + quad(density, THRESHOLD, 9)[0]
    wrong = inside / (inside + outside)
    assert wrong == pytest.approx(0.4364, abs=5e-5)
    law = chain_law(StraightThrough(spike_slab(THRESHOLD)), "u", 0.01)
    found = float(law @ (GRID.abs() < THRESHOLD).double())
    assert found == pytest.approx(wrong, abs=0.02)
    assert abs(found - 0.622) > 0.15


@pytest.mark.parametrize("sampler", [en.MALA(0.15), en.HamiltonianMonteCarlo(0.3, 4)])
def test_two_correlated_codes_by_quadrature(sampler: en.Sampler) -> None:
    """Chains without bias: the mean and second moments of codes, and how often each, and both, are zero."""
    weight, x = ((1.0, 0.6), (0.0, 0.8)), (0.7, 0.5)
    model = spike_slab(0.3, weight)
    phi, target = np.array(weight), np.array(x)

    def observed(a: np.ndarray) -> list[float]:
        zero = (a == 0).astype(float)
        return [1.0, a[0], a[1], a[0] ** 2, a[1] ** 2, a[0] * a[1], zero[0], zero[1], zero[0] * zero[1]]

    def shrunk(u: np.ndarray) -> np.ndarray:
        return np.sign(u) * np.maximum(np.abs(u) - 0.3, 0)

    nodes, weights = np.polynomial.legendre.leggauss(20)
    ends = [-5.0, -2.5, -1.2, -0.3, 0.0, 0.3, 1.2, 2.5, 5.0]  # the kinks are ends of pieces
    line = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in pairwise(ends)])
    share = np.concatenate([(b - a) / 2 * weights for a, b in pairwise(ends)])
    integral = np.zeros(9)
    for (u, du), (v, dv) in product(zip(line, share, strict=True), repeat=2):
        a = shrunk(np.array([u, v]))
        error = target - phi @ a
        mass = du * dv * math.exp(-(error @ error) / (2 * SIGMA**2) - RATE * (abs(u) + abs(v)))
        integral += mass * np.array(observed(a))
    expected = torch.tensor(integral[1:] / integral[0])

    chains = 20_000
    clamp = {"x": torch.tensor(x, dtype=F64).expand(chains, 2)}
    start = {"u": torch.randn(chains, 2, generator=torch.Generator().manual_seed(0), dtype=F64)}
    end = en.settle(
        model, start, clamp=clamp, solver=sampler, max_steps=120, generator=torch.Generator().manual_seed(1)
    )
    codes = model.codes(end.state["u"])
    one, two = codes.unbind(1)
    zero_one, zero_two = (one == 0).double(), (two == 0).double()
    check_mean(
        torch.stack(
            [one, two, one**2, two**2, one * two, zero_one, zero_two, zero_one * zero_two], 1
        ).detach(),
        expected,
    )


@pytest.mark.parametrize("nonnegative", [False, True])
def test_it_is_a_density_and_the_prior_is_spike_and_slab(nonnegative: bool) -> None:
    """With all normalisers, the integral of exp(-E) over x and u is one; of the spike, 1 - `active`."""
    model = spike_slab(0.4, nonnegative=nonnegative, learn_sparsity=True, learn_variance=True)

    def density(x: float, u: float) -> float:
        state = {"x": torch.tensor([[x]], dtype=F64), "u": torch.tensor([[u]], dtype=F64)}
        return math.exp(-float(model.energy(**state)))

    masses = []
    with torch.no_grad():
        for low, high in [(0.4, 6.0), (0.0, 0.4)] + ([] if nonnegative else [(-6.0, -0.4), (-0.4, 0.0)]):
            masses.append(dblquad(density, low, high, lambda u: -9, lambda u: 9, epsabs=1e-5, epsrel=1e-5)[0])
    assert sum(masses) == pytest.approx(1, abs=1e-4)
    assert sum(masses[::2]) == pytest.approx(float(model.active), abs=1e-4)


def lowest(phi: np.ndarray, x: np.ndarray, threshold: float) -> tuple[float, np.ndarray]:
    """The minimum of |x - phi a|^2 / 2 sigma^2 + rate (|a|_1 + threshold |a|_0), over all signs of codes."""
    atoms = phi.shape[1]
    best, where = float(x @ x) / (2 * SIGMA**2), np.zeros(atoms)
    for signs in product((-1, 0, 1), repeat=atoms):
        sign = np.array(signs, dtype=float)
        on = sign != 0
        if not on.any():
            continue
        some = phi[:, on]
        codes = np.zeros(atoms)
        codes[on] = np.linalg.solve(some.T @ some, some.T @ x - SIGMA**2 * RATE * sign[on])
        if (codes[on] * sign[on] <= 0).any():
            continue
        error = x - phi @ codes
        value = float(error @ error) / (2 * SIGMA**2) + RATE * (abs(codes).sum() + threshold * on.sum())
        if value < best:
            best, where = value, codes
    return best, where


def cold(model: en.Energy, x: np.ndarray, chains: int) -> en.Solution:
    """Langevin from temperature 1 to nearly zero."""
    schedule = en.samplers.geometric(1.0, 1e-6, 3000)
    clamp = {"x": torch.tensor(x).expand(chains, len(x))}
    solver = en.Annealed(en.Langevin(0.005), schedule)
    generator = torch.Generator().manual_seed(0)
    return en.settle(model, clamp=clamp, solver=solver, max_steps=3000, generator=generator)


def test_cold_it_is_the_map_estimate() -> None:
    """The Laplace posterior has one mode, at which every chain ends; spike and slab have several.

    A dynamics that cools ends in some of them; the lowest energy of chains is that of enumeration.
    """
    generator = np.random.default_rng(1)
    phi = generator.normal(size=(3, 4))
    phi /= np.linalg.norm(phi, axis=0)
    for x in generator.normal(size=(3, 3)):
        solution = cold(laplace(phi.tolist()), x, 20)
        _, where = lowest(phi, x, 0.0)
        assert np.abs(solution.state["a"].numpy() - where).max() < 0.02
        model = spike_slab(0.2, phi.tolist())
        solution = cold(model, x, 100)
        best, where = lowest(phi, x, 0.2)
        # potentials hop about zero by the kink of |u| within a step
        assert float(solution.energy.min()) == pytest.approx(best, abs=0.03)
        first = int(solution.energy.argmin())
        codes = model.codes(solution.state["u"]).detach().numpy()
        assert np.abs(codes[first] - where).max() < 0.02
        assert ((codes[first] == 0) == (where == 0)).all()


def test_gradients_reach_the_threshold() -> None:
    """dE/dtheta of an active unit is force times sign, of a unit within the threshold zero."""
    model = spike_slab(0.3, ((1.0, 0.0),), learn_threshold=True)
    x, u = torch.tensor([[0.9]], dtype=F64), torch.tensor([[0.8, 0.1]], dtype=F64)
    model(dict(x=x, u=u)).sum().backward()  # noqa: C408
    slope = model.get_parameter("codes.log_threshold").grad
    # E = (x - (u - theta))^2 / 2 sigma^2
    assert float(slope) == pytest.approx((0.9 - 0.5) / SIGMA**2 * 0.3, rel=1e-6)


def test_atoms_are_brought_back_to_unit_norm() -> None:
    model = en.models.SpikeSlabCoding(5, 7)
    assert torch.allclose(model.weight.norm(dim=0), torch.ones(7))
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.mul_(torch.arange(1, 8))
    model.project_()
    assert torch.allclose(model.weight, before, atol=1e-6)
