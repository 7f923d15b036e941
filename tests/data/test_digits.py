"""The digits are scikit-learn's, split fairly and reproducibly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from energynet.data import Dataset, digits


def rows(x: torch.Tensor, label: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted((*row, k) for row, k in zip(x.tolist(), label.tolist(), strict=True))


def test_shapes() -> None:
    data = digits()
    assert (data.name, data.classes, data.features) == ("digits", 10, 64)
    assert (len(data.train), len(data.test)) == (1438, 359)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(0, 2**32))
@example(0.001, 0)
@example(0.999, 0)
def test_split_loses_nothing_and_is_stratified(fraction: float, seed: int) -> None:
    data = digits(fraction, seed)
    source = load_digits()
    assert rows(
        torch.cat([data.train.x, data.test.x]), torch.cat([data.train.label, data.test.label])
    ) == rows(torch.from_numpy(source.data / 16).float(), torch.from_numpy(source.target))
    total = np.bincount(source.target)
    tested = np.bincount(data.test.label.numpy(), minlength=10)
    assert np.abs(tested - fraction * total).max() <= 1
    assert (tested > 0).all()
    assert (tested < total).all()


def same(a: Dataset, b: Dataset) -> bool:
    return torch.equal(a.train.x, b.train.x) and torch.equal(a.test.x, b.test.x)


def test_seed_chooses_the_split() -> None:
    torch.manual_seed(1)
    first = digits(seed=3)
    torch.manual_seed(2)
    assert same(first, digits(seed=3))
    assert not same(first, digits(seed=4))


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    digits(seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 20, float("nan")])
def test_bad_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"test_fraction: expected a number between 0 and 1, got {fraction}"):
        digits(fraction)
