"""Maximum likelihood by enumeration: gradients by hand, and the law of the error of what is learned."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import energynet as en
from helpers.machines import BIT, F64, joint, randomised, restricted, states


def learned(data: Tensor, units: int) -> en.models.BoltzmannMachine:
    machine = en.models.BoltzmannMachine(units, spins=True).double()
    rule = en.MaximumLikelihood(machine)
    optimiser = torch.optim.LBFGS(rule.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = rule(v=data)
        loss.backward()
        return loss

    optimiser.step(closure)
    return machine


def test_it_is_the_likelihood_with_its_gradient() -> None:
    rbm, v = restricted(4, 3), states(4)[[1, 6, 6, 9]]
    energies = joint(rbm, [BIT, BIT])
    expected = energies.neg().logsumexp((0, 1)) - energies.neg().logsumexp(1)[[1, 6, 6, 9]].mean()
    rule = en.MaximumLikelihood(rbm)
    loss = rule(v=v)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-12)
    loss.backward()
    weights = energies.neg().flatten().softmax(0).reshape(16, 8)
    given = energies.neg().softmax(1)[[1, 6, 6, 9]]
    clamped = torch.einsum("nh,nv,hj->jv", given, v, states(3)) / 4
    free = torch.einsum("vh,vi,hj->ji", weights, states(4), states(3))
    assert rbm.weight.grad is not None
    assert torch.allclose(rbm.weight.grad, free - clamped, atol=1e-12)
    with torch.no_grad():
        assert float(rule(v=v)) == pytest.approx(float(expected), abs=1e-12)


def test_a_teacher_is_recovered_with_an_error_that_falls_as_the_root_of_the_samples() -> None:
    """N (found - truth) . F (found - truth) is chi-square with as many degrees as parameters, whatever N is.

    F is the Fisher information: that it is so for two N, 16 times apart, is the law 1/sqrt(N). Ten data sets
    of each; a false alarm of 1e-6 for each tail of each sum.
    """
    truth = en.models.BoltzmannMachine(4, spins=True)
    randomised(truth, 0.4)
    law = en.exact.distribution(truth)
    s, p = law.states["v"], law.probabilities[0].detach()
    upper = torch.triu_indices(4, 4, offset=1)
    features = torch.cat([s[:, upper[0]] * s[:, upper[1]], s], 1)
    centred = features - p @ features
    fisher = centred.T @ (p.unsqueeze(1) * centred)

    def parameters(machine: en.models.BoltzmannMachine) -> Tensor:
        return torch.cat([machine.coupling.matrix()[upper[0], upper[1]], machine.visible_bias]).detach()

    generator = torch.Generator().manual_seed(0)
    for count in (2_000, 32_000):
        total = 0.0
        for _ in range(10):
            picks = torch.multinomial(p, count, replacement=True, generator=generator)
            error = parameters(learned(s[picks], 4)) - parameters(truth)
            total += float(count * error @ fisher @ error)
        assert chi2.cdf(total, 100) > 1e-6
        assert chi2.sf(total, 100) > 1e-6


def test_what_is_clamped_must_be_there() -> None:
    rule = en.MaximumLikelihood(restricted(3, 2))
    with pytest.raises(en.StateError, match="no variable 'x'"):
        rule(x=torch.zeros(1, 3, dtype=F64))
    with pytest.raises(en.StateError, match="given 'u' is no variable"):
        en.MaximumLikelihood(restricted(3, 2), given=("u",))
    with pytest.raises(NotImplementedError, match="evaluate"):
        rule.value(rule.phases())
