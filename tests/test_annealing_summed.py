"""Annealed importance sampling with units summed out, against enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import energynet as en

F64 = torch.float64
ERRORS = 5.5  # two-sided normal: a false alarm in 4e-8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(energy: en.Energy, scale: float, seed: int) -> en.Energy:
    draw = generator(seed)
    for parameter in energy.parameters():
        nn.init.normal_(parameter, 0.0, scale, generator=draw)
    return energy.to(F64)


def deep(seed: int = 0, scale: float = 1.0) -> en.Energy:
    """Three layers: spins, bits, bits."""
    v, h, k = en.Spin(4), en.Bit(5), en.Bit(3)
    layers = en.terms.Bilinear("v", "h", v=v, h=h) + en.terms.Bilinear("h", "k", h=h, k=k)
    fields = en.terms.Field(v=v) + en.terms.Field(h=h) + en.terms.Field(k=k)
    return random(layers + fields, scale, seed)


def fields(scale: float = 0.5) -> en.Energy:
    v, h, k = en.Spin(4), en.Bit(5), en.Bit(3)
    return random(en.terms.Field(v=v) + en.terms.Field(h=h) + en.terms.Field(k=k), scale, 9)


def within(found: en.PartitionEstimate, truth: torch.Tensor, error: float) -> None:
    assert float(found.standard_error.max()) < error
    assert ((found.log_partition - truth).abs() < ERRORS * found.standard_error).all()


@pytest.mark.parametrize("summed", [("h",), ("v", "k"), ("v",)], ids=" ".join)
@pytest.mark.parametrize("based", [False, True], ids=["uniform", "fields"])
def test_partition_function_by_enumeration(summed: tuple[str, ...], based: bool) -> None:
    energy = deep()
    truth = en.exact.log_partition(energy)
    annealing = en.AnnealedImportanceSampling(
        energy, base=fields() if based else None, steps=30, chains=1500, summed=summed
    )
    within(annealing.estimate(generator=generator()), truth, 0.05)


@pytest.mark.parametrize("summed", [("h",), ("k",)], ids=" ".join)
def test_given_visible_units_each_sample_has_its_own(summed: tuple[str, ...]) -> None:
    energy = deep(1, 1.5)
    v = torch.tensor([[1, 1, -1, 1], [-1, -1, -1, 1], [1, -1, 1, 1]], dtype=F64)
    truth = en.exact.log_partition(energy, clamp={"v": v})
    annealing = en.AnnealedImportanceSampling(energy, steps=30, chains=2000, summed=summed)
    within(annealing.estimate({"v": v}, generator=generator()), truth, 0.03)


def test_in_reverse_from_exact_samples() -> None:
    energy = deep(2)
    law = en.exact.distribution(energy)
    picks = torch.multinomial(law.probabilities[0], 4000, replacement=True, generator=generator(3))
    samples = {name: value[picks] for name, value in law.states.items() if name != "h"}
    annealing = en.AnnealedImportanceSampling(energy, steps=30, summed=("h",))
    within(annealing.reverse(samples, generator=generator(4)), law.log_partition, 0.03)


def test_one_step_weights_are_the_ratios_of_the_marginals() -> None:
    """Without a move in between, a weight is p(v) / p0(v), the other units summed over."""
    energy, base = deep(5), fields()
    annealing = en.AnnealedImportanceSampling(energy, base=base, steps=1, chains=50, summed=("h",))
    found = annealing.estimate(generator=generator())
    rest = {name: found.state[name][0] for name in ("v", "k")}
    expected = en.exact.log_partition(energy, clamp=rest) - en.exact.log_partition(base, clamp=rest)
    assert torch.allclose(found.log_weights[0], expected, rtol=0, atol=1e-12)
    assert set(found.state) == {"v", "k"}


def test_summing_out_lowers_the_spread_of_the_weights() -> None:
    """The weights of the marginals are conditional expectations of joint ones at a single step (Rao-Blackwell)."""
    energy = deep(6)
    spread = [
        en.AnnealedImportanceSampling(energy, steps=1, chains=20_000, summed=summed)
        .estimate(generator=generator())
        .standard_error
        for summed in ((), ("h",))
    ]
    assert float(spread[1]) < float(spread[0])


def test_units_that_read_each_other_cannot_be_summed_out() -> None:
    annealing = en.AnnealedImportanceSampling(deep(), steps=3, summed=("v", "h"))
    with pytest.raises(en.SettlingError, match="read each other"):
        annealing.estimate()
    coupled = en.terms.Coupling(s=en.Bit(4)) + en.terms.Bilinear("s", "h", s=en.Bit(4), h=en.Bit(2))
    nn.init.ones_(next(coupled.parameters()))
    with pytest.raises(en.SettlingError, match="read each other"):
        en.AnnealedImportanceSampling(coupled, steps=3, summed=("s",)).estimate()


def test_unknown_and_partly_held_names_are_refused() -> None:
    with pytest.raises(en.SettlingError, match="'q', which is not free"):
        en.AnnealedImportanceSampling(deep(), steps=3, summed=("q",)).estimate()
    held = en.Partial(torch.ones(1, 5, dtype=F64), torch.tensor([True, False, False, False, False]))
    with pytest.raises(en.SettlingError, match="a part is held"):
        en.AnnealedImportanceSampling(deep(), steps=3, summed=("h",)).estimate({"h": held})


@pytest.mark.parametrize("sampler", [None, en.HamiltonianMonteCarlo(0.5, 3)], ids=["gibbs", "hmc"])
def test_what_is_left_may_be_normal(sampler: en.Sampler | None) -> None:
    """Integrated out in turn: the normal units leave log sums of exp(c.h + |b + W'h|^2 / 2) over h."""
    machine = en.models.RestrictedBoltzmannMachine(3, 2, visible=en.Real(3))
    random(machine, 0.5, 4)
    weight, b, c = (p.detach() for p in (machine.weight, machine.visible_bias, machine.hidden_bias))
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 2)
    pulled = 0.5 * (b + h @ weight).square().sum(1) + h @ c
    truth = (pulled.logsumexp(0) + 1.5 * math.log(2 * math.pi)).reshape(1)
    annealing = en.AnnealedImportanceSampling(machine, sampler=sampler, steps=20, chains=2000, summed=("h",))
    within(annealing.estimate(generator=generator()), truth, 0.03)


