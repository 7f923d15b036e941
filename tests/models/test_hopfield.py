"""Hopfield networks against loops over units, closed forms and enumeration."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.couplings import Sparse
from energynet.samplers.noise import Tape
from energynet.settle import settle

F64 = torch.float64


def spins(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, units), generator=generator, dtype=F64) - 1


@cache
def blank(units: int) -> en.models.Hopfield:
    """One model for all examples, so that it is traced once."""
    return en.models.Hopfield(units).double()


def memory(patterns: Tensor, rule: str = "hebb") -> en.models.Hopfield:
    return blank(patterns.shape[1]).forget().store(patterns, rule=rule)


def network(units: int, seed: int, *, bias: bool = True) -> en.models.Hopfield:
    """Random symmetric couplings."""
    generator = torch.Generator().manual_seed(seed)
    model = blank(units)
    with torch.no_grad():
        model.bias.zero_()
        half = torch.randn(units, units, generator=generator, dtype=F64).tril(-1)
        model.weight.copy_(half + half.t())
        if bias:
            model.bias.copy_(torch.randn(units, generator=generator, dtype=F64))
    return model


def hadamard(order: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=F64)
    for _ in range(order):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@pytest.mark.parametrize("graded", [False, True])
def test_the_energy_is_that_of_the_papers(graded: bool) -> None:
    model = en.models.GradedHopfield(5, gain=3.0).double() if graded else en.models.Hopfield(5).double()
    W, b = spins(5, 5).cumsum(0), spins(1, 5, 3)[0]
    with torch.no_grad():
        model.weight.copy_(W)
        model.bias.copy_(b)
    s = 0.4 * spins(3, 5, 1) if graded else spins(3, 5, 1)
    expected = []
    for x in s.tolist():
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
        total = -0.5 * sum(x[i] * x[j] * float(W[i, j] + W[j, i]) / 2 for i, j in pairs)
        total -= sum(x[i] * float(b[i]) for i in range(5))
        if graded:  # the integral of artanh from 0 is a artanh(a) + log(1 - a^2) / 2
            total += sum(a * math.atanh(a) + 0.5 * math.log(1 - a * a) for a in x) / 3.0
        expected.append(total)
    assert model({"s": s}).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        en.terms.Coupling(s=en.Spin(2, 3)),
        en.terms.Coupling(
            torch.eye(4, dtype=torch.bool).roll(1, 0) | torch.eye(4, dtype=torch.bool).roll(-1, 0),
            s=en.Real(4),
        ),
        en.models.Hopfield(5),
        en.models.GradedHopfield(5),
    ],
    ids=str,
)
def test_laws_of_energies(model: en.Energy) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))  # not symmetric
    en.testing.check_energy(model)


def test_the_gradient_of_the_weight_is_symmetric_without_diagonal() -> None:
    model = network(6, 0)
    s = spins(4, 6)
    model.zero_grad()
    model({"s": s}).mean().backward()
    expected = -0.5 * (s.t() @ s / 4)
    assert torch.allclose(model.weight.grad, expected - expected.diag().diag(), rtol=0, atol=1e-12)


def by_hand(rule: str, patterns: np.ndarray) -> np.ndarray:
    """Couplings as the papers write them, sum by sum."""
    n = patterns.shape[1]
    W = np.zeros((n, n))
    if rule == "pseudoinverse":
        W = np.linalg.pinv(patterns) @ patterns
        np.fill_diagonal(W, 0)
        return W
    for x in patterns:
        change = np.zeros_like(W)
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                change[i, j] = x[i] * x[j] / n
                if rule == "storkey":
                    left = sum(W[i, k] * x[k] for k in range(n) if k not in (i, j))
                    right = sum(W[j, k] * x[k] for k in range(n) if k not in (i, j))
                    change[i, j] -= (x[i] * right + left * x[j]) / n
        W = W + change
    return W


@pytest.mark.parametrize("rule", ["hebb", "storkey", "pseudoinverse"])
@pytest.mark.parametrize("how", ["at once", "one at a time", "in two parts"])
def test_rules_store_what_the_papers_say(rule: str, how: str) -> None:
    patterns = torch.cat([spins(4, 9), spins(1, 9), -spins(1, 9)])  # dependent, which a projection must stand
    model = en.models.Hopfield(9).double()
    parts = {
        "at once": [patterns],
        "one at a time": list(patterns),
        "in two parts": [patterns[:2], patterns[2:]],
    }
    for part in parts[how]:
        assert model.store(part, rule=rule) is model
    assert model.weight.detach().numpy() == pytest.approx(by_hand(rule, patterns.numpy()), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_projection_onto_everything_moves_nothing(dtype: torch.dtype, at_once: bool) -> None:
    """With n independent patterns it is the identity, whose rounding errors would move every unit."""
    patterns = spins(23, 20, 1).to(dtype)
    assert torch.linalg.matrix_rank(patterns[:20]) == 20
    model = en.models.Hopfield(20).to(dtype)
    for part in [patterns] if at_once else patterns.split(1):
        model.store(part, rule="pseudoinverse")
    assert not model.weight.any() and (model.diagonal == 1).all()
    assert torch.equal(model.recall(patterns).state["s"], patterns)


def test_the_perceptron_rule_gives_every_unit_a_margin() -> None:
    patterns = spins(12, 30)
    model = en.models.Hopfield(30).double().store(patterns, rule="perceptron")
    W = model.weight.detach()
    assert torch.equal(W, W.t()) and not W.diagonal().any()
    assert (patterns * (patterns @ W)).min() >= 1
    hebb = en.models.Hopfield(30).double().store(patterns).weight.detach()
    assert (patterns * (patterns @ hebb)).min() < 0


def test_the_perceptron_rule_says_when_it_fails() -> None:
    same = spins(1, 6).repeat(2, 1)
    same[1, 0] *= -1  # one unit must be high and low for the same others
    with pytest.warns(RuntimeWarning, match="patterns are not stable"):
        en.models.Hopfield(6).store(same, rule="perceptron")


def ring(units: int) -> Tensor:
    one = torch.eye(units, dtype=torch.bool)
    return one.roll(1, 0) | one.roll(-1, 0) | one.roll(2, 0) | one.roll(-2, 0)


@pytest.mark.parametrize("rule", ["hebb", "storkey", "perceptron"])
def test_diluted_couplings_stay_diluted(rule: str) -> None:
    mask, pattern = ring(40), spins(1, 40)
    model = en.models.Hopfield(40, mask).double().store(pattern, rule=rule)
    assert not model.weight[~mask].any() and model.weight[mask].all()
    cue = pattern.clone()
    cue[0, ::9] *= -1
    solution = model.recall(cue, generator=torch.Generator().manual_seed(0))
    assert torch.equal(solution.state["s"], pattern)
    assert isinstance(solution.flow.couplings(("s",)), Sparse)  # type: ignore[attr-defined]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 7),
    synchronous=st.booleans(),
    rule=st.sampled_from(["hebb", "pseudoinverse"]),
)
def test_orthogonal_patterns_are_fixed_points(seed: int, count: int, synchronous: bool, rule: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = hadamard(3)[torch.randperm(8, generator=generator)[:count]]
    patterns = matrix * spins(1, 8, seed)  # a gauge keeps them orthogonal
    model = memory(patterns, rule)
    both = torch.cat([patterns, -patterns])
    solution = model.recall(both, synchronous=synchronous, generator=generator)
    assert torch.equal(solution.state["s"], both)
    assert (solution.status == en.Status.CONVERGED).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), synchronous=st.booleans())
def test_recall_commutes_with_a_gauge(seed: int, synchronous: bool) -> None:
    """Flipping units flips what is stored and what is recalled; the order of the updates is that of the seed."""
    patterns, gauge, cues = spins(3, 12, seed), spins(1, 12, seed + 1), spins(5, 12, seed + 2)

    def recall(stored: Tensor, given: Tensor) -> en.Solution:
        return memory(stored).recall(
            given, synchronous=synchronous, generator=torch.Generator().manual_seed(seed)
        )

    plain = recall(patterns, cues)
    before = plain.energy
    flipped = recall(patterns * gauge, cues * gauge)
    assert torch.equal(flipped.state["s"], plain.state["s"] * gauge)
    assert torch.equal(flipped.status, plain.status)
    assert torch.allclose(flipped.energy, before, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_recall_commutes_with_a_permutation(seed: int) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    patterns, cues = spins(3, 12, seed), spins(5, 12, seed + 2)
    plain = memory(patterns).recall(cues, synchronous=True)
    other = memory(patterns[:, order]).recall(cues[:, order], synchronous=True)
    assert torch.equal(other.state["s"], plain.state["s"][:, order])
    assert torch.equal(other.status, plain.status)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_asynchronous_recall_commutes_with_a_permutation_of_units_and_order(seed: int) -> None:
    """The same units are updated in the same turn, whatever their numbers are."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    patterns, cues = spins(3, 12, seed), spins(5, 12, seed + 2)
    turns = torch.rand(4, 12, dtype=F64, generator=torch.Generator().manual_seed(seed + 3))
    ends = []
    for stored, given_, numbers in (
        (patterns, cues, turns),
        (patterns[:, order], cues[:, order], turns[:, order]),
    ):
        sampler = en.Glauber()
        flow = sampler.flow(memory(stored), None, {"s": given_})
        state, carry = flow.start, sampler.init(flow, flow.start)
        path = []
        for turn in numbers:
            state, carry, _ = sampler.sample(flow, state, carry, Tape(given=[turn]), 0.0)
            path.append(state["s"])
        ends.append(torch.stack(path))
    assert torch.equal(ends[1], ends[0][..., order])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_energy_never_rises_in_asynchronous_recall(seed: int) -> None:
    model = network(10, seed)
    generator = torch.Generator().manual_seed(seed)
    solution = model.recall(spins(6, 10, seed), record="energy", generator=generator)
    assert solution.trajectory.diff(dim=0).max() <= 1e-12 * solution.trajectory.abs().max()
    assert (solution.status == en.Status.CONVERGED).all()
    h = solution.state["s"] @ model.weight + model.bias
    assert (solution.state["s"] * h >= 0).all()
    assert (solution.residual == 0).all()


