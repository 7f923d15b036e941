"""Fits of Gabor functions find the numbers that a picture was made with, and little in noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from energynet.analysis import Gabor, gabor_fit


def drawn(
    size: int,
    row: float,
    column: float,
    length: float,
    width: float,
    frequency: float,
    angle: float,
    phase: float,
) -> torch.Tensor:
    rows, columns = np.mgrid[:size, :size].astype(float)
    across = (columns - column) * math.cos(angle) + (rows - row) * math.sin(angle)
    along = -(columns - column) * math.sin(angle) + (rows - row) * math.cos(angle)
    envelope = np.exp(-(across**2) / (2 * width**2) - along**2 / (2 * length**2))
    return torch.from_numpy(envelope * np.cos(2 * math.pi * frequency * across + phase))


@pytest.mark.parametrize(
    ("angle", "frequency", "phase"),
    [(0.0, 0.2, 0.0), (0.7, 0.15, 1.0), (1.5707, 0.25, 2.0), (2.6, 0.3, -1.0)],
)
def test_numbers_come_back(angle: float, frequency: float, phase: float) -> None:
    found = gabor_fit(-3.7 * drawn(14, 6.2, 7.3, 2.5, 1.8, frequency, angle, phase))
    assert found.explained > 1 - 1e-8
    assert (found.row, found.column) == pytest.approx((6.2, 7.3), abs=1e-3)
    assert (found.length, found.width) == pytest.approx((2.5, 1.8), abs=1e-3)
    assert found.frequency == pytest.approx(frequency, abs=1e-4)
    turn = (found.orientation - angle + math.pi / 2) % math.pi - math.pi / 2
    assert turn == pytest.approx(0, abs=1e-3)
    assert 0 <= found.orientation < math.pi


def test_explained_is_the_share_of_the_sum_of_squares() -> None:
    """Of a wave and of what is at right angles to it, so far as the fit can tell, half and half."""
    wave = drawn(16, 7.5, 7.5, 3.0, 3.0, 0.1, 0.3, 0.0)
    other = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = other - (other * wave).sum() / wave.square().sum() * wave
    mixed = wave / wave.norm() + 0.5 * other / other.norm()
    assert gabor_fit(mixed).explained == pytest.approx(0.8, abs=0.05)


def test_noise_is_no_gabor() -> None:
    noise = torch.randn(20, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert np.median([gabor_fit(each).explained for each in noise]) < 0.35


def test_bandwidth_by_the_spectrum() -> None:
    """Frequencies where the amplitude of the Gaussian spectrum about the frequency is half, as a ratio."""
    found = Gabor(1.0, 0.0, 0.0, 2.0, 3.0, 0.2, 0.0)
    lines = np.linspace(0.001, 0.5, 200_000)
    amplitude = np.exp(-2 * (np.pi * 3.0 * (lines - 0.2)) ** 2)
    above = lines[amplitude >= 0.5]
    assert found.bandwidth == pytest.approx(math.log2(above[-1] / above[0]), abs=1e-3)
    assert Gabor(1.0, 0.0, 0.0, 2.0, 0.5, 0.1, 0.0).bandwidth == math.inf


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 4 by 4"):
        gabor_fit(torch.ones(3, 8))
    with pytest.raises(ValueError, match="is zero"):
        gabor_fit(torch.zeros(8, 8))
