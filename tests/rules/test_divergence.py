"""Contrastive divergence against enumeration, transition matrices and autograd of the free energy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.rules.kept import Kept
from helpers.machines import (
    BIT,
    F64,
    SPIN,
    frequencies,
    joint,
    normal,
    randomised,
    restricted,
    states,
    surprise,
)

LEVEL = 1e-6  # false alarms of each statistical test


def gradient(rule: en.LearningRule, **data: Tensor) -> dict[str, Tensor]:
    rule.zero_grad()
    rule(**data).backward()
    return {name: p.grad.clone() for name, p in rule.energy.named_parameters() if p.grad is not None}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph(*, hidden_coupled: bool) -> Tensor:
    """Couplings of three visible and two hidden units."""
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[3:, 3:] = hidden_coupled
    return mask


@pytest.mark.parametrize("settings", [{}, {"persistent": True}, {"persistent": True, "chains": 9}], ids=str)
@pytest.mark.parametrize("spins", [(False, False), (True, False), (False, True)], ids=str)
def test_value_and_gradient_are_those_of_the_difference_of_free_energies(
    spins: tuple[bool, bool], settings: dict[str, int]
) -> None:
    rbm = restricted(spins=spins)
    v = states(4, SPIN if spins[0] else BIT)[[0, 3, 5, 9, 14]]
    rule = en.ContrastiveDivergence(rbm, k=2, generator=generator(), **settings)  # type: ignore[arg-type]
    free = en.ContrastiveDivergence(rbm, k=2, generator=generator(), **settings)  # type: ignore[arg-type]
    samples = free.phases(v=v)[1].solution.state["v"]
    value = rbm.free_energy(v).mean() - rbm.free_energy(samples).mean()
    expected = torch.autograd.grad(value, list(rbm.parameters()))
    loss = rule(v=v)
    assert float(loss.detach()) == pytest.approx(float(value.detach()), abs=1e-12)
    found = gradient(en.ContrastiveDivergence(rbm, k=2, generator=generator(), **settings), v=v)  # type: ignore[arg-type]
    for one, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert len(samples) == settings.get("chains", 5)


def transition(rbm: en.models.RestrictedBoltzmannMachine) -> Tensor:
    """The probability of each visible state after one sweep from each: hidden units, then visible ones."""
    weights = joint(rbm, [BIT, BIT]).neg()
    return weights.softmax(1) @ weights.softmax(0).T


@pytest.mark.parametrize("k", [1, 2, 5])
def test_samples_follow_k_sweeps_from_the_data(k: int) -> None:
    rbm, law = restricted(3, 2, scale=1.5), torch.zeros(8, dtype=F64)
    law[[1, 6]] = 0.5
    v = states(3)[[1, 6]].repeat(10_000, 1)
    samples = en.ContrastiveDivergence(rbm, k=k, generator=generator(k)).phases(v=v)[1].solution.state
    expected = law @ torch.linalg.matrix_power(transition(rbm), k)
    assert surprise(frequencies(samples["v"]), expected) > LEVEL
    wrong = law @ torch.linalg.matrix_power(transition(rbm), k + 1)
    if k < 3:  # what the test can tell apart
        assert surprise(frequencies(samples["v"]), wrong) < LEVEL


def test_persistent_chains_go_on_and_reach_the_law_of_the_model() -> None:
    rbm = restricted(3, 2, scale=1.5)
    rule = en.ContrastiveDivergence(rbm, persistent=True, chains=20_000, generator=generator())
    start = torch.zeros(8, dtype=F64)
    start[1] = 1.0
    matrix = transition(rbm)
    for calls in range(1, 41):
        rule(v=states(3)[[1]])
        if calls in (1, 2, 40):
            expected = start @ torch.linalg.matrix_power(matrix, calls)
            counts = frequencies(rule.chains.get()["v"])
            assert surprise(counts, expected) > LEVEL / 3
    law = joint(rbm, [BIT, BIT]).neg().logsumexp(1).softmax(0)
    assert surprise(counts, law) > LEVEL  # forty sweeps have forgotten the start to 1e-3 and less
    assert surprise(counts, start @ matrix) < LEVEL


def exact_gradient(rbm: en.models.RestrictedBoltzmannMachine, law: Tensor, free: Tensor) -> list[Tensor]:
    """Of the difference of mean free energies under two laws of the visible states."""
    value = ((law - free) * rbm.free_energy(states(rbm.visible_bias.numel()))).sum()
    return list(torch.autograd.grad(value, list(rbm.parameters())))


def test_the_bias_of_the_gradient_falls_with_k_and_its_mean_is_that_of_the_sweeps() -> None:
    rbm, law = restricted(3, 2, scale=1.5), torch.zeros(8, dtype=F64)
    law[[1, 6]] = 0.5
    model = joint(rbm, [BIT, BIT]).neg().logsumexp(1).softmax(0)
    exact = exact_gradient(rbm, law, model)
    likelihood = gradient(en.MaximumLikelihood(rbm), v=states(3)[[1, 6]])
    for one, other in zip(exact, likelihood.values(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    v = states(3)[[1, 6]].repeat(20_000, 1)
    biases = []
    for k in (1, 3, 9):
        expected = exact_gradient(rbm, law, law @ torch.linalg.matrix_power(transition(rbm), k))
        found = gradient(en.ContrastiveDivergence(rbm, k=k, generator=generator(k)), v=v)
        for one, other in zip(found.values(), expected, strict=True):
            # an entry is a mean of 40,000 numbers between -1 and 1: Hoeffding, for 11 entries and 3 values of k
            assert float((one - other).abs().max()) < (2 * 17.8 / 40_000) ** 0.5
        biases.append(sum(float((a - b).square().sum()) for a, b in zip(found.values(), exact, strict=True)))
    assert biases[0] > 4 * biases[1] > 16 * biases[2]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("tempered", [False, True])
def test_many_sweeps_give_the_exact_gradient_on_any_graph(coupled: bool, tempered: bool) -> None:
    machine = en.models.BoltzmannMachine(3, 2, mask=graph(hidden_coupled=coupled))
    randomised(machine, 0.8)
    v = states(3)[[1, 6]].repeat(10_000, 1)
    sampler = en.ParallelTempering(en.Gibbs(scan="block"), [1.0, 2.0]) if tempered else None
    rule = en.ContrastiveDivergence(machine, k=20, sampler=sampler, clamped_steps=20, generator=generator())
    found, exact = gradient(rule, v=v), gradient(en.MaximumLikelihood(machine), v=states(3)[[1, 6]])
    for name, one in found.items():
        # two means of 20,000 products of bits; Hoeffding, for 30 entries at 1e-6
        assert float((one - exact[name]).abs().max()) < 2 * (2 * 17.3 / 20_000) ** 0.5 / 2
    norm = sum(float(g.square().sum()) for g in exact.values()) ** 0.5
    assert norm > 0.3  # zero would not pass


def test_a_machine_without_hidden_units_learns_from_the_data_as_they_are() -> None:
    machine = en.models.BoltzmannMachine(4)
    randomised(machine, 0.5)
    v = states(4)[[1, 6, 7, 8]]
    rule = en.ContrastiveDivergence(machine, generator=generator())
    phases = rule.phases(v=v)
    clamped, free = (phase.solution for phase in phases)
    assert torch.equal(clamped.state["v"], v)
    samples = free.state["v"]
    value = machine.energy(v=v).mean() - machine.energy(v=samples).mean()
    found = gradient(en.ContrastiveDivergence(machine, generator=generator()), v=v)
    for one, other in zip(
        found.values(), torch.autograd.grad(value, list(machine.parameters())), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)
    assert float(rule.value(phases).detach()) == pytest.approx(float(value.detach()), abs=1e-12)


def test_conditions_are_held_in_both_phases() -> None:
    machine = randomised(en.models.ConditionalRBM(3, 2, 2))
    assert isinstance(machine, en.models.ConditionalRBM)
    u = normal(2, 2).repeat(10_000, 1)
    v = states(3)[[1, 6]].repeat(10_000, 1)
    rule = en.ContrastiveDivergence(machine, k=30, given="u", generator=generator())
    clamped, free = (phase.solution.state for phase in rule.phases(v=v, u=u))
    assert clamped["u"] is free["u"]
    found = gradient(rule, v=v, u=u)
    exact = gradient(en.MaximumLikelihood(machine, given="u"), v=v[:2], u=u[:2])
    value = -machine.log_likelihood(v[:2], u=u[:2]).mean()
    slopes = torch.autograd.grad(value, list(machine.parameters()))
    for (name, one), other in zip(exact.items(), slopes, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
        scale = max(1.0, float(u.abs().max()))
        assert float((found[name] - one).abs().max()) < scale * (2 * 17.0 / 20_000) ** 0.5


def test_normal_and_softmax_visible_units_learn_by_the_gradient_of_the_likelihood() -> None:
    """Many sweeps against autograd of the exact log-likelihood."""
    eye = torch.eye(3, dtype=F64)
    for visible, v in (
        (en.Real(3), normal(2, 3, seed=4)),
        (en.OneHot(1, 3), eye[[0, 2]].unsqueeze(1)),
    ):
        rbm = randomised(en.models.RestrictedBoltzmannMachine(3, 2, visible=visible), 0.7)
        assert isinstance(rbm, en.models.RestrictedBoltzmannMachine)
        data = v.repeat(10_000, *[1] * (v.ndim - 1))
        rule = en.ContrastiveDivergence(rbm, k=25, generator=generator())
        value = -rbm.log_likelihood(v).mean()
        expected = torch.autograd.grad(value, list(rbm.parameters()))
        samples = rule.phases(v=data)[1].solution.state
        assert not torch.equal(samples["v"], data)
        spread = float(samples["v"].std(0).max())
        for one, other in zip(gradient(rule, v=data).values(), expected, strict=True):
            # a mean of 20,000 products whose spread is at most that of v; 6 of its deviations
            assert float((one - other).abs().max()) < 6 * max(spread, 0.5) / 20_000**0.5
        assert max(float(g.abs().max()) for g in expected) > 0.1


def test_data_may_be_means_of_bits() -> None:
    """The clamped phase is at sigmoid(c + W v) whatever v; chains start from bits with these means."""
    rbm = restricted(4, 3)
    grey = torch.rand(6, 4, dtype=F64, generator=generator())
    clamped, free = (
        p.solution.state for p in en.ContrastiveDivergence(rbm, generator=generator()).phases(v=grey)
    )
    assert torch.equal(clamped["v"], grey)
    expected = torch.sigmoid(grey @ rbm.weight.T + rbm.hidden_bias)
    assert torch.allclose(clamped["h"], expected)
    assert set(free["v"].unique().tolist()) <= {0.0, 1.0}
    machine = en.models.BoltzmannMachine(3, 2, mask=graph(hidden_coupled=False)).double()
    v = torch.tensor([[0.25, 1.0, 0.0]], dtype=F64).repeat(20_000, 1)
    rule = en.ContrastiveDivergence(machine, persistent=True, generator=generator())
    rule(v=v)  # all couplings are zero: after a sweep every state is as likely
    assert surprise(frequencies(rule.chains.get()["v"]), torch.ones(8, dtype=F64)) > LEVEL
    with pytest.raises(en.StateError, match="from 0 to 2"):
        rule(v=2 * states(3))


@pytest.mark.parametrize("tempered", [False, True])
def test_persistent_learning_resumes_bit_for_bit(tempered: bool) -> None:
    v = states(4)[[1, 6, 7, 8]]

    def made(seed: int) -> tuple[en.ContrastiveDivergence, torch.optim.Optimizer, torch.Generator]:
        source = generator(seed)
        sampler = en.ParallelTempering(en.Gibbs(scan="block"), [1.0, 1.5, 2.0]) if tempered else None
        rule = en.ContrastiveDivergence(
            restricted(), persistent=True, sampler=sampler, centring=0.1, generator=source
        )
        return rule, torch.optim.SGD(rule.parameters(), 0.3), source

    def steps(rule: en.ContrastiveDivergence, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            rule(v=v).backward()
            optimiser.step()

    whole, optimiser, source = made(0)
    steps(whole, optimiser, 3)
    state, noise = {n: t.clone() for n, t in whole.state_dict().items()}, source.get_state()
    steps(whole, optimiser, 3)
    again, optimiser, source = made(1)
    again.load_state_dict(state)
    source.set_state(noise)
    steps(again, optimiser, 3)
    assert {n for n in state if not n.startswith("energy")} > {"chains.v", "chains.h", "centring.offsets.v"}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_without_gradients_chains_stay() -> None:
    rule = en.ContrastiveDivergence(restricted(), persistent=True, generator=generator())
    v = states(4)[[1, 6]]
    rule(v=v)
    before = {name: value.clone() for name, value in rule.chains.get().items()}
    with torch.no_grad():
        rule(v=v)
    assert all(torch.equal(value, before[name]) for name, value in rule.chains.get().items())


def test_replicas_of_tempering_persist() -> None:
    """They are kept from call to call: the hot ones go on from where they were."""
    temperatures = [1.0, 1.5, 3.0]
    rule = en.ContrastiveDivergence(
        restricted(3, 2, scale=1.5), k=1, persistent=True, chains=10_000, generator=generator(),
        sampler=en.ParallelTempering(en.Gibbs(scan="block"), temperatures),
    )  # fmt: skip
    for _ in range(30):
        rule(v=states(3)[[1]])
    kept = rule.chains.get()
    energies = joint(restricted(3, 2, scale=1.5), [BIT, BIT])
    for place, temperature in enumerate(temperatures):
        v = kept["v"] if place == 0 else kept["other v"][:, place - 1]
        law = (-energies / temperature).logsumexp(1).softmax(0)
        assert surprise(frequencies(v), law) > LEVEL / 3
    assert int(kept["attempts"][0]) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be a whole number"),
        ({"chains": 0}, "chains must be a whole number"),
        ({"given": "x"}, "no variable of the energy"),
        ({"given": "v", "persistent": True}, "persistent chains are of one law"),
        ({"given": "v", "chains": 3}, "leave out chains"),
        ({"centring": 1.5}, "up to 1"),
        ({"sampler": en.Gibbs}, "sampler must be an instance"),
        ({"clamped": en.MeanField}, r"such as MeanField\(energy\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        en.ContrastiveDivergence(restricted(), **settings)  # type: ignore[arg-type]


def test_what_a_law_is_conditional_on_has_to_be_given() -> None:
    with pytest.raises(en.StateError, match=r"conditional on 'u'; pass given=\('u',\)"):
        en.ContrastiveDivergence(en.models.ConditionalRBM(3, 2, 4))


def test_data_go_by_name() -> None:
    with pytest.raises(TypeError, match=r"which are v, h; .*rule\(v=\.\.\.\)"):
        en.ContrastiveDivergence(restricted())(states(4))
    with pytest.raises(TypeError, match="expected an energy first, got Linear"):
        en.ContrastiveDivergence(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_data_that_teach_nothing_are_refused() -> None:
    rule = en.ContrastiveDivergence(restricted())
    with pytest.raises(en.StateError, match="pass what is to be learnt"):
        rule()
    with pytest.raises(en.StateError, match="no variable 'x'"):
        rule(x=states(4))
    with pytest.raises(en.StateError, match=r"\(batch, 4\)"):
        rule(v=states(3))
    with pytest.raises(en.StateError, match="dtype"):
        rule(v=states(4).float())
    with pytest.raises(en.StateError, match="pass what is to be learnt"):
        en.MaximumLikelihood(restricted())()


@pytest.mark.parametrize("spins", [False, True])
def test_the_value_of_a_settled_clamped_phase_is_the_energy_less_the_entropy_of_the_hidden_means(
    spins: bool,
) -> None:
    """Data that are means have an entropy of their own, which is no part of their free energy."""
    machine = en.models.BoltzmannMachine(3, 2, mask=graph(hidden_coupled=True), spins=spins)
    randomised(machine, 0.5)
    grey = torch.rand(6, 3, dtype=F64, generator=generator(1))
    v = 2 * grey - 1 if spins else grey
    rule = en.ContrastiveDivergence(machine, clamped=en.MeanField(machine), generator=generator())
    phases = rule.phases(v=v)
    clamped, free = (phase.solution.state for phase in phases)
    high = (clamped["h"] + 1) / 2 if spins else clamped["h"]
    disorder = torch.special.entr(high) + torch.special.entr(1 - high)
    data = machine.energy(**clamped) - disorder.sum(1)
    expected = data.mean() - machine.energy(**free).mean()
    assert float(rule.value(phases).detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    assert float(disorder.min().detach()) > 0.01


def test_what_is_kept_comes_to_the_device_of_the_data() -> None:
    """Checkpoints are read on the CPU; the meta device stands for any other."""
    kept = Kept()
    kept.load_state_dict({"v": torch.ones(2, 3), "attempts": torch.zeros(2, dtype=torch.int64)})
    found = kept.get(torch.device("meta"))
    assert {name: (value.device.type, value.dtype) for name, value in found.items()} == {
        "v": ("meta", torch.float32),
        "attempts": ("meta", torch.int64),
    }
    assert torch.equal(kept.get()["v"], torch.ones(2, 3))


def test_weight_decay_of_the_optimiser_is_added_to_the_gradient_of_the_free_energies() -> None:
    """A step is w - rate (slope + decay w), the slope by autograd of the free energies; biases do not decay."""
    v, rate, decay = states(4)[[0, 3, 5, 9, 14]], 0.5, 0.3
    rbm, twin = restricted(), restricted()
    samples = en.ContrastiveDivergence(twin, generator=generator()).phases(v=v)[1].solution.state["v"]
    parameters = [twin.weight, twin.visible_bias, twin.hidden_bias]
    slopes = torch.autograd.grad(twin.free_energy(v).mean() - twin.free_energy(samples).mean(), parameters)
    groups = [
        {"params": [rbm.weight], "weight_decay": decay},
        {"params": [rbm.visible_bias, rbm.hidden_bias]},
    ]
    optimiser = torch.optim.SGD(groups, lr=rate)
    en.ContrastiveDivergence(rbm, generator=generator())(v=v).backward()
    optimiser.step()
    for new, old, slope, part in zip(
        (rbm.weight, rbm.visible_bias, rbm.hidden_bias), parameters, slopes, (decay, 0.0, 0.0), strict=True
    ):
        assert torch.allclose(new, old - rate * (slope + part * old), rtol=0, atol=1e-13)