def test_a_place_that_comes_twice_is_no_move() -> None:
    found = [
        en.AnnealedImportanceSampling(deep(), betas=betas, chains=20, summed=("h",))
        .estimate(generator=generator())
        .statistics["flips"]
        for betas in ([0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0, 1.0])
    ]
    assert torch.equal(*found)
    assert float(found[0].mean()) > 0.1


def test_what_is_no_bit_and_no_spin_or_all_that_is_free_is_refused() -> None:
    softmax = en.models.RestrictedBoltzmannMachine(6, 2, visible=en.OneHot(2, 3))
    normal = en.models.RestrictedBoltzmannMachine(3, 2, visible=en.Real(3))
    for machine in (softmax, normal):
        with pytest.raises(en.SettlingError, match="bits and spins alone are summed out"):
            en.AnnealedImportanceSampling(machine, steps=3, summed=("v",)).estimate()
    field = en.terms.Field(s=en.Bit(3))
    with pytest.raises(en.SettlingError, match="nothing is left to anneal"):
        en.AnnealedImportanceSampling(field, steps=3, summed=("s",)).estimate()


@pytest.mark.parametrize("based", [False, True], ids=["uniform", "fields"])
@pytest.mark.parametrize("summed", [("h",), ("k",)], ids=" ".join)
def test_what_is_left_may_be_held_in_part(summed: tuple[str, ...], based: bool) -> None:
    energy = deep(1, 1.2)
    v = torch.tensor([[1, 1, -1, 1], [-1, -1, -1, 1], [1, -1, 1, 1]], dtype=F64)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    clamp = {"v": en.Partial(v, mask)}
    truth = en.exact.log_partition(energy, clamp=clamp)
    annealing = en.AnnealedImportanceSampling(
        energy, base=fields() if based else None, steps=30, chains=2000, summed=summed
    )
    found = annealing.estimate(clamp, generator=generator())
    within(found, truth, 0.04)
    held = mask.unsqueeze(1).expand_as(found.state["v"])
    assert torch.equal(found.state["v"][held], v.unsqueeze(1).expand_as(found.state["v"])[held])
