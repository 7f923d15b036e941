"""Gaussian dynamic Boltzmann machines against sums over the past, normal densities and autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import energynet as en
from helpers import past as by_definition

F64 = torch.float64
Machine = en.models.GaussianDynamicBoltzmannMachine
NEURAL, SYNAPTIC = (0.3, 0.8), (0.25, 0.5, 0.9)


def values(ticks: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(ticks, n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def machine(n: int = 2, *, temperature: float = 1.0) -> Machine:
    generator = torch.Generator().manual_seed(0)
    delays = torch.randint(1, 4, (n, n), generator=generator)
    model = Machine(n, delays, NEURAL, SYNAPTIC, temperature=temperature, generator=generator).double()
    with torch.no_grad():
        model.log_sigma.copy_(values(1, n, 1)[0] / 2)
    return model


def density(model: Machine, past: Tensor, temperature: float) -> Normal:
    fields = by_definition.field(
        past.tolist(), model.traces.delays.tolist(), SYNAPTIC, NEURAL, "newest", model.b, model.u, model.v
    )
    return Normal(torch.stack(fields), model.log_sigma.exp() * math.sqrt(temperature))


def test_energy_is_minus_log_density_but_for_a_constant() -> None:
    model, past = machine(), values(7, 2)
    model.observe(past)
    x = values(5, 2, 2)
    difference = model({"x": x}) + density(model, past, 1.0).log_prob(x).sum(1)
    assert torch.allclose(difference, difference[:1].expand(5), rtol=0, atol=1e-12)
    en.testing.check_energy(model)


def test_it_settles_at_the_mean_of_the_next_tick() -> None:
    model = machine()
    model.observe(values(7, 2))
    found = en.settle(model, {"x": torch.zeros(1, 2, dtype=F64)}, until=en.Stationary(atol=1e-10))
    assert torch.allclose(found.state["x"][0], model.field(), atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_likelihood_and_learning(temperature: float) -> None:
    model = machine(temperature=temperature)
    sequence = values(9, 2, 3)
    expected = [density(model, sequence[:t], temperature).log_prob(sequence[t]).sum() for t in range(9)]
    found = copy.deepcopy(model).log_likelihood(sequence)
    assert found.tolist() == pytest.approx([e.item() for e in expected], rel=1e-11)

    reference = copy.deepcopy(model)
    optimiser = torch.optim.Adagrad(reference.parameters(), lr=0.05, eps=1e-300)
    expected = []
    for t in range(9):
        optimiser.zero_grad()
        loss = -density(reference, sequence[:t], temperature).log_prob(sequence[t]).sum()
        loss.backward()
        optimiser.step()
        expected.append(-loss.item())
    assert model.learn(sequence, rate=0.05).tolist() == pytest.approx(expected, rel=1e-10)
    for got, want in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-11)


def test_generation_at_temperature_zero_is_the_mean_and_above_has_the_deviation() -> None:
    """4000 draws of two neurons: means and deviations within 5.5 standard errors, one error in 10^6 or less."""
    model, past = machine(), values(7, 2)
    model.observe(past)
    truth = density(model, past, 0.3)
    assert torch.allclose(copy.deepcopy(model).generate(1, temperature=0)[0], truth.mean, rtol=1e-12)
    generator = torch.Generator().manual_seed(4)
    drawn = torch.stack([model._draw(truth.mean, 0.3, generator) for _ in range(4000)]).detach()
    assert bool(((drawn.mean(0) - truth.mean).abs() < 5.5 * truth.stddev / 4000**0.5).all())
    assert bool(((drawn.std(0) / truth.stddev - 1).abs() < 5.5 / 8000**0.5).all())


def test_an_autoregression_is_learned() -> None:
    """x[t] = 0.8 x[t - 1] + 0.3 noise: the likelihood comes within 0.05 nats of that of the truth.

    With a delay of 2 and both decays 1/2, u = v / 2 and v = -0.8 are the truth.
    """
    generator = torch.Generator().manual_seed(5)
    noise = 0.3 * torch.randn(3000, generator=generator, dtype=F64)
    series = [torch.zeros((), dtype=F64)]
    for n in noise:
        series.append(0.8 * series[-1] + n)
    x = torch.stack(series).unsqueeze(1)
    model = Machine(1, 2, [0.5], [0.5], generator=generator).double()
    model.learn(x[:2000], rate=0.1)
    found = model.log_likelihood(x[2000:]).mean().item()
    truth = Normal(0.8 * x[1999:-1], 0.3).log_prob(x[2000:]).mean().item()
    assert truth - 0.05 < found < truth + 0.05
    assert model.log_sigma.exp().item() == pytest.approx(0.3, rel=0.1)
