"""Dense and modern memories against flipping every unit, attention of torch, and the Hebb rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import energynet as en
from helpers.discrete import flips
from helpers.transitions import assert_distributed

F64 = torch.float64


def spins(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, units), generator=generator, dtype=F64) - 1


KINDS = [(2, "polynomial"), (3, "polynomial"), (4, "polynomial"), (3, "rectified"), (2, "exponential")]


def by_hand(patterns: Tensor, s: Tensor, power: int, interaction: str) -> Tensor:
    n = patterns.shape[1]
    total = torch.zeros(len(s), dtype=F64)
    for x in patterns:
        match = (s * x).sum(1)
        if interaction == "exponential":
            total += match.exp()
        else:
            low = -torch.inf if interaction == "polynomial" else 0.0
            total -= n / power * (match / n).clamp(min=low) ** power
    return -total.log() if interaction == "exponential" else total


@pytest.mark.parametrize(("power", "interaction"), KINDS)
def test_energies_and_differences(power: int, interaction: str) -> None:
    patterns, s = spins(4, 7), spins(5, 7, 1)
    model = en.models.DenseAssociativeMemory(patterns, power=power, interaction=interaction)
    assert torch.allclose(model({"s": s}), by_hand(patterns, s, power, interaction), rtol=0, atol=1e-12)
    for energy in (
        model,
        -2.0 * model,
        model + model,
    ):  # the last is no energy of features, as far as is known
        flow = en.ConditionalFlow(energy, None, {"s": s})
        expected = flips(energy, {"s": s}, ["s"])["s"]
        assert torch.allclose(-flow.fields(flow.start)["s"], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("power", "interaction"), KINDS)
def test_asynchronous_recall_is_that_of_any_energy(power: int, interaction: str) -> None:
    """Followed features and whole energies choose alike, unit for unit, from the same seed."""
    patterns, cues = spins(6, 20), spins(8, 20, 1)
    model = en.models.DenseAssociativeMemory(patterns, power=power, interaction=interaction)
    zero = en.terms.Field(s=en.Spin(20)).double()
    ways = [
        en.settle(e, {"s": cues}, solver=en.Glauber(T), max_steps=5, record="state", generator=generator)
        for T in (0.0, 0.5)
        for e, generator in [(e, torch.Generator().manual_seed(3)) for e in (model, model + zero)]
    ]
    for mine, plain in (ways[:2], ways[2:]):
        assert torch.equal(mine.trajectory["s"], plain.trajectory["s"])
        assert torch.equal(mine.statistics["flips"], plain.statistics["flips"])
    rises = model.recall(cues, record="energy", generator=torch.Generator().manual_seed(0)).trajectory.diff(
        dim=0
    )
    assert rises.max() <= 1e-12


def test_held_units_stay() -> None:
    patterns = spins(3, 16)
    known = torch.arange(16) < 10
    cue = torch.where(known, patterns, -1.0)
    model = en.models.DenseAssociativeMemory(patterns, power=4)
    for synchronous in (True, False):
        solution = model.recall(cue, clamp={"s": en.Partial(cue, known)}, synchronous=synchronous)
        assert torch.equal(solution.state["s"], patterns)


def test_power_two_is_the_hebb_rule() -> None:
    patterns, s = spins(3, 9), spins(6, 9, 1)
    dense = en.models.DenseAssociativeMemory(patterns, power=2)
    hebb = en.models.Hopfield(9).double().store(patterns)
    difference = dense({"s": s}) - hebb({"s": s})
    assert torch.allclose(difference, torch.full_like(difference, -3 / 2), rtol=0, atol=1e-12)


def test_more_patterns_than_units_are_fixed_points() -> None:
    patterns = spins(80, 40)
    for power, interaction in ((5, "polynomial"), (2, "exponential")):
        model = en.models.DenseAssociativeMemory(patterns, power=power, interaction=interaction)
        assert torch.equal(model.recall(patterns, synchronous=True).state["s"], patterns)
    hebb = en.models.Hopfield(40).double().store(patterns)
    assert not torch.equal(hebb.recall(patterns, synchronous=True).state["s"], patterns)


def test_exponential_interaction_does_not_overflow() -> None:
    patterns = spins(30, 1000).float()
    model = en.models.DenseAssociativeMemory(patterns, interaction="exponential")
    cue = patterns.clone()
    cue[:, :300] *= -1
    assert torch.equal(model.recall(cue, synchronous=True).state["s"], patterns)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("beta", [None, 2.0])
def test_one_step_is_attention(dtype: torch.dtype, beta: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    patterns, queries = (torch.randn(k, 24, generator=generator, dtype=dtype) for k in (50, 7))
    model = en.models.ModernHopfield(patterns, beta=beta)
    expected = functional.scaled_dot_product_attention(queries, patterns, patterns, scale=beta)
    rounding = 20 * torch.finfo(dtype).eps
    assert torch.allclose(model.attend(queries), expected, rtol=0, atol=rounding)
    step = model.recall(queries, max_steps=1).state["s"]
    assert torch.allclose(step, expected, rtol=0, atol=rounding)


def test_modern_recall_descends_to_a_stored_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(200, 64, generator=generator, dtype=F64)
    model = en.models.ModernHopfield(patterns, beta=1.0)
    cues = patterns + 0.5 * torch.randn(200, 64, generator=generator, dtype=F64)
    solution = model.recall(cues, record="energy")
    assert (solution.status == en.Status.CONVERGED).all()
    assert solution.trajectory.diff(dim=0).max() <= 1e-12
    assert (solution.energy >= 0).all()
    assert (torch.cdist(solution.state["s"], patterns).argmin(1) == torch.arange(200)).all()


@pytest.mark.parametrize("kind", ["dense", "modern"])
def test_laws_of_energies(kind: str) -> None:
    if kind == "dense":
        en.testing.check_energy(en.models.DenseAssociativeMemory(spins(3, 6).float(), power=3))
    else:
        en.testing.check_energy(
            en.models.ModernHopfield(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
        )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="power must be a whole number from 2"):
        en.models.DenseAssociativeMemory(spins(2, 4), power=1)
    with pytest.raises(ValueError, match="interaction must be one of"):
        en.models.DenseAssociativeMemory(spins(2, 4), interaction="cubic")
    with pytest.raises(en.StateError, match="values -1 and"):
        en.models.DenseAssociativeMemory(torch.zeros(2, 4))
    with pytest.raises(en.StateError, match="real patterns of shape"):
        en.models.ModernHopfield(torch.ones(4))
    for memory in (en.models.DenseAssociativeMemory, en.models.ModernHopfield):
        with pytest.raises(en.StateError, match=r"expected a tensor of patterns.* got int"):
            memory(64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta must be"):
        en.models.ModernHopfield(torch.ones(2, 4), beta=0.0)


KEPT = [(2, "polynomial"), (4, "polynomial"), (3, "rectified"), (2, "rectified"), (2, "exponential")]


@pytest.mark.parametrize(("power", "interaction"), KEPT)
def test_memory_neurons_kept_have_the_same_energy_at_their_best(power: int, interaction: str) -> None:
    patterns, s = spins(4, 9), spins(6, 9, 1)
    dense = en.models.DenseAssociativeMemory(patterns, power=power, interaction=interaction)
    model = dense.hierarchical()
    with torch.no_grad():
        best = en.settle(model, clamp={"s": s}, solver=en.Glauber(), until=en.Stationary(atol=0.0))
        assert (best.status == en.Status.CONVERGED).all()
        assert torch.allclose(best.energy, dense({"s": s}), rtol=0, atol=1e-11)
        begin = {"h": torch.full((6, 4), 0.25, dtype=F64)}
        flow = en.ConditionalFlow(model, {"s": s}, begin)
        fall = model({"s": s, **begin}) - best.energy
        released = flow.residual(flow.start, flow.velocity(flow.start))
        if model.variables["h"].link is not None:  # all of such a layer count as one unit
            assert torch.allclose(released, fall, rtol=0, atol=1e-11)
        for size in (1e-3, 0.1):
            noise = size * torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
            other = model.variables["h"].project(best.state["h"] + noise)
            other = other / other.sum(1, keepdim=True) if interaction == "exponential" else other
            assert (model({"s": s, "h": other}) >= best.energy - 1e-12).all()


@pytest.mark.parametrize(("power", "interaction"), KEPT)
def test_recall_with_memory_neurons_kept_is_that_with_them_integrated_out(
    power: int, interaction: str
) -> None:
    patterns = spins(4, 60)
    cues = patterns.repeat(5, 1)
    cues[torch.rand(cues.shape, generator=torch.Generator().manual_seed(1)) < 0.15] *= -1
    dense = en.models.DenseAssociativeMemory(patterns, power=power, interaction=interaction)
    kept = dense.hierarchical().recall(s=cues, record="energy", generator=torch.Generator().manual_seed(0))
    plain = dense.recall(cues, generator=torch.Generator().manual_seed(0))
    assert (kept.status == en.Status.CONVERGED).all()
    assert torch.equal(kept.state["s"], plain.state["s"])
    assert (kept.trajectory.diff(dim=0) <= 1e-10).all()
    assert torch.allclose(kept.energy, plain.energy, rtol=0, atol=1e-10)
    # where no flip of one spin lowers the energy, none does with the memory neurons held either
    rest = dense.hierarchical().recall(s=plain.state["s"])
    assert torch.equal(rest.state["s"], plain.state["s"])


def test_spins_beside_normal_memory_neurons_follow_the_law_of_the_hebb_rule() -> None:
    """Power 2 at T > 0: the memory neurons are drawn, and what is left of the spins is exp(-E / T)."""
    dense = en.models.DenseAssociativeMemory(spins(2, 6), power=2)
    chains, temperature = 20_000, 0.9
    start = {"s": spins(1, 6, 3).expand(chains, -1)}
    generator = torch.Generator().manual_seed(4)
    found = en.settle(
        dense.hierarchical(), start, solver=en.Gibbs(temperature), max_steps=40, generator=generator
    )
    assert_distributed(dense, {"s": found.state["s"]}, temperature)
    steep = en.models.DenseAssociativeMemory(spins(2, 6), power=4).hierarchical()
    with pytest.raises(en.SettlingError, match=r"without a link; 'h' is Real\(2\) with Power.*Langevin"):
        en.settle(steep, start, solver=en.Gibbs(), max_steps=1)
    with pytest.raises(ValueError, match="convex, which power 3 is not"):
        en.models.DenseAssociativeMemory(spins(2, 6), power=3).hierarchical()


def test_attention_is_the_minimum_of_each_layer_in_turn() -> None:
    """A sweep at T = 0 over the layers of a modern network is one concave-convex update."""
    generator = torch.Generator().manual_seed(0)
    patterns, cues = (torch.randn(k, 8, generator=generator, dtype=F64) for k in (20, 5))
    modern = en.models.ModernHopfield(patterns, beta=0.7)
    layers = modern.hierarchical()
    flow = en.Glauber().flow(layers, None, {"s": cues})
    assert flow.names == ("s", "h")
    with torch.no_grad():
        once = en.settle(layers, {"s": cues}, solver=en.Glauber(), max_steps=1).state
        assert float(once["s"].abs().max()) > 0  # from equal memory neurons it goes to the mean pattern
        solution = en.settle(
            layers, {"h": (0.7 * cues @ patterns.t()).softmax(1)}, solver=en.Glauber(), max_steps=1
        )
        assert torch.allclose(solution.state["s"], modern.attend(cues), rtol=0, atol=1e-12)
        end = en.settle(layers, {"h": (0.7 * cues @ patterns.t()).softmax(1)}, solver=en.Glauber())
        assert (end.status == en.Status.CONVERGED).all()
        assert torch.allclose(
            end.state["s"], modern.recall(cues, max_steps=5000).state["s"], rtol=0, atol=1e-6
        )