def synchronously(W: np.ndarray, b: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Where one sample ends: one state, or the other of a cycle of two."""
    before = s
    while True:
        h = W @ s + b
        new = np.where(h > 0, 1.0, np.where(h < 0, -1.0, s))
        if (new == s).all():
            return s, s, False
        if (new == before).all():
            return s, new, True
        before, s = s, new


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), hold=st.booleans())
def test_synchronous_recall_ends_in_a_fixed_point_or_a_cycle_of_two(seed: int, hold: bool) -> None:
    model, cues = network(9, seed, bias=seed % 2 == 0), spins(8, 9, seed)
    W, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    clamp = None
    if hold:  # a unit that is held is one that a very strong field holds
        clamp = {"s": en.Partial(cues, torch.arange(9) < 2)}
    solution = model.recall(cues, synchronous=True, clamp=clamp)
    for cue, end, status in zip(
        cues.numpy(), solution.state["s"].numpy(), solution.status.tolist(), strict=True
    ):
        field = b + (1e3 * cue * (np.arange(9) < 2) if hold else 0)
        first, second, cycle = synchronously(W, field, cue)
        assert status == (en.Status.CYCLE if cycle else en.Status.CONVERGED)
        assert (end == first).all() or (end == second).all()


def test_two_units_that_repel_go_to_and_fro() -> None:
    model = en.models.Hopfield(2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    both, apart = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    cues = torch.cat([both, apart, -both])
    solution = model.recall(cues, synchronous=True)
    assert solution.status.tolist() == [en.Status.CYCLE, en.Status.CONVERGED, en.Status.CYCLE]
    assert solution.residual.tolist() == [2.0, 0.0, 2.0]
    assert torch.equal(solution.state["s"][1:2], apart)
    assert (model.recall(cues).status == en.Status.CONVERGED).all()
    with pytest.raises(en.SettlingError, match=r"cycle in 2 of 3 samples"):
        settle(model, {"s": cues}, solver=en.Synchronous(), throw=True)
    warm = model.recall(cues, synchronous=True, temperature=1e-3, max_steps=10)
    assert (warm.status == en.Status.MAX_STEPS).all()


def test_synchronous_chains_have_littles_distribution() -> None:
    """P(s) ~ prod over i of 2 cosh((W s + b)_i / T) * exp(b.s / T) (Peretto 1984, Biol. Cybern. 50:51)."""
    T, n, chains = 1.3, 4, 20_000
    model = network(n, 5)
    W, b = model.weight.detach(), model.bias.detach()
    states = 2.0 * torch.cartesian_prod(*[torch.arange(2, dtype=F64)] * n) - 1
    weight = (((states @ W + b) / T).cosh().log().sum(1) + states @ b / T).softmax(0)
    solution = model.recall(
        spins(chains, n),
        synchronous=True,
        temperature=T,
        max_steps=60,
        generator=torch.Generator().manual_seed(1),
    )
    place = ((solution.state["s"] + 1) / 2 @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=F64)).long()
    found = place.bincount(minlength=16).double()
    chi = float(((found - chains * weight).square() / (chains * weight)).sum())
    assert chi < 60  # 15 degrees of freedom: 2e-7


def test_graded_units_rest_where_their_field_puts_them() -> None:
    patterns = spins(3, 40)
    model = en.models.GradedHopfield(40, gain=4.0).double().store(patterns)
    cue = 0.3 * patterns
    cue[:, :5] *= -1
    solution = model.recall(cue, record="energy")
    s = solution.state["s"]
    assert torch.allclose(s, (4.0 * (s @ model.weight + model.bias)).tanh(), rtol=0, atol=1e-8)
    assert (solution.status == en.Status.CONVERGED).all()
    assert solution.trajectory.diff(dim=0).max() <= 1e-12
    assert torch.equal(s.sign(), patterns)


def test_what_does_not_fit_is_refused() -> None:
    model = en.models.Hopfield(4)
    with pytest.raises(ValueError, match="rule must be one of 'hebb', 'storkey'"):
        model.store(torch.ones(4), rule="oja")
    with pytest.raises(en.StateError, match=r"shape \(count, 4\), got \(2, 3\)"):
        model.store(torch.ones(2, 3))
    with pytest.raises(en.StateError, match=r"values -1 and \+1"):
        model.store(torch.zeros(4))
    with pytest.raises(en.StateError, match=r"values -1 and \+1"):
        model.store(torch.ones(4, dtype=torch.bool))
    with pytest.raises(en.StateError, match=r"as a torch\.Tensor, got list"):
        model.store([1, 1, 1, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="call forget"):
        model.store(spins(1, 4)).store(spins(1, 4), rule="pseudoinverse")
    assert not model.forget().weight.any()
    with pytest.raises(ValueError, match="symmetric mask"):
        en.models.Hopfield(3, torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool))
    with pytest.raises(ValueError, match=r"dtype torch\.bool and shape"):
        en.models.Hopfield(3, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="no diluted form"):
        en.models.Hopfield(5, ring(5)).store(spins(1, 5), rule="pseudoinverse")
    with pytest.raises(ValueError, match="gain must be"):
        en.models.GradedHopfield(3, gain=0.0)


def test_couplings_that_are_kept_follow_the_parameters() -> None:
    first, second = spins(2, 20).split(1)
    model = en.models.Hopfield(20).double().store(first)
    assert torch.equal(model.recall(second, synchronous=True).state["s"].abs(), torch.ones_like(second))
    model.forget().store(second)
    for synchronous in (True, False):
        assert torch.equal(model.recall(second, synchronous=synchronous).state["s"], second)
