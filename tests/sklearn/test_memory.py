"""The estimator against scikit-learn's own checks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import energynet as en


@parametrize_with_checks([en.sklearn.HopfieldMemory(), en.sklearn.HopfieldMemory("hebb", 0.0, True)])
def test_checks_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("low_high", [(0, 1), (-1, 1), (3.5, 7.0)])
@pytest.mark.parametrize("synchronous", [False, True])
def test_noisy_rows_are_completed_in_the_levels_of_the_data(
    low_high: tuple[float, float], synchronous: bool
) -> None:
    rng = np.random.default_rng(0)
    X = np.where(rng.random((10, 80)) < 0.5, *low_high)
    noisy = X.copy()
    noisy[:, :6] = sum(low_high) - noisy[:, :6]
    memory = en.sklearn.HopfieldMemory(synchronous=synchronous).fit(X)
    assert np.allclose(memory.predict(noisy), X)
    assert np.array_equal(memory.predict(noisy), memory.predict(noisy))
    assert clone(memory).get_params() == memory.get_params()


def test_grey_levels_become_the_means_of_dark_and_bright() -> None:
    X = np.array([[0.0, 0.2, 0.9, 1.0, 0.1], [0.1, 1.0, 0.2, 0.8, 0.0]])
    memory = en.sklearn.HopfieldMemory().fit(X)
    assert memory.threshold_ == 0.5
    assert memory.levels_ == pytest.approx([np.mean([0, 0.2, 0.1, 0.1, 0.2, 0]), np.mean([0.9, 1, 1, 0.8])])
    assert set(memory.predict(X).ravel()) == set(memory.levels_)
