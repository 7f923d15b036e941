"""Data sets refuse what they do not promise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from energynet.data import Dataset, Split

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 2, 1, 2])


def test_one_hot() -> None:
    target = Split(X, LABEL).one_hot(4)
    assert target.dtype == torch.float32
    assert target.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_one_hot_of_too_few_classes() -> None:
    with pytest.raises(ValueError, match="expected classes below 2, got 2"):
        Split(X, LABEL).one_hot(2)


@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (X.double(), LABEL, r"x: expected float32 of shape \(n, features\), got float64 of shape \(4, 3\)"),
        (X.reshape(4, 3, 1), LABEL, r"x: expected .*, got float32 of shape \(4, 3, 1\); flatten"),
        (X, LABEL.int(), r"label: expected int64 of shape \(n,\), got int32 of shape \(4,\)"),
        (X, LABEL[:, None], r"label: expected .*, got int64 of shape \(4, 1\)"),
        (X[:3], LABEL, "one label for each example, got 3 examples and 4 labels"),
        (X + 1, LABEL, r"x: expected values in \[0, 1\], got 1\.\d+ to 1\.\d+; scale"),
        (X - 1, LABEL, r"x: expected values in \[0, 1\]"),
        (X.masked_fill(X[1, 1] == X, torch.nan), LABEL, r"x: expected values in \[0, 1\], got nan"),
        (X, LABEL - 1, "label: expected classes counted from 0, got -1"),
    ],
)
def test_split_refuses(x: torch.Tensor, label: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(x, label)


def test_empty_split() -> None:
    assert len(Split(X[:0], LABEL[:0])) == 0


def test_dataset() -> None:
    data = Dataset("toy", Split(X, LABEL), Split(X[:1], LABEL[:1]), classes=3)
    assert (data.features, len(data.train), len(data.test)) == (3, 4, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.classes = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_dataset_of_unlike_splits() -> None:
    with pytest.raises(
        ValueError, match="toy: expected train and test of the same number of features, got 3 and 2"
    ):
        Dataset("toy", Split(X, LABEL), Split(X[:, :2], LABEL), classes=3)


@pytest.mark.parametrize("which", ["train", "test"])
def test_dataset_of_too_few_classes(which: str) -> None:
    splits = {"train": Split(X[:1], LABEL[:1]), "test": Split(X[:1], LABEL[:1])} | {which: Split(X, LABEL)}
    with pytest.raises(ValueError, match="expected classes below 2, got 2"):
        Dataset("toy", **splits, classes=2)
