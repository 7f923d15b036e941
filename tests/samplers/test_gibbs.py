"""Gibbs sampling: its transition matrix by enumeration, and its samples against the exact distribution."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from torch import Tensor

import energynet as en
from energynet.samplers.noise import Tape, uniform
from helpers.discrete import F64, every_state, noise, numbers, other
from helpers.functional import Functional
from helpers.host import no_question
from helpers.transitions import (
    CHAINS,
    FALSE_ALARM,
    assert_distributed,
    eight,
    model,
    product,
    reversible,
    single_updates,
    sweep_matrix,
)

MODELS = ["spins", "bits", "two variables", "chain", "quartic", "threshold"]


@pytest.mark.parametrize("name", MODELS)
def test_a_systematic_sweep_is_the_product_of_single_updates(name: str) -> None:
    matrices, distribution = single_updates(model(name), 0.8)
    for matrix in matrices:
        assert reversible(matrix, distribution) < 1e-15
    found = sweep_matrix(model(name), en.Gibbs(), 0.8, matrices, [None])
    assert found == pytest.approx(product(matrices, [0, 1, 2]), abs=1e-12)
    assert distribution @ found == pytest.approx(distribution, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "order"),
    [("spins", [0, 1, 2]), ("two variables", [0, 1, 2]), ("chain", [0, 2, 1]), ("quartic", [0, 1, 2])],
)
def test_a_block_sweep_is_the_product_over_the_colours(name: str, order: list[int]) -> None:
    matrices, distribution = single_updates(model(name), 1.0)
    found = sweep_matrix(model(name), en.Gibbs(scan="block"), 1.0, matrices, [None])
    assert found == pytest.approx(product(matrices, order), abs=1e-12)
    assert distribution @ found == pytest.approx(distribution, abs=1e-12)


@pytest.mark.parametrize("name", ["spins", "two variables", "threshold"])
def test_random_scan_is_reversible(name: str) -> None:
    """A sweep is the third power of drawing one of the three units, whichever, anew."""
    matrices, distribution = single_updates(model(name), 1.2)
    picks = [torch.tensor(p, dtype=F64) for p in itertools.product((1 / 6, 1 / 2, 5 / 6), repeat=3)]
    found = sweep_matrix(model(name), en.Gibbs(scan="random"), 1.2, matrices, list(picks))
    assert found == pytest.approx(np.linalg.matrix_power(sum(matrices) / 3, 3), abs=1e-12)
    assert reversible(found, distribution) < 1e-12


@pytest.mark.parametrize(
    ("kind", "scan", "temperature"),
    [
        ("spins", "systematic", 1.0), ("bits", "systematic", 0.7), ("two variables", "systematic", 1.0),
        ("spins", "random", 1.3), ("bits", "random", 1.0), ("two variables", "random", 1.0),
        ("spins", "block", 1.0), ("bits", "block", 1.0), ("two variables", "block", 2.0), ("ring", "block", 1.0),
        ("ring", "systematic", 1.0),
    ],
)  # fmt: skip
def test_samples_are_distributed_as_enumeration_says(kind: str, scan: str, temperature: float) -> None:
    energy = eight(kind)
    start = {n: torch.full((CHAINS, *v.shape), v.high, dtype=F64) for n, v in energy.variables.items()}
    generator = torch.Generator().manual_seed(11)
    solver = en.Gibbs(temperature, scan)
    solution = en.settle(energy, start, solver=solver, max_steps=40, generator=generator)
    assert set(solution.steps.tolist()) == {40}
    assert_distributed(energy, solution.state, temperature)


def test_the_statistical_test_can_fail() -> None:
    energy = eight("spins")
    start = {"s": torch.ones(CHAINS, 8, dtype=F64)}
    solution = en.settle(
        energy, start, solver=en.Gibbs(), max_steps=40, generator=torch.Generator().manual_seed(1)
    )
    with pytest.raises(AssertionError):
        assert_distributed(energy, solution.state, 0.9)


@pytest.mark.parametrize("scan", ["systematic", "random", "block"])
def test_held_units_stay_and_the_others_are_drawn_given_them(scan: str) -> None:
    energy = eight("spins")
    value = noise(8, seed=3).sign().expand(CHAINS, 8)
    mask = torch.tensor([True, False, False, True, False, True, False, False])
    solution = en.settle(
        energy, {"s": -value}, clamp={"s": en.Partial(value, mask)}, solver=en.Gibbs(scan=scan), max_steps=40,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    s = solution.state["s"]
    assert torch.equal(s[:, mask], value[:, mask])
    states = every_state(energy)["s"]
    allowed = (states == value[0])[:, mask].all(1).numpy()
    weights = np.exp(-energy.energy(s=states).detach().numpy()) * allowed
    found = np.bincount(numbers(energy, solution.state), minlength=256)
    expected = weights / weights.sum() * CHAINS
    statistic = ((found - expected)[allowed] ** 2 / expected[allowed]).sum()
    assert statistic < chi2.isf(FALSE_ALARM, allowed.sum() - 1)


@pytest.mark.parametrize("scan", ["systematic", "random", "block"])
@pytest.mark.parametrize("kind", ["spins", "two variables"])
def test_each_sample_has_its_own_temperature(kind: str, scan: str) -> None:
    """Half of the chains at T = 2, half at T = 0, where there is no chance and nothing that is not a number."""
    energy = eight(kind)
    temperature = torch.tensor([2.0, 0.0], dtype=F64).repeat(CHAINS // 2)
    generator = torch.Generator().manual_seed(5)
    sampler = en.Gibbs(scan=scan)
    flow = sampler.flow(
        energy,
        None,
        {n: torch.full((CHAINS, *v.shape), v.low, dtype=F64) for n, v in energy.variables.items()},
    )
    state, carry = flow.start, sampler.init(flow, flow.start)
    for _ in range(40):
        state, carry, released = sampler.sample(flow, state, carry, generator, temperature)
        assert released.isfinite().all()
    assert_distributed(energy, {n: v[::2] for n, v in state.items()}, 2.0)
    cold = {n: v[1::2] for n, v in state.items()}
    rest = en.ConditionalFlow(energy, None, cold)
    assert (rest.residual(cold, rest.velocity(cold)) == 0).all()
    if scan != "random":
        assert (released[1::2] == 0).all()


@pytest.mark.parametrize("kind", ["spins", "two variables", "quartic"])
def test_without_temperature_the_smallest_uniform_number_changes_nothing(kind: str) -> None:
    """The threshold of the number 0 is minus infinity, and 0 times that is no number."""
    energy = model(kind)
    sampler = en.Gibbs()
    flow = sampler.flow(energy, None, every_state(energy))
    carry = sampler.init(flow, flow.start)
    zeros: Any = Tape(given=[torch.zeros(8, 2, dtype=F64), torch.zeros(8, 1, dtype=F64)])
    if kind != "two variables":
        zeros.given = [torch.zeros(3, 8, dtype=F64)]
    cold = sampler.sample(flow, flow.start, carry, zeros, torch.zeros(8, dtype=F64))
    still = sampler.sample(flow, flow.start, carry, None, 0.0)
    for name, value in still[0].items():
        assert torch.equal(cold[0][name], value)
    assert torch.equal(cold[2], still[2])


def test_clamped_data_are_a_batch_of_conditions() -> None:
    energy = eight("two variables")
    v = every_state(energy, ["v"])["v"][[3, 17]].repeat_interleave(CHAINS, 0)
    solution = en.settle(
        energy, clamp={"v": v}, solver=en.Gibbs(), max_steps=1, generator=torch.Generator().manual_seed(0)
    )
    mean = torch.tanh(v @ energy.W + energy.c)[::CHAINS]  # of spins: tanh of the field
    found = solution.state["h"].reshape(2, CHAINS, -1).mean(1)
    assert (found - mean).abs().max() < 5.6 / CHAINS**0.5  # 6 means: 5.6 sigma each is 1.3e-7 altogether


@pytest.mark.parametrize("scan", ["systematic", "random", "block"])
def test_the_same_seed_gives_the_same_run(scan: str) -> None:
    energy = eight("spins")
    runs = [
        en.settle(energy, {"s": torch.ones(5, 8, dtype=F64)}, solver=en.Gibbs(scan=scan), max_steps=7,
                  generator=torch.Generator().manual_seed(seed)).state["s"]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_flips_are_counted_and_a_new_parameter_is_seen() -> None:
    energy = Functional(lambda e, s: -s @ e.b, {"b": torch.zeros(4, dtype=F64)}, s=en.Bit(4))
    start = {"s": torch.zeros(CHAINS, 4, dtype=F64)}
    generator = torch.Generator().manual_seed(3)
    fair = en.settle(energy, start, solver=en.Gibbs(), max_steps=10, generator=generator)
    assert fair.statistics["flips"].mean().item() == pytest.approx(0.5, abs=6 * 0.5 / (40 * CHAINS) ** 0.5)
    with torch.no_grad():
        energy.b.fill_(-50.0)
    frozen = en.settle(energy, start, solver=en.Gibbs(), max_steps=10, generator=generator)
    assert (frozen.statistics["flips"] == 0).all()


def test_nothing_settles_and_energies_that_are_none_are_told() -> None:
    energy = Functional(lambda e, s: (s @ e.b).log(), {"b": -torch.ones(3, dtype=F64)}, s=en.Bit(3))
    solution = en.settle(energy, solver=en.Gibbs(), max_steps=10)
    assert solution.status.tolist() == [en.Status.DIVERGED]
    fine = en.settle(eight("spins"), solver=en.Gibbs(), max_steps=10)
    assert fine.status.tolist() == [en.Status.MAX_STEPS]


def test_forbidden_states_are_left_and_never_entered() -> None:
    """An energy that is infinite where two neighbours are both 1: hard-core particles on a ring of 5."""

    def hard(e: Any, s: Tensor) -> Tensor:
        return torch.where((s * s.roll(1, 1)).sum(1) > 0, torch.inf, -(s @ e.b))

    energy = Functional(hard, {"b": torch.ones(5, dtype=F64)}, s=en.Bit(5))
    start = {"s": torch.zeros(CHAINS, 5, dtype=F64)}
    solution = en.settle(
        energy, start, solver=en.Gibbs(), max_steps=25, generator=torch.Generator().manual_seed(4)
    )
    assert (solution.status == en.Status.MAX_STEPS).all()
    assert solution.energy.isfinite().all()
    assert_distributed(energy, solution.state, 1.0)


SWEEPS = {
    "systematic": en.Gibbs(),
    "random": en.Gibbs(scan="random"),
    "block": en.Gibbs(scan="block"),
    "Glauber": en.Glauber(1.0),
    "descent": en.Glauber(),
}


@pytest.mark.parametrize("solver", SWEEPS)
@pytest.mark.parametrize("kind", ["spins", "two variables", "ring", "quartic"])
def test_no_step_asks_a_tensor_for_a_number(kind: str, solver: str) -> None:
    energy = other("quartic", en.Spin, 3) if kind == "quartic" else eight(kind)
    sampler = SWEEPS[solver]
    flow = sampler.flow(energy)
    state, carry = flow.start, sampler.init(flow, flow.start)
    state, carry, _ = sampler.step(flow, state, carry, None)
    with no_question():
        for temperature in (1.0, torch.ones(1, dtype=F64)):
            state, carry, _ = sampler.sample(flow, state, carry, None, temperature)
        sampler.advance(flow, state, carry, None, 2)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(
        ValueError, match="Gibbs: scan must be one of 'systematic', 'random', 'block', got 'rows'"
    ):
        en.Gibbs(scan="rows")
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be a number from 0 up"):
            en.Gibbs(temperature)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_uniform_number_is_never_an_end(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators draw zero; then the logit would be infinite and outdo any difference of energies."""

    def ends(self: Tensor, *args: object, **options: object) -> Tensor:
        return self.copy_(torch.tensor([-(2**63) + (2**31 - 1)]))  # the least 32 bits are the largest number

    monkeypatch.setattr(torch.Tensor, "random_", ends)
    monkeypatch.setattr(torch, "rand", lambda *args, **options: torch.tensor([1 - 2.0**-53, 0.0], dtype=F64))
    numbers = uniform((2,), torch.zeros((), dtype=dtype), None)
    assert numbers.dtype == dtype
    high, low = sorted(numbers.tolist(), reverse=True)
    assert 0 < low < 2 * torch.finfo(dtype).eps
    assert 1 - 2 * torch.finfo(dtype).eps < high < 1
    assert float(numbers.logit().sum()) == pytest.approx(0, abs=2)


