"""The 8x8 handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import torch

from energynet.data.dataset import Dataset, Split
from energynet.optional import require


def digits(test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Load 1797 images of 8x8 grey values; nothing is downloaded.

    Parameters
    ----------
    test_fraction : float
        The share of every class to test on, in (0, 1), rounded to whole examples, at least one of every
        class on either side. The default is 0.2: 1438 examples to train on, 359 to test.
    seed : int
        Chooses which. The same seed gives the same split.

    Returns
    -------
    Dataset
        64 features in [0, 1] and 10 classes.

    Raises
    ------
    ValueError
        If `test_fraction` is not between 0 and 1.
    ModuleNotFoundError
        If scikit-learn is not installed.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number between 0 and 1, got {test_fraction}; try 0.2")
    source = require("sklearn.datasets", extra="sklearn", purpose="the data set 'digits'").load_digits()
    x = torch.from_numpy(source.data).float() / 16
    label = torch.from_numpy(source.target).long()

    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(label), dtype=torch.bool)
    for k in range(10):
        members = (label == k).nonzero().squeeze(1)
        count = min(max(round(test_fraction * len(members)), 1), len(members) - 1)
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return Dataset("digits", Split(x[~chosen], label[~chosen]), Split(x[chosen], label[chosen]), classes=10)
