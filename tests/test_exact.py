"""Enumeration against numpy sums over all states, and against closed forms."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from helpers.discrete import F64, boltzmann, dense, every_state, noise, other, restricted, torus
from helpers.functional import Functional, central_difference

MODELS = {
    "bits": lambda: dense(en.Bit(4)),
    "spins": lambda: dense(en.Spin(5), own=True),
    "two variables": lambda: restricted(en.Spin(3), en.Bit(2)),
    "torus": lambda: torus(3, 3),
    "quartic": lambda: other("quartic", en.Spin),
    "threshold": lambda: other("threshold", en.Bit),
    "untraceable": lambda: other("untraceable", en.Spin),
}


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_sum_over_all_states(model: str, temperature: float) -> None:
    energy = MODELS[model]()
    state = every_state(energy)
    energies = energy.energy(**state).detach().numpy()
    expected = np.log(np.exp(-energies / temperature).sum())
    total = en.exact.log_partition(energy, temperature=temperature)
    assert total.tolist() == pytest.approx([expected], abs=1e-12)
    found = en.exact.distribution(energy, temperature=temperature)
    for name, value in state.items():
        assert torch.equal(found.states[name], value)
    weights = boltzmann(energies, temperature)
    assert found.probabilities.detach().numpy() == pytest.approx(weights[None], abs=1e-14)
    assert found.log_partition.tolist() == total.tolist()
    moments = en.exact.moments(energy, temperature=temperature)
    for name, value in state.items():
        mean = np.tensordot(weights, value.numpy(), 1)
        assert moments.mean[name].detach()[0].numpy() == pytest.approx(mean, abs=1e-12)
        high = (value == energy.variables[name].high).double().numpy()
        assert moments.marginals[name].detach()[0].numpy() == pytest.approx(
            np.tensordot(weights, high, 1), abs=1e-12
        )
        for other_name, second in state.items():
            pairs = np.tensordot(
                value.numpy() * weights.reshape(-1, *[1] * (value.ndim - 1)), second.numpy(), (0, 0)
            )
            assert moments.second[name, other_name].detach()[0].numpy() == pytest.approx(pairs, abs=1e-12)


def test_independent_units_have_a_closed_form() -> None:
    field = noise(6, seed=2)
    for kind, log_z, mean in (
        (en.Bit, (1 + field.exp()).log().sum(), field.sigmoid()),
        (en.Spin, (2 * field.cosh()).log().sum(), field.tanh()),
    ):
        energy = en.terms.Field(s=kind(6)).double()
        with torch.no_grad():
            energy.bias.copy_(field)
        found = en.exact.moments(energy)
        assert torch.allclose(found.log_partition, log_z)
        assert torch.allclose(found.mean["s"], mean)


@pytest.mark.parametrize(("n", "coupling", "field"), [(3, 0.4, 0.0), (10, 0.7, 0.3), (12, -0.5, 0.2)])
def test_the_ising_ring_is_the_trace_of_the_transfer_matrix(n: int, coupling: float, field: float) -> None:
    """Z = trace of T^n, T(s, t) = exp(J s t + h (s + t) / 2) (Kramers and Wannier 1941)."""
    spins = np.array([1.0, -1.0])
    transfer = np.exp(coupling * np.outer(spins, spins) + field * (spins[:, None] + spins) / 2)
    expected = np.log((np.linalg.eigvalsh(transfer) ** n).sum())
    energy = torus(n, coupling=coupling, field=field)
    assert en.exact.log_partition(energy).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cut", [1, 7, 2**20])
def test_the_gradient_is_the_mean_of_minus_the_energys(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of log Z, by finite differences and as an expectation, whatever the states are cut into."""
    monkeypatch.setattr("energynet.exact._ENTRIES", cut)
    energy = dense(en.Spin(4))
    en.exact.log_partition(energy, temperature=0.7).sum().backward()
    for parameter in energy.parameters():
        slope = central_difference(
            lambda: en.exact.log_partition(energy, temperature=0.7).item(), parameter.data
        )
        assert torch.allclose(parameter.grad, slope, atol=1e-8)  # type: ignore[arg-type]
    moments = en.exact.moments(energy, temperature=0.7)
    assert torch.allclose(energy.W.grad, 0.5 * moments.second["s", "s"][0] / 0.7, atol=1e-12)
    assert torch.allclose(energy.b.grad, moments.mean["s"][0] / 0.7, atol=1e-12)


