"""The deep Boltzmann machine against its definition and enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.models.likelihood import LogPartition

F64 = torch.float64
SIZES = (5, 4, 3, 2)
ERRORS = 5.5  # two-sided normal: a false alarm in 4e-8


def machine(
    scale: float = 0.8, seed: int = 0, sizes: tuple[int, ...] = SIZES
) -> en.models.DeepBoltzmannMachine:
    made = en.models.DeepBoltzmannMachine(sizes).to(F64)
    draw = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, scale, generator=draw)
    return made


def every(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=F64)


def by_definition(made: en.models.DeepBoltzmannMachine, layers: list[Tensor]) -> Tensor:
    named = dict(made.named_parameters())
    names = ["v", "h1", "h2", "h3"][: len(layers)]
    total = torch.zeros(len(layers[0]), dtype=F64)
    for name, layer in zip(names, layers, strict=True):
        total -= layer @ named[f"fields.{name}.bias"]
    for (low, below), (high, above) in itertools.pairwise(zip(names, layers, strict=True)):
        total -= torch.einsum("bi,ij,bj->b", above, named[f"couplings.{low}_{high}.weight"], below)
    return total.detach()


def log_sums(made: en.models.DeepBoltzmannMachine, v: Tensor) -> Tensor:
    """log sum over all hidden states of exp(-E(v, h)), by its definition."""
    hidden = every(sum(SIZES[1:]))
    found = []
    for sample in v:
        layers = [sample.expand(len(hidden), -1), *hidden.split(SIZES[1:], 1)]
        found.append((-by_definition(made, layers)).logsumexp(0))
    return torch.stack(found)


def known(value: Tensor) -> LogPartition:
    return LogPartition(value.reshape(1), torch.zeros(1, dtype=F64))


def test_the_energy_is_that_of_its_definition() -> None:
    made = machine()
    state = {n: v.initial(6, dtype=F64, device=torch.device("cpu")) for n, v in made.variables.items()}
    assert torch.allclose(made(state), by_definition(made, list(state.values())), rtol=0, atol=1e-12)
    assert list(made.variables) == ["v", "h1", "h2", "h3"]


def test_the_exact_likelihood_is_enumeration_and_sums_to_one() -> None:
    made, v = machine(), every(SIZES[0])
    sums = log_sums(made, v)
    assert torch.allclose(made.free_energy(v), -sums, rtol=0, atol=1e-10)
    found = made.log_likelihood(v, "exact")
    assert torch.allclose(found, sums - sums.logsumexp(0), rtol=0, atol=1e-10)
    assert float(found.exp().sum().detach()) == pytest.approx(1.0, abs=1e-12)


def test_the_bound_is_below_the_likelihood_and_touches_it_without_couplings_above() -> None:
    made, v = machine(), every(SIZES[0])
    partition = log_sums(made, v).logsumexp(0)
    truth = log_sums(made, v) - partition
    assert ((truth - made.log_likelihood(v, "bound", partition=known(partition))) > 0).all()
    with torch.no_grad():
        for name, weight in made.couplings.named_parameters():
            if not name.startswith("v_h1"):
                weight.zero_()
    partition = log_sums(made, v).logsumexp(0)
    truth = log_sums(made, v) - partition
    bound = made.log_likelihood(v, "bound", partition=known(partition))
    assert torch.allclose(bound, truth, rtol=0, atol=1e-5)  # settled to the default tolerance


def test_annealing_finds_both_sums() -> None:
    made, v = machine(), every(SIZES[0])[::7]
    sums = log_sums(made, every(SIZES[0]))
    draw = torch.Generator().manual_seed(0)
    found = made.log_partition("ais", steps=30, chains=1000, generator=draw)
    assert float(found.standard_error) < 0.05
    assert abs(float(found.log_partition - sums.logsumexp(0))) < ERRORS * float(found.standard_error)
    # given log Z, each sample's error is that of its own chains: less than 0.03 at 1000 of them, see below
    ais = made.log_likelihood(
        v, "ais", partition=known(sums.logsumexp(0)), steps=30, chains=1000, generator=draw
    )
    assert float((ais - (sums[::7] - sums.logsumexp(0))).abs().max()) < 0.1
    bound = made.log_likelihood(v, "bound", steps=30, chains=1000, generator=draw)
    assert (bound < ais + 0.3).all()


def test_mean_field_of_second_order_is_nearer_to_the_posterior_of_weak_couplings() -> None:
    made, v = machine(0.25), every(SIZES[0])[::5]
    truth = en.exact.moments(made, clamp={"v": v}).mean
    errors = []
    for order in (1, 2):
        found = made.infer(v, order=order, until=en.Stationary(atol=1e-10)).state
        errors.append(max(float((found[name] - truth[name]).abs().max().detach()) for name in made.hidden))
    assert errors[1] < errors[0] / 3  # errors of the third and of the second order


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two layers"):
        en.models.DeepBoltzmannMachine([5])
    with pytest.raises(ValueError, match="method must be"):
        machine().log_likelihood(every(5), "guess")
    with pytest.raises(en.SettlingError, match="free units have"):
        machine(sizes=(3, 15, 15)).log_likelihood(every(3), "exact")


def gradient(rule: en.LearningRule, v: Tensor) -> dict[str, Tensor]:
    rule.zero_grad()
    rule(v=v).backward()
    return {name: p.grad.clone() for name, p in rule.energy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("order", [1, 2])
def test_the_clamped_phase_is_the_gradient_of_the_settled_free_energy(order: int) -> None:
    """The free phase of two rules with the same seed is the same, so that their difference is the clamped one."""
    made, v = machine(0.4, sizes=(3, 2, 2)), every(3)[:2]
    rule = en.ContrastiveDivergence(
        made,
        clamped=en.MeanField(made, order),
        clamped_steps=100,
        generator=torch.Generator().manual_seed(0),
    )
    found = rule.phases(v=v)
    free = {name: value.detach() for name, value in found[1].solution.state.items()}
    rule.generator = torch.Generator().manual_seed(0)
    whole = gradient(rule, v)
    named = dict(made.named_parameters())
    parameter = named["couplings.h1_h2.weight"]
    (negative,) = torch.autograd.grad(made.energy(**free).mean(), parameter)
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            parameter[1, 1] += step
        settled = made.infer(v, order=order, until=en.Stationary(atol=1e-10))
        values.append(float(settled.energy.mean().detach()))
    slope = (values[0] - values[1]) / 2e-5
    assert float(whole["couplings.h1_h2.weight"][1, 1] + negative[1, 1]) == pytest.approx(slope, abs=1e-5)


def test_the_mean_field_must_be_of_the_same_energy() -> None:
    with pytest.raises(ValueError, match="not of what learns"):
        en.ContrastiveDivergence(machine(), clamped=en.MeanField(machine()))


@pytest.mark.parametrize("method", ["ais", "bound", "exact"])
def test_hidden_units_of_one_layer_are_summed_in_closed_form(method: str) -> None:
    made = machine(sizes=(4, 3))
    v = every(4)
    hidden = every(3)
    energies = torch.stack([by_definition(made, [one.expand(8, -1), hidden]) for one in v])
    sums = energies.neg().logsumexp(1)
    found = made.log_likelihood(v, method, partition=known(sums.logsumexp(0)))
    assert torch.allclose(found, sums - sums.logsumexp(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["ais", "bound", "exact"])
def test_a_likelihood_has_the_dtype_of_the_data(method: str) -> None:
    made = en.models.DeepBoltzmannMachine((3, 2, 2))
    found = made.log_likelihood(
        every(3).float(), method, partition=known(torch.zeros(1, dtype=F64)), steps=2, chains=2
    )
    assert found.dtype == torch.float32


def test_a_weight_that_does_not_learn_has_no_part_in_the_reaction() -> None:
    made, v = machine(0.4, sizes=(3, 2, 2)), every(3)[:2]

    def slopes() -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(0)
        return gradient(en.ContrastiveDivergence(made, clamped=en.MeanField(made, 2), generator=draw), v)

    whole = slopes()
    made.get_parameter("couplings.v_h1.weight").requires_grad_(False).grad = None
    some = slopes()
    assert set(whole) - set(some) == {"couplings.v_h1.weight"}
    assert all(torch.allclose(some[name], whole[name], atol=1e-12) for name in some)
