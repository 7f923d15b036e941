"""Labelled data in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Parameters
    ----------
    x : Tensor
        The examples, ``(n, features)``, float32 in [0, 1].
    label : Tensor
        Their classes, ``(n,)``, int64, counted from 0.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or the counts differ.
    """

    x: Float[Tensor, " n features"]
    label: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.x.dtype != torch.float32:
            raise ValueError(
                f"x: expected float32 of shape (n, features), got {_describe(self.x)}; "
                "flatten every example and convert with .float()"
            )
        if self.label.ndim != 1 or self.label.dtype != torch.int64:
            raise ValueError(
                f"label: expected int64 of shape (n,), got {_describe(self.label)}; "
                "give class indices and convert with .long()"
            )
        if len(self.x) != len(self.label):
            raise ValueError(
                f"expected one label for each example, got {len(self.x)} examples and "
                f"{len(self.label)} labels; give both from the same source"
            )
        # Written so that NaN fails it.
        if self.x.numel() and not (self.x.min() >= 0 and self.x.max() <= 1):
            raise ValueError(
                f"x: expected values in [0, 1], got {self.x.min():g} to {self.x.max():g}; scale the examples"
            )
        if self.label.numel() and self.label.min() < 0:
            raise ValueError(f"label: expected classes counted from 0, got {self.label.min()}; renumber them")

    def __len__(self) -> int:
        return len(self.x)

    def one_hot(self, classes: int) -> Float[Tensor, " n classes"]:
        """Labels as targets.

        Parameters
        ----------
        classes : int
            How many classes there are. It is not guessed from the labels, which may lack some.

        Returns
        -------
        Tensor
            ``(n, classes)`` in the dtype of `x`: 1 at the label, 0 elsewhere.

        Raises
        ------
        ValueError
            If a label is not below `classes`.
        """
        _check_labels(self.label, classes)
        return functional.one_hot(self.label, classes).to(self.x.dtype)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    Parameters
    ----------
    name : str
        What it is called in `energynet.data.load`.
    train, test : Split
        Examples to learn from and to be judged by, of the same number of features.
    classes : int
        How many classes there are; every label is below it.

    Raises
    ------
    ValueError
        If the splits differ in their features, or a label is not below `classes`.
    """

    name: str
    train: Split
    test: Split
    classes: int

    def __post_init__(self) -> None:
        features = self.train.x.shape[1], self.test.x.shape[1]
        if features[0] != features[1]:
            raise ValueError(
                f"{self.name}: expected train and test of the same number of features, "
                f"got {features[0]} and {features[1]}; take both from the same source"
            )
        _check_labels(self.train.label, self.classes)
        _check_labels(self.test.label, self.classes)

    @property
    def features(self) -> int:
        """How many features an example has."""
        return self.train.x.shape[1]


def _check_labels(label: Tensor, classes: int) -> None:
    if label.numel() and label.max() >= classes:
        raise ValueError(
            f"label: expected classes below {classes}, got {label.max()}; "
            "renumber the labels or give the number of classes"
        )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
