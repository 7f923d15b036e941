"""Measurements on memories against enumeration and the published numbers of the theory."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import energynet as en
from energynet import analysis

F64 = torch.float64


def spins(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, units), generator=generator, dtype=F64) - 1


@pytest.mark.parametrize("load", [0.05, 0.08, 0.1, 0.13, 0.1379])
def test_mean_field_overlap_solves_the_equations_of_the_theory(load: float) -> None:
    """m = <sign(m + sqrt(alpha r) z)>, C = <d sign> , r = 1 / (1 - C)^2, by quadrature over the Gaussian z."""
    m = analysis.mean_field_overlap(load)
    y = torch.tensor(m, dtype=F64).erfinv().item()
    noise = m / (math.sqrt(2) * y)  # sqrt(alpha r)
    C = math.sqrt(2 / math.pi) * math.exp(-y * y) / noise
    assert load / (1 - C) ** 2 == pytest.approx(noise**2, rel=1e-6)
    edge = -m / noise
    above, _ = quad(lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi), edge, 12)
    assert 2 * above - 1 == pytest.approx(m, abs=1e-9)


def test_the_critical_load_is_where_the_overlap_falls_to_zero() -> None:
    assert analysis.mean_field_overlap(analysis.CRITICAL_LOAD - 1e-6) == pytest.approx(0.967, abs=2e-3)
    assert analysis.mean_field_overlap(analysis.CRITICAL_LOAD + 1e-6) == 0
    assert analysis.mean_field_overlap(3.0) == 0
    with pytest.raises(ValueError, match="load must be"):
        analysis.mean_field_overlap(0.0)


def test_overlap() -> None:
    patterns = spins(3, 8)
    flipped = patterns.clone()
    flipped[:, :2] *= -1
    assert analysis.overlap(flipped, patterns).diagonal().tolist() == [0.5] * 3
    assert analysis.overlap(-patterns, patterns).diagonal().tolist() == [-1.0] * 3


def test_basins_have_the_size_that_counting_gives() -> None:
    """One pattern: a cue ends there exactly if fewer than half of its units are flipped."""
    pattern = spins(1, 21)
    model = en.models.Hopfield(21).double().store(pattern)
    found = analysis.basin(model.recall, pattern, [0.0, 0.2, 0.47, 0.53, 1.0], trials=20)
    assert found.shape == (5, 1)
    assert found.flatten().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    close = analysis.basin(
        lambda s: en.settle(model, {"s": s}, max_steps=0), pattern, [2 / 21, 3 / 21], tolerance=0.1
    )
    assert close.flatten().tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="from 0 to 1"):
        analysis.basin(model.recall, pattern, [1.2])


def test_attractors_are_told_apart() -> None:
    """Three patterns at low load: patterns, inverses and mixtures are all attractors (Amit et al. 1985)."""
    patterns = spins(3, 400)
    model = en.models.Hopfield(400).double().store(patterns)
    majority = patterns.sum(0).sign()
    cues = torch.cat([patterns, -patterns, majority.unsqueeze(0), majority.unsqueeze(0)])
    ends = model.recall(cues)
    assert torch.equal(ends.state["s"], cues)
    found = analysis.attractors(lambda _: ends, patterns)
    kinds = {tuple(s.tolist()): k for s, k in zip(found.states, found.kind, strict=True)}
    assert [kinds[tuple(c.tolist())] for c in cues] == ["pattern"] * 3 + ["inverse"] * 3 + ["mixture"] * 2
    assert found.count.tolist() == [2, 1, 1, 1, 1, 1, 1]
    assert torch.allclose(found.energy, model({"s": found.states}), rtol=0, atol=1e-10)
    assert found.share("pattern") == pytest.approx(3 / 8)


def test_where_no_cue_settles_there_are_no_attractors() -> None:
    model = en.models.Hopfield(2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    found = analysis.attractors(
        lambda cues: model.recall(torch.ones_like(cues), synchronous=True), spins(1, 2), cues=3
    )
    assert found.states.shape == (0, 2) and found.kind == ()
    assert math.isnan(found.share("pattern"))


def test_random_cues_of_one_pattern_end_in_it_or_its_inverse() -> None:
    pattern = spins(1, 21)
    model = en.models.Hopfield(21).double().store(pattern)
    found = analysis.attractors(model.recall, pattern, cues=64, generator=torch.Generator().manual_seed(0))
    assert set(found.kind) == {"pattern", "inverse"} and int(found.count.sum()) == 64


def test_capacity_falls_beyond_the_critical_load() -> None:
    table = analysis.capacity(
        lambda patterns: en.models.Hopfield(300).store(patterns).recall,
        300,
        [15, 90],
        trials=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert table.shape == (2, 2) and table.dtype == F64
    assert (table[0] > 0.99).all() and (table[1] < 0.8).all()
