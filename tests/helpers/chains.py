"""Steps of samplers with numbers that the test gives, and laws to compare chains with."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import quad
from scipy.stats import kstest, norm

import energynet as en
from energynet.samplers.noise import Tape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

F64 = torch.float64
ALARM = 1e-6  # how often a right sampler may fail a test


def flow_of(sampler: en.Sampler, energy: en.Energy, **state: Tensor) -> en.LiftedFlow:
    """The flow of a sampler at some values."""
    flow = sampler.flow(energy, None, state)
    assert isinstance(flow, en.LiftedFlow)
    return flow


def fed(
    sampler: en.Sampler,
    flow: en.LiftedFlow,
    numbers: list[Tensor],
    *,
    carry: Any = None,
    temperature: Any = None,
    state: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Any]:
    """The state and carry after one step with these random numbers, in the order of use."""
    start = dict(flow.start if state is None else state)
    with torch.no_grad():
        carry = sampler.init(flow, start) if carry is None else carry
        tape: Any = Tape(given=numbers)
        heat = sampler.temperature if temperature is None else temperature
        state, carry, _ = sampler.sample(flow, start, carry, tape, heat)
    assert [shape for _, shape in tape.asked] == [tuple(n.shape) for n in numbers]
    return state, carry


def check_law(sample: Tensor, density: Callable[[float], float], low: float, high: float) -> None:
    """Kolmogorov and Smirnov's test of independent numbers against an unnormalised density."""
    grid = np.linspace(low, high, 201)
    pieces = [quad(density, a, b)[0] for a, b in pairwise(grid)]
    levels = np.concatenate([[0.0], np.cumsum(pieces)])
    found = kstest(sample.double().flatten().numpy(), lambda x: np.interp(x, grid, levels / levels[-1]))
    assert found.pvalue > ALARM, found


def check_mean(sample: Tensor, expected: Tensor | float) -> None:
    """The mean over the first dimension, in every entry at once, by the error that the sample shows."""
    error = sample.std(0) / len(sample) ** 0.5
    bound = norm.isf(ALARM / 2 / error.numel())
    assert float(((sample.mean(0) - expected).abs() / error).max()) < bound


def invariant(
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    energy: Callable[[Tensor], Tensor],
    observable: Callable[[Tensor], Tensor],
    *,
    inertia: bool,
) -> tuple[float, float]:
    """The mean of an observable under the law that a step in one dimension leaves as it is, and under Gibbs'.

    The law has a density with respect to Gibbs' law of position and momentum (temperature and mass 1) that is
    a combination of orthogonal polynomials; integrals by quadrature, noise included.
    """
    x = torch.linspace(-5, 5, 141, dtype=F64)
    weight = torch.exp(-energy(x))
    momenta, heat = _hermite(16 if inertia else 1)
    noise, chance = _hermite(16)
    joint = (weight / weight.sum())[:, None] * heat
    position = _polynomials(x, weight / weight.sum(), 16)
    momentum = _polynomials(momenta, heat, 8 if inertia else 1)

    def basis(x: Tensor, p: Tensor) -> Tensor:
        return torch.einsum("na,nb->nab", position(x), momentum(p)).flatten(1)

    grid = torch.cartesian_prod(x, momenta, noise)
    after = basis(*step(*grid.unbind(1))).view(joint.numel(), len(noise), -1)
    before = basis(*torch.cartesian_prod(x, momenta).unbind(1))
    expected = torch.einsum("gni,n->gi", after, chance)
    drift = (before * joint.reshape(-1, 1)).T @ (expected - before)  # <f_i, (P - 1) f_j>
    density = torch.linalg.lstsq(drift[1:, 1:].T, -drift[0, 1:].unsqueeze(1)).solution[:, 0]
    value = observable(torch.cartesian_prod(x, momenta)[:, 0]) * joint.flatten()
    return float(value.sum() + value @ before[:, 1:] @ density), float(value.sum())


def _hermite(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(nodes, dtype=F64), torch.tensor(weights / weights.sum(), dtype=F64)


def _polynomials(nodes: Tensor, weight: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Polynomials that are orthonormal under a weight; the first is 1."""
    scale = float(nodes.abs().max()) or 1.0

    def powers(x: Tensor) -> Tensor:
        return torch.stack([torch.special.chebyshev_polynomial_t(x / scale, n) for n in range(count)], 1)

    triangle = torch.linalg.qr(weight.sqrt()[:, None] * powers(nodes)).R
    triangle = triangle * triangle.diagonal().sign()[:, None]
    return lambda x: torch.linalg.solve_triangular(triangle, powers(x), upper=True, left=False)