def test_the_gradient_of_a_mean_is_a_covariance() -> None:
    """d E[s_i] / d b_j = Cov(s_i, s_j): gradients flow through the moments and the probabilities too."""
    energy = dense(en.Spin(4))
    moments = en.exact.moments(energy)
    mean = moments.mean["s"][0]
    slope = torch.autograd.grad(mean[1], energy.b, retain_graph=True)[0]
    covariance = moments.second["s", "s"][0] - torch.outer(mean, mean)
    assert torch.allclose(slope, covariance[1], atol=1e-12)
    found = en.exact.distribution(energy)
    again = (found.probabilities[0] @ found.states["s"])[1]
    assert torch.allclose(torch.autograd.grad(again, energy.b)[0], covariance[1], atol=1e-12)


def test_gradients_reach_the_clamp() -> None:
    """d log Z(v) / d v of a restricted machine is the mean of minus the energy's slope, W E[h] + b."""
    energy = restricted(en.Real(3), en.Bit(2))
    v = noise(4, 3, seed=8).requires_grad_()
    en.exact.log_partition(energy, clamp={"v": v}).sum().backward()
    mean = (v @ energy.W + energy.c).sigmoid()
    assert torch.allclose(v.grad, mean @ energy.W.T + energy.b)  # type: ignore[arg-type]


def test_clamps_give_one_answer_for_each_sample() -> None:
    """With the visible units held, log Z is minus the free energy, in closed form."""
    energy = restricted(en.Spin(3), en.Bit(4))
    v = every_state(energy, ["v"])["v"]
    free = v @ energy.b + (1 + (v @ energy.W + energy.c).exp()).log().sum(1)
    found = en.exact.moments(energy, clamp={"v": v})
    assert torch.allclose(found.log_partition, free)
    assert torch.allclose(found.mean["h"], (v @ energy.W + energy.c).sigmoid())
    assert set(found.mean) == {"h"}
    whole = en.exact.log_partition(energy)
    assert torch.allclose(free.logsumexp(0), whole)
    assert torch.allclose(en.exact.distribution(energy.condition(v=v)).log_partition, free)


@cache
def machine() -> Functional:
    return restricted(en.Spin(3), en.Bit(3), seed=4)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_partial_clamps_sum_over_what_they_allow(seed: int) -> None:
    energy = machine()
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(0, 2, (4, 3), generator=generator).double() * 2 - 1
    mask = torch.rand(4, 3, generator=generator) < 0.5
    states = every_state(energy)
    energies = energy.energy(**states).detach().numpy()
    clamp = {"v": en.Partial(value.where(mask, torch.tensor(torch.nan, dtype=F64)), mask)}
    moments = en.exact.moments(energy, clamp=clamp)
    found = en.exact.distribution(energy, clamp=clamp)
    total = en.exact.log_partition(energy, clamp=clamp)
    for i in range(4):
        allowed = ((states["v"] == value[i]) | ~mask[i]).all(1).numpy()
        weights = np.exp(-energies) * allowed
        assert total[i].item() == pytest.approx(np.log(weights.sum()), abs=1e-12)
        weights /= weights.sum()
        assert found.probabilities[i].detach().numpy() == pytest.approx(weights, abs=1e-14)
        assert moments.mean["v"][i].detach().numpy() == pytest.approx(
            weights @ states["v"].numpy(), abs=1e-12
        )
        pairs = np.einsum("s,si,sj->ij", weights, states["v"].numpy(), states["h"].numpy())
        assert moments.second["v", "h"][i].detach().numpy() == pytest.approx(pairs, abs=1e-12)


