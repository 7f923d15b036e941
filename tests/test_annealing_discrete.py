"""Annealed importance sampling of discrete variables against enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.annealing import Standard, Uncoupled
from helpers.functional import Functional

F64 = torch.float64
SIGMAS = 5.5  # two-sided normal: a false alarm in 4e-8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(variable: en.Variable, n: int) -> Tensor:
    """All states of n units."""
    return torch.tensor(list(itertools.product((variable.low, variable.high), repeat=n)), dtype=F64)


def machine(e: Any, s: Tensor) -> Tensor:
    return -0.5 * torch.einsum("bi,ij,bj->b", s, e.W, s) - s @ e.bias


def driven(e: Any, s: Tensor, x: Tensor) -> Tensor:
    return machine(e, s) - torch.einsum("bi,ij,bj->b", s, e.V, x)


def couplings(n: int, scale: float, seed: int) -> Tensor:
    raw = scale * torch.randn(n, n, dtype=F64, generator=generator(seed))
    return ((raw + raw.T) / 2).fill_diagonal_(0.0)


def log_partition(energy: en.Energy, variable: en.Variable, n: int, **given: Tensor) -> Tensor:
    """log of the sum over all states, for each sample of what is given."""
    every = states(variable, n)
    count = len(next(iter(given.values()))) if given else 1
    found = []
    for sample in range(count):
        fixed = {name: value[sample : sample + 1].expand(len(every), -1) for name, value in given.items()}
        found.append((-energy.energy(s=every, **fixed)).logsumexp(0))
    return torch.stack(found).detach()


def close(found: en.PartitionEstimate, truth: Tensor, error: float) -> None:
    """Within 5 standard errors, and these are small."""
    assert float(found.standard_error.max()) < error
    assert ((found.log_partition - truth).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize("variable", [en.Bit(5), en.Spin(5)], ids=repr)
def test_the_law_of_uncoupled_units_by_enumeration(variable: en.Variable) -> None:
    """A field that a clamped variable drives, one that is cubic in the values, and a constant."""

    def field(e: Any, s: Tensor, x: Tensor) -> Tensor:
        return 0.7 - torch.einsum("bi,ij,bj->b", s, e.V, x) + (e.bias * (s + 0.3).pow(3)).sum(1)

    tensors = {
        "V": torch.randn(5, 2, dtype=F64, generator=generator(1)),
        "bias": torch.randn(5, dtype=F64, generator=generator(2)),
    }
    energy = Functional(field, tensors, s=variable, x=en.Real(2))
    base = Uncoupled(energy)
    x = torch.randn(3, 2, dtype=F64, generator=generator(3))
    with torch.no_grad():
        found = base.log_partition({"x": x}, torch.zeros(3, dtype=F64))
        assert torch.allclose(found, log_partition(energy, variable, 5, x=x))
        wide = x.repeat_interleave(4000, 0)
        draws = base.draw({"x": wide}, torch.zeros(12_000, dtype=F64), generator())["s"]
        variable.check("s", draws)
        every = states(variable, 5)
        for sample in range(3):
            weight = (-energy.energy(s=every, x=x[sample : sample + 1].expand(32, -1))).softmax(0)
            mean = draws[4000 * sample : 4000 * (sample + 1)].mean(0)
            expected = weight @ every
            spread = (weight @ every.square() - expected.square()).sqrt()
            assert ((mean - expected).abs() < SIGMAS * spread / 4000**0.5).all()


def test_the_law_of_uncoupled_units_of_which_some_are_held() -> None:
    field = en.terms.Field(s=en.Bit(4)).double()
    with torch.no_grad():
        field.bias.copy_(torch.tensor([0.5, -1.0, 2.0, 0.3]))
        mask = torch.tensor([[True, False, False, True], [False] * 4])
        value = torch.tensor([[1.0, 0.0, 0.0, 0.0], [9.0] * 4], dtype=F64)
        found = Uncoupled(field).log_partition({"s": en.Partial(value, mask)}, torch.zeros(2, dtype=F64))
        uniform = Standard({"s": en.Bit(4)}).log_partition(
            {"s": en.Partial(value, mask)}, torch.zeros(2, dtype=F64)
        )
    free = [math.log1p(math.exp(b)) for b in (0.5, -1.0, 2.0, 0.3)]
    assert found.tolist() == pytest.approx([0.5 + free[1] + free[2], sum(free)])
    assert uniform.tolist() == pytest.approx([2 * math.log(2), 4 * math.log(2)])


def test_a_base_with_couplings_is_refused() -> None:
    energy = Functional(machine, {"W": couplings(4, 1.0, 0), "bias": torch.zeros(4, dtype=F64)}, s=en.Spin(4))
    with torch.no_grad(), pytest.raises(ValueError, match="couples its units"):
        Uncoupled(energy).log_partition({}, torch.zeros(1, dtype=F64))


@pytest.mark.parametrize("variable", [en.Bit(8), en.Spin(8)], ids=repr)
def test_a_machine_of_eight_units_by_enumeration(variable: en.Variable) -> None:
    tensors = {
        "W": couplings(8, 0.8, 0),
        "bias": 0.5 * torch.randn(8, dtype=F64, generator=generator(1)),
        "V": torch.randn(8, 2, dtype=F64, generator=generator(2)),
    }
    energy = Functional(driven, tensors, s=variable, x=en.Real(2))
    x = torch.randn(3, 2, dtype=F64, generator=generator(3))
    truth = log_partition(energy, variable, 8, x=x)
    ais = en.AnnealedImportanceSampling(energy, steps=60, chains=400)
    close(ais.estimate({"x": x}, generator=generator()), truth, 0.05)
    every = states(variable, 8)
    exact = []
    for sample in range(3):
        weight = (-energy.energy(s=every, x=x[sample : sample + 1].expand(256, -1))).softmax(0).detach()
        exact.append(every[weight.multinomial(400, replacement=True, generator=generator(5 + sample))])
    close(ais.reverse({"s": torch.cat(exact)}, {"x": x}, generator=generator(9)), truth, 0.1)


def test_an_rbm_from_the_biases_of_its_visible_units() -> None:
    """The usual base (Salakhutdinov and Murray 2008): two variables, of which one base couples none."""

    def rbm(e: Any, v: Tensor, h: Tensor) -> Tensor:
        return -torch.einsum("bi,ij,bj->b", v, e.W, h) - v @ e.a - h @ e.b

    def fields(e: Any, v: Tensor, h: Tensor) -> Tensor:
        return -v @ e.a - 0.0 * h.sum(1)

    tensors = {
        "W": 1.2 * torch.randn(5, 4, dtype=F64, generator=generator(0)),
        "a": torch.randn(5, dtype=F64, generator=generator(1)),
        "b": torch.randn(4, dtype=F64, generator=generator(2)),
    }
    energy = Functional(rbm, tensors, v=en.Bit(5), h=en.Bit(4))
    base = Functional(fields, {"a": tensors["a"]}, v=en.Bit(5), h=en.Bit(4))
    v, h = states(en.Bit(5), 5), states(en.Bit(4), 4)
    every = {"v": v.repeat_interleave(16, 0), "h": h.repeat(32, 1)}
    truth = (-energy.energy(**every)).logsumexp(0, keepdim=True).detach()
    for given in (base, None):
        found = en.AnnealedImportanceSampling(energy, base=given, steps=100, chains=400).estimate(
            generator=generator()
        )
        close(found, truth, 0.05)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_mean_weight_of_few_steps_has_no_bias(steps: int) -> None:
    tensors = {"W": couplings(8, 0.5, 4), "bias": 0.3 * torch.randn(8, dtype=F64, generator=generator(1))}
    energy = Functional(machine, tensors, s=en.Spin(8))
    chains = 20_000
    found = en.AnnealedImportanceSampling(energy, steps=steps, chains=chains).estimate(generator=generator())
    weights = found.log_weights[0].exp()
    ratio = math.exp(float(log_partition(energy, en.Spin(8), 8)) - 8 * math.log(2))
    error = float(weights.std()) / math.sqrt(chains)
    assert error < 0.05 * ratio
    assert abs(float(weights.mean()) - ratio) < SIGMAS * error


def test_reverse_needs_every_free_variable() -> None:
    """A start that is made up would be no sample of the energy, and the estimate no bound."""
    rbm = en.models.RestrictedBoltzmannMachine(4, 3)
    with pytest.raises(en.StateError, match="expected values of v, h, as many"):
        en.AnnealedImportanceSampling(rbm, steps=3).reverse({"v": torch.zeros(5, 4)})
    with pytest.raises(en.StateError, match="expected values of v, as many"):
        en.AnnealedImportanceSampling(rbm, steps=3, summed=("h",)).reverse({"h": torch.zeros(5, 3)})
