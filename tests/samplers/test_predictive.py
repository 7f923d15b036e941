"""Monte Carlo predictive coding: the states of a linear Gaussian network under Langevin dynamics.

Oliviers et al. (2024, PLoS Comput. Biol. 20:e1012532) sample from the posterior of the hidden layers this way.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2

import energynet as en
from helpers.predictive import Chain, network, supervised

F64 = torch.float64
ALARM = 1e-6  # of each test by chance, with other seeds
CHAINS = 4000


@pytest.mark.parametrize("heat", [1.0, 0.5])
def test_chains_have_the_posterior_of_a_linear_gaussian_network(heat: float) -> None:
    """The mean and covariance of whitened chains, by the likelihood ratio against the law of the steps.

    From the feed-forward pass n steps of z <- z - dt (H z - r) + sqrt(2 T dt) xi give a Gaussian that is known in
    closed form; for these dt and n it is the posterior N(H^-1 r, T H^-1) but for one part in a hundred.
    """
    model = network(2, 3, 2, 2, activation="linear", precision=[2.0, 1.0, 0.5])
    chain = Chain(model)
    data = supervised(model, batch=1)
    one = {"x": data["x"], "y": data["target"]}
    start = model.feedforward(one["x"])
    whole = chain.join({**start, **one})
    fixed = torch.zeros(whole.shape[1], dtype=torch.bool)
    fixed[chain.indices(["x", "y"])] = True
    H = chain.hessian[~fixed][:, ~fixed]
    mean, posterior = chain.settled(whole, fixed)[0, ~fixed], heat * torch.linalg.inv(H)

    dt, steps = 0.005, 1500
    step = torch.eye(len(H), dtype=F64) - dt * H
    law = torch.zeros_like(H)
    for _ in range(steps):
        law = step @ law @ step.T + 2 * heat * dt * torch.eye(len(H), dtype=F64)
    centre = mean + torch.linalg.matrix_power(step, steps) @ (whole[0, ~fixed] - mean)
    assert float((centre - mean).abs().max()) < 0.01 * float(posterior.diagonal().min().sqrt())
    assert float((law - posterior).norm() / posterior.norm()) < 0.01

    many = {name: value.expand(CHAINS, -1).contiguous() for name, value in one.items()}
    found = en.settle(
        model,
        {name: value.expand(CHAINS, -1).contiguous() for name, value in start.items()},
        clamp=many,
        solver=en.Langevin(dt, temperature=heat),
        max_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    samples = chain.join(found.state)[:, ~fixed] - centre
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(law), samples.T, upper=False).T
    size = len(H)
    assert CHAINS * float(white.mean(0).square().sum()) < chi2.isf(ALARM / 2, size)
    S = white.T @ white / CHAINS  # Wilks: the ratio is chi squared in all entries of a symmetric matrix
    ratio = CHAINS * float(S.trace() - torch.logdet(S) - size)
    assert 0 <= ratio < chi2.isf(ALARM / 2, size * (size + 1) // 2)
