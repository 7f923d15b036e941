"""Restricted and conditional machines against their formulas, enumerated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.models.likelihood import Machine
from helpers.machines import BIT, F64, SPIN, joint, normal, pair_energy, randomised, restricted, states

KINDS = [(False, False), (True, False), (False, True), (True, True)]


def ends(spins: tuple[bool, bool]) -> list[tuple[float, float]]:
    return [SPIN if spin else BIT for spin in spins]


@pytest.mark.parametrize("spins", KINDS, ids=str)
@pytest.mark.parametrize("sizes", [(4, 3), (3, 4)], ids=str)
def test_energy_free_energy_and_likelihood_are_those_of_the_formula(
    sizes: tuple[int, int], spins: tuple[bool, bool]
) -> None:
    rbm = restricted(*sizes, spins=spins)
    energies = joint(rbm, ends(spins))
    v, h = (states(n, e) for n, e in zip(sizes, ends(spins), strict=True))
    pairs = {"v": v.repeat_interleave(len(h), 0), "h": h.repeat(len(v), 1)}
    assert torch.allclose(rbm(pairs), energies.flatten(), atol=1e-12)
    marginal = energies.neg().logsumexp(1)
    assert torch.allclose(rbm.free_energy(v), -marginal, atol=1e-12)
    total = energies.neg().logsumexp((0, 1))
    for method in ("exact", None):
        found = rbm.log_partition(method)
        assert torch.allclose(found.log_partition, total, atol=1e-12)
        assert torch.equal(found.standard_error, torch.zeros(1, dtype=F64))
        assert torch.allclose(rbm.log_likelihood(v, method), marginal - total, atol=1e-12)
    assert torch.allclose(en.exact.log_partition(rbm), total, atol=1e-12)


def test_the_smaller_layer_is_enumerated() -> None:
    """2**26 states are too many, 2**6 are not: the log partition of independent columns is known."""
    for sizes in ((20, 6), (6, 20)):
        rbm = restricted(*sizes, scale=0.0)
        with torch.no_grad():
            rbm.visible_bias.copy_(normal(sizes[0]))
            rbm.hidden_bias.copy_(normal(sizes[1], seed=1))
        biases = torch.cat([rbm.visible_bias, rbm.hidden_bias]).detach()
        expected = torch.log1p(biases.exp()).sum()
        assert float(rbm.log_partition("exact").log_partition.detach()) == pytest.approx(float(expected))


def test_gradients_of_free_energy_and_likelihood_are_those_of_the_formula() -> None:
    rbm, v = restricted(4, 3), states(4)[[1, 6, 11]]
    parameters = [rbm.weight, rbm.visible_bias, rbm.hidden_bias]
    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    energies = pair_energy(*leaves)(states(4), states(3))
    rows = pair_energy(*leaves)(v, states(3))
    value = (rows.neg().logsumexp(1) - energies.neg().logsumexp((0, 1))).sum()
    expected = torch.autograd.grad(value, leaves)
    found = torch.autograd.grad(rbm.log_likelihood(v).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("spins", KINDS, ids=str)
def test_pseudo_likelihood_is_the_product_of_conditionals(spins: tuple[bool, bool]) -> None:
    rbm = restricted(4, 3, spins=spins)
    v = states(4, ends(spins)[0])
    law = joint(rbm, ends(spins)).neg().logsumexp(1).softmax(0).reshape(2, 2, 2, 2)
    expected = sum((law / law.sum(unit, keepdim=True)).log() for unit in range(4))
    assert isinstance(expected, Tensor)
    assert torch.allclose(rbm.pseudo_likelihood(v), expected.flatten(), atol=1e-12)
    index = torch.arange(4)
    generic = Machine.flipped(rbm, {"v": v}, index)
    assert torch.allclose(rbm.flipped({"v": v}, index), generic, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    some = torch.stack([rbm.pseudo_likelihood(v, units=1, generator=generator) for _ in range(400)])
    picks = {tuple(row.tolist()) for row in some.detach()}
    assert len(picks) == 4  # each unit has been picked: they miss one with probability 4 * 0.75**400
    assert torch.allclose(torch.tensor(sorted(picks), dtype=F64).mean(0), expected.flatten(), atol=1e-9)


def test_annealed_importance_sampling_meets_enumeration() -> None:
    """Within 6 standard errors, which normal numbers exceed with probability 2e-9."""
    rbm, v = restricted(7, 5), states(7)[:40]
    exact = rbm.log_partition("exact").log_partition
    generator = torch.Generator().manual_seed(0)
    for base in (None, rbm.base_rates(v)):
        found = rbm.log_partition("ais", base=base, steps=100, chains=2000, generator=generator)
        assert 0 < float(found.standard_error) < 0.03
        assert abs(float((found.log_partition - exact).detach())) < 6 * float(found.standard_error)
        likelihood = rbm.log_likelihood(v, partition=found)
        assert torch.allclose(likelihood, -rbm.free_energy(v) - found.log_partition)


@pytest.mark.parametrize("spin", [False, True])
def test_base_rates_are_the_means_of_data(spin: bool) -> None:
    rbm = restricted(4, 3, spins=(spin, spin))
    v = states(4, SPIN if spin else BIT)[[1, 3, 5, 7, 15]]
    base = rbm.base_rates(v)
    found = en.exact.moments(base).marginals
    high = torch.tensor([1.0, 3.0, 3.0, 5.0], dtype=F64)
    assert torch.allclose(found["v"], (high + 1) / 7)
    assert torch.allclose(found["h"], torch.full((1, 3), 0.5, dtype=F64))


def test_a_conditional_machine_is_its_formula() -> None:
    machine = randomised(en.models.ConditionalRBM(3, 2, 4))
    assert isinstance(machine, en.models.ConditionalRBM)
    u, v, h = normal(5, 4), states(3)[:5], states(2)
    a, b = machine.to_visible.weight.detach(), machine.to_hidden.weight.detach()
    for row in range(5):
        weight, bias, hidden = (
            p.detach() for p in (machine.weight, machine.visible_bias, machine.hidden_bias)
        )
        energies = pair_energy(weight, bias + a @ u[row], hidden + b @ u[row])(states(3), h)
        one = u[row : row + 1]
        free = -energies.neg().logsumexp(1)
        assert torch.allclose(machine.free_energy(states(3), u=one.expand(8, 4)), free)
        expected = -free - energies.neg().logsumexp((0, 1))
        assert torch.allclose(machine.log_likelihood(states(3), u=one.expand(8, 4)), expected)
        low = machine({"v": v[row : row + 1], "h": h[1:2], "u": one})
        assert torch.allclose(low, energies[row, 1])
    generator = torch.Generator().manual_seed(1)
    found = machine.log_partition("ais", given={"u": u}, steps=50, chains=1000, generator=generator)
    exact = machine.log_partition(given={"u": u}).log_partition
    assert bool(((found.log_partition - exact).abs() < 6 * found.standard_error).all())


def formula(rbm: en.models.RestrictedBoltzmannMachine, v: Tensor, h: Tensor) -> Tensor:
    """E of every pair of rows, by the parameters."""
    weight, bias, hidden = (
        p.detach().reshape(p.shape[0], -1) for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias)
    )
    return pair_energy(weight, bias.flatten(), hidden.flatten())(v, h)


def test_normal_visible_units_have_the_density_that_quadrature_finds() -> None:
    rbm = randomised(en.models.RestrictedBoltzmannMachine(2, 3, visible=en.Real(2)), 0.7)
    assert isinstance(rbm, en.models.RestrictedBoltzmannMachine)
    line = torch.linspace(-12, 12, 481, dtype=F64)
    v = torch.cartesian_prod(line, line)
    energies = formula(rbm, v, states(3)) + 0.5 * v.square().sum(1, keepdim=True)
    assert torch.allclose(rbm.free_energy(v), -energies.neg().logsumexp(1), atol=1e-10)
    step = float(line[1] - line[0])  # the trapezoidal rule of what is analytic and vanishes at the ends
    total = energies.neg().logsumexp((0, 1)) + 2 * math.log(step)
    assert torch.allclose(rbm.log_partition().log_partition, total, atol=1e-9)
    assert float(rbm.log_likelihood(v).exp().sum().detach()) * step**2 == pytest.approx(1.0, abs=1e-9)
    found = rbm.log_partition("ais", steps=200, chains=2000, generator=torch.Generator().manual_seed(0))
    assert abs(float((found.log_partition - total).detach())) < 6 * float(found.standard_error)
    with pytest.raises(en.StateError, match="bits or spins"):
        rbm.pseudo_likelihood(v)
    with pytest.raises(en.StateError, match="leave base= out"):
        rbm.base_rates(v)


@pytest.mark.parametrize("hidden", [None, en.OneHot(1, 3)], ids=str)
def test_softmax_visible_units_by_enumeration(hidden: en.Variable | None) -> None:
    rbm = randomised(en.models.RestrictedBoltzmannMachine(6, 3, visible=en.OneHot(2, 3), hidden=hidden))
    assert isinstance(rbm, en.models.RestrictedBoltzmannMachine)
    eye = torch.eye(3, dtype=F64)
    v = torch.stack([torch.stack([a, b]) for a in eye for b in eye])
    h = states(3) if hidden is None else eye
    energies = formula(rbm, v.flatten(1), h)
    marginal, total = energies.neg().logsumexp(1), energies.neg().logsumexp((0, 1))
    assert torch.allclose(rbm.free_energy(v), -marginal, atol=1e-12)
    assert torch.allclose(rbm.log_likelihood(v), marginal - total, atol=1e-12)
    assert torch.allclose(en.exact.log_partition(rbm), total, atol=1e-12)
    found = rbm.log_partition("ais", steps=100, chains=2000, generator=torch.Generator().manual_seed(0))
    assert abs(float((found.log_partition - total).detach())) < 6 * float(found.standard_error)


def test_what_does_not_fit_is_told() -> None:
    rbm = restricted(4, 3)
    with pytest.raises(ValueError, match="4 units"):
        en.models.RestrictedBoltzmannMachine(4, 3, en.Bit(5))
    with pytest.raises(ValueError, match="Real"):
        en.models.RestrictedBoltzmannMachine(4, 3, hidden=en.Real(3))
    with pytest.raises(ValueError, match="without a link"):
        en.models.RestrictedBoltzmannMachine(4, 3, visible=en.Real(4, link=en.Tanh()))
    with pytest.raises(ValueError, match=r'"exact", "ais" or None'):
        rbm.log_partition("annealed")
    with pytest.raises(en.StateError, match="only the values 0 and 1"):
        rbm.free_energy(torch.full((1, 4), 0.5, dtype=F64))
    with pytest.raises(en.StateError, match="pass u="):
        randomised(en.models.ConditionalRBM(4, 3, 2)).log_likelihood(states(4))  # type: ignore[attr-defined]
    big = en.models.RestrictedBoltzmannMachine(30, 25)
    with pytest.raises(en.SettlingError, match="AnnealedImportanceSampling"):
        big.log_partition("exact")
    assert math.isfinite(float(big.log_partition(steps=2, chains=3).standard_error))  # not exact of itself