def test_the_numbers_of_a_tape_are_used_as_they_are_and_left_alone() -> None:
    tape = torch.tensor([0.0, 0.5])
    numbers = uniform((2,), tape, Tape(given=[tape]))
    assert torch.equal(numbers, tape)
    numbers.fill_(9.0)
    assert tape.tolist() == [0.0, 0.5]


def test_uniform_numbers_are_uniform() -> None:
    """Kolmogorov and Smirnov, two dtypes, with a false alarm in a million."""
    for dtype in (torch.float32, F64):
        found = uniform((20_000,), torch.zeros((), dtype=dtype), torch.Generator().manual_seed(0))
        assert kstest(found.double().numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("kind", ["spins", "two variables", "ring"])
@pytest.mark.parametrize("scan", ["systematic", "random", "block"])
def test_several_sweeps_tell_what_the_last_one_has_released(kind: str, scan: str) -> None:
    energy, sampler = eight(kind), en.Gibbs(scan=scan)
    start = {n: torch.full((5, *v.shape), v.high, dtype=F64) for n, v in energy.variables.items()}
    flow = sampler.flow(energy, None, start)
    first, second = (torch.Generator().manual_seed(2) for _ in range(2))
    state, carry = flow.start, sampler.init(flow, flow.start)
    for _ in range(4):
        state, carry, last = sampler.sample(flow, state, carry, first, 1.0)
    end, told, released = sampler.advance(flow, flow.start, sampler.init(flow, flow.start), second, 4)
    assert all(torch.equal(end[name], state[name]) for name in state)
    assert torch.equal(released, last)
    assert torch.equal(told["changed"], carry["changed"])
    assert released.max() > 0
