"""Normal numbers between ends, against scipy's quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from energynet.truncated import truncated_normal

CHANCE = torch.tensor([1e-9, 1e-4, 0.03, 0.2, 0.5, 0.77, 0.99, 1 - 1e-5, 1 - 1e-9], dtype=torch.float64)


def quantiles(mean: float, deviation: float, low: float, high: float, dtype: torch.dtype) -> np.ndarray:
    full = torch.full_like(CHANCE, mean).to(dtype)
    return truncated_normal(full, torch.full_like(full, deviation), low, high, CHANCE).double().numpy()


@pytest.mark.parametrize("mean", [0.0, 0.3, -2.0, 5.0, -12.0, 40.0, -300.0])
@pytest.mark.parametrize("deviation", [0.01, 0.5, 3.0, 1e4])
@pytest.mark.parametrize("ends", [(0.0, math.inf), (-math.inf, 1.0), (-0.5, 0.4)])
def test_quantiles_are_those_of_scipy(mean: float, deviation: float, ends: tuple[float, float]) -> None:
    low, high = ends
    expected = truncnorm.ppf(
        CHANCE.numpy(), (low - mean) / deviation, (high - mean) / deviation, mean, deviation
    )
    if not np.isfinite(expected).all() or (np.diff(expected) <= 0).any():
        pytest.skip("scipy has no numbers so far from the mean")
    found = quantiles(mean, deviation, low, high, torch.float64)
    spread = expected.max() - expected.min()
    assert np.abs(found - expected).max() < 1e-6 * spread + 1e-12 * abs(mean)


@settings(deadline=None, max_examples=60)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(-2, 2), st.floats(1e-3, 5))
def test_quantiles_rise_and_stay_between_the_ends(
    mean: float, deviation: float, low: float, width: float
) -> None:
    for ends in ((low, low + width), (low, math.inf), (-math.inf, low)):
        for dtype in (torch.float32, torch.float64):
            found = quantiles(mean, deviation, *ends, dtype)
            assert np.isfinite(found).all()
            assert (np.diff(found) >= 0).all()
            single = torch.tensor(ends, dtype=torch.float64).to(dtype).double().numpy()
            assert (found >= single[0]).all()
            assert (found <= single[1]).all()


def test_far_from_the_mean_the_law_is_exponential() -> None:
    """Beyond a distance a of the mean the excess is exponential of rate a / deviation^2, up to 1 / a^2."""
    found = quantiles(-1e4, 1.0, 0.0, math.inf, torch.float64)
    assert found == pytest.approx(-np.log1p(-CHANCE.numpy()) / 1e4, rel=1e-5)
