"""Small problems against counting, loops and independent enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import energynet as en
from energynet import data


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_bars_and_stripes_are_all_of_them_once(side: int) -> None:
    """Against a search through all images, where there are few; else by count and property."""
    found = data.bars_and_stripes(side)
    assert found.shape == (2 * 2**side - 2, side**2)
    images = {tuple(row) for row in found.tolist()}
    assert len(images) == len(found)
    expected = set()
    for bits in itertools.product((0.0, 1.0), repeat=side):
        expected.add(bits * side)
        expected.add(tuple(bit for bit in bits for _ in range(side)))
    assert images == expected


def test_bars_and_stripes_refuses_a_side_out_of_range() -> None:
    with pytest.raises(ValueError, match="side from 1 to 16, got 0"):
        data.bars_and_stripes(0)


def test_shifter_shifts() -> None:
    split = data.shifter(6, 300, generator=torch.Generator().manual_seed(0))
    assert split.x.shape == (300, 12)
    for x, label in zip(split.x.tolist(), split.label.tolist(), strict=True):
        first, second = x[:6], x[6:]
        left, right = [*first[1:], first[0]], [first[-1], *first[:-1]]
        assert second == {0: left, 1: first, 2: right}[label]


def test_shifter_has_the_right_frequencies() -> None:
    """20,000 units and 2,000 labels, within 5 standard errors: wrong by chance less than once in 10^6."""
    split = data.shifter(10, 2000, on=0.2, generator=torch.Generator().manual_seed(1))
    assert abs(float(split.x[:, :10].mean()) - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 20_000)
    for label in range(3):
        share = float((split.label == label).float().mean())
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 2000)


@pytest.mark.parametrize("arguments", [(2, 5, 0.3), (4, -1, 0.3), (4, 5, 1.0)])
def test_shifter_refuses_what_is_out_of_range(arguments: tuple[int, int, float]) -> None:
    n, samples, on = arguments
    with pytest.raises(ValueError, match="shifter: expected 3 units or more"):
        data.shifter(n, samples, on=on)


def bonds(rows: int, columns: int, ring: bool) -> set[frozenset[int]]:
    """The pairs of neighbours, by looking at every pair of places."""

    def near(a: int, b: int, side: int) -> bool:
        return abs(a - b) == 1 or (ring and side > 2 and abs(a - b) == side - 1)

    places = list(itertools.product(range(rows), range(columns)))
    return {
        frozenset((i, j))
        for (i, (r, c)), (j, (q, d)) in itertools.combinations(enumerate(places), 2)
        if (r == q and near(c, d, columns)) or (c == d and near(r, q, rows))
    }


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (2, 2), (2, 4), (3, 3), (3, 4)])
def test_ising_couples_neighbours(rows: int, columns: int, ring: bool) -> None:
    energy = data.ising(rows, columns, 0.7, ring=ring)
    spins = 2.0 * torch.randint(0, 2, (5, rows * columns), generator=torch.Generator().manual_seed(2)) - 1
    expected = [
        -0.7 * sum(s[i] * s[j] for i, j in map(sorted, bonds(rows, columns, ring))) for s in spins.tolist()
    ]
    assert energy({"s": spins}).tolist() == pytest.approx(expected, abs=1e-5)


def test_ising_samples_have_the_exact_distribution() -> None:
    """Pearson's chi-square over the 16 states of a 2 x 2 grid; the threshold is exceeded once in 10^6."""
    found = data.ising_samples(2, 2, 4000, beta=0.5, generator=torch.Generator().manual_seed(3))
    states = list(itertools.product((-1.0, 1.0), repeat=4))
    weights = [math.exp(0.5 * (a * b + c * d + a * c + b * d)) for a, b, c, d in states]
    expected = [4000 * w / sum(weights) for w in weights]
    seen = [int((found == torch.tensor(state)).all(1).sum()) for state in states]
    assert sum(seen) == 4000
    statistic = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    assert statistic < 56.49  # scipy.stats.chi2.isf(1e-6, 15)


def test_ising_moments_are_the_exact_ones() -> None:
    """All pairs of 3 x 3 spins against enumeration: each within 5.8 standard errors, 36 of them."""
    found = data.ising_samples(3, 3, 3000, beta=0.3, generator=torch.Generator().manual_seed(4))
    truth = en.exact.moments(data.ising(3, 3), temperature=1 / 0.3).second["s", "s"][0]
    error = ((1 - truth.square()).clamp(min=0) / 3000).sqrt()
    assert bool(((found.t() @ found / 3000 - truth).abs() <= 5.8 * error + 1e-5).all())
    assert bool((found.mean(0).abs() < 5.8 / 3000**0.5).all())


def test_ising_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="positive sides, got 0 and 3"):
        data.ising(0, 3)
    with pytest.raises(ValueError, match="a finite beta, got inf"):
        data.ising_samples(2, 2, 1, beta=math.inf)
    with pytest.raises(en.SettlingError, match="more than the"):
        data.ising_samples(5, 5, 1)