def test_units_that_all_samples_hold_are_not_counted() -> None:
    energy = en.terms.Field(s=en.Bit(30)).double()
    with torch.no_grad():
        energy.bias.copy_(noise(30))
    mask = torch.arange(30) >= 3
    clamp = {"s": en.Partial(torch.zeros(2, 30, dtype=F64), mask)}
    expected = (1 + energy.bias[:3].exp()).log().sum()
    assert torch.allclose(en.exact.log_partition(energy, clamp=clamp), expected.expand(2))
    with pytest.raises(en.SettlingError, match=r"30 free units.*AnnealedImportanceSampling"):
        en.exact.distribution(energy, clamp=clamp)


def test_a_model_without_free_units_has_one_state() -> None:
    energy = dense(en.Spin(3))
    s = every_state(energy)["s"]
    assert torch.allclose(
        en.exact.log_partition(energy, clamp={"s": s}, temperature=2.0), -energy.energy(s=s) / 2
    )
    assert en.exact.distribution(energy, clamp={"s": s}).probabilities.tolist() == [[1.0]] * 8
    assert en.exact.moments(energy, clamp={"s": s}).mean == {}


def test_variables_of_any_shape_keep_it() -> None:
    def function(e: Any, s: Tensor, t: Tensor) -> Tensor:
        return s * t.sum((1, 2))

    energy = Functional(function, {}, s=en.Spin(), t=en.Bit(2, 1))
    found = en.exact.distribution(energy)
    assert found.states["s"].shape == (8,)
    assert found.states["t"].shape == (8, 2, 1)
    moments = en.exact.moments(energy)
    assert moments.mean["s"].shape == (1,)
    assert moments.second["s", "t"].shape == (1, 2, 1)
    assert moments.second["t", "t"].shape == (1, 2, 1, 2, 1)
    sums = [np.exp(-s * (a + b)) for s, a, b in itertools.product((-1, 1), (0, 1), (0, 1))]
    assert moments.log_partition.item() == pytest.approx(np.log(sum(sums)), rel=1e-6)


def test_what_cannot_be_enumerated_is_refused() -> None:
    with pytest.raises(
        en.SettlingError, match=r"21 free units.*2\*\*20.*clamp some.*AnnealedImportanceSampling"
    ):
        en.exact.log_partition(en.terms.Field(s=en.Bit(21)))
    with pytest.raises(en.SettlingError, match=r"'h' is Real\(2\): clamp it"):
        en.exact.moments(restricted(en.Bit(2), en.Real(2)))
    for temperature in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            en.exact.log_partition(dense(en.Bit(2)), temperature=temperature)


@pytest.mark.parametrize("bad", ["shape", "domain", "name", "dtype", "batch"])
def test_clamps_are_checked_as_in_settling(bad: str) -> None:
    energy = restricted(en.Spin(2), en.Bit(2))
    ones = torch.ones(3, 2, dtype=F64)
    clamp = {
        "shape": {"v": torch.ones(3, 4, dtype=F64)},
        "domain": {"v": 0 * ones},
        "name": {"w": ones},
        "dtype": {"v": ones.float()},
        "batch": {"v": ones, "h": en.Partial(ones[:2], torch.tensor([True, False]))},
    }[bad]
    with pytest.raises(en.StateError):
        en.exact.log_partition(energy, clamp=clamp)
    with pytest.raises(en.StateError):
        en.settle(energy, clamp=clamp)


def test_no_random_number_is_drawn() -> None:
    before = torch.random.get_rng_state()
    en.exact.distribution(dense(en.Bit(3)))
    assert torch.equal(before, torch.random.get_rng_state())
