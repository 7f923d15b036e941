"""How much of an atom is a Gabor function: a plane wave under a Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_WIDEST = 4.0  # widths of the envelope, in units of the side of the atom
_NARROWEST = 0.5  # in pixels: less is one pixel, and no wave
_STARTS = 3  # frequencies to begin from, the strongest of the spectrum


@dataclass(frozen=True)
class Gabor:
    """The Gabor function nearest to an atom.

    Attributes
    ----------
    explained
        Share of the atom's sum of squares that it explains, in [0, 1].
    row, column
        Its centre, in pixels from the first.
    length, width
        Standard deviations of the envelope along the stripes and across them, in pixels.
    frequency
        Of the wave, in cycles a pixel.
    orientation
        Of the wave's direction, in radians from the columns' axis, in [0, pi); stripes are at right angles.
    """

    explained: float
    row: float
    column: float
    length: float
    width: float
    frequency: float
    orientation: float

    @property
    def bandwidth(self) -> float:
        """Of spatial frequency, at half of the amplitude, in octaves; infinite where it has no lower end."""
        half = math.sqrt(2 * math.log(2)) / (2 * math.pi * self.width)
        low = self.frequency - half
        return math.log2((self.frequency + half) / low) if low > 0 else math.inf


def gabor_fit(atom: Float[Tensor, "height width"]) -> Gabor:
    """Fit a Gabor function to an atom by least squares, from the strongest frequencies of its spectrum.

    The function is a Gaussian envelope, elongated along or across the stripes, times a cosine of any phase
    (Daugman 1985, J. Opt. Soc. Am. A 2:1160; to learned atoms van Hateren and van der Schaaf 1998, Proc. R.
    Soc. B 265:359). The two amplitudes are solved for, the six other numbers are found by trust-region steps
    (scipy).

    Parameters
    ----------
    atom
        Grey values about zero; ``(height, width)`` of at least 4 by 4.

    Raises
    ------
    ValueError
        If the atom is smaller, or zero.
    """
    picture = atom.detach().double().numpy()
    if picture.ndim != 2 or min(picture.shape) < 4:
        raise ValueError(f"gabor_fit: expected an atom of at least 4 by 4 pixels, got {picture.shape}")
    size = float(np.linalg.norm(picture))
    if not size > 0:
        raise ValueError("gabor_fit: the atom is zero, and so is every fit")
    picture = picture / size
    side = max(picture.shape)
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(float)
    target = picture.ravel()

    def waves(numbers: np.ndarray) -> np.ndarray:
        row, column, log_length, log_width, frequency, angle = numbers
        down, right = rows - row, columns - column
        across = right * math.cos(angle) + down * math.sin(angle)
        along = down * math.cos(angle) - right * math.sin(angle)
        envelope = np.exp(-0.5 * ((across / math.exp(log_width)) ** 2 + (along / math.exp(log_length)) ** 2))
        phase = 2 * math.pi * frequency * across
        return np.stack([(envelope * np.cos(phase)).ravel(), (envelope * np.sin(phase)).ravel()], 1)

    def error(numbers: np.ndarray) -> np.ndarray:
        basis = waves(numbers)
        # a wave of frequency zero has no sine: the least ridge keeps the amplitudes finite
        amplitudes = np.linalg.solve(basis.T @ basis + 1e-9 * np.eye(2), basis.T @ target)
        return target - basis @ amplitudes

    low = [-1.0, -1.0, math.log(_NARROWEST), math.log(_NARROWEST), 0.0, -2 * math.pi]
    widest = math.log(_WIDEST * side)
    high = [float(picture.shape[0]), float(picture.shape[1]), widest, widest, 0.75, 2 * math.pi]
    best: tuple[float, np.ndarray] | None = None
    for start in _starts(picture, rows, columns):
        found = least_squares(
            error, np.clip(start, low, high), bounds=(low, high), x_scale="jac", max_nfev=60
        )
        if best is None or found.cost < best[0]:
            best = found.cost, found.x
    assert best is not None
    cost, (row, column, log_length, log_width, frequency, angle) = best
    return Gabor(
        explained=min(max(1 - 2 * float(cost), 0.0), 1.0),
        row=float(row),
        column=float(column),
        length=math.exp(log_length),
        width=math.exp(log_width),
        frequency=float(frequency),
        orientation=float(angle % math.pi),
    )


def _starts(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> list[list[float]]:
    energy = picture**2 / (picture**2).sum()
    row, column = float((energy * rows).sum()), float((energy * columns).sum())
    spread = math.sqrt(float((energy * ((rows - row) ** 2 + (columns - column) ** 2)).sum()) / 2)
    width = math.log(max(spread, 1.0))
    padded = (2 * picture.shape[0], 2 * picture.shape[1])
    power = np.abs(np.fft.rfft2(picture, padded)) ** 2
    power[0, 0] = 0.0
    down, right = np.fft.fftfreq(padded[0]), np.fft.rfftfreq(padded[1])
    starts: list[list[float]] = []
    for _ in range(_STARTS):
        i, j = np.unravel_index(int(power.argmax()), power.shape)
        frequency, angle = math.hypot(down[i], right[j]), math.atan2(down[i], right[j])
        starts.append([row, column, width, width, frequency, angle])
        # the next is another peak, not the neighbour of this one
        near = np.hypot(
            np.minimum(abs(down[:, None] - down[i]), 1 - abs(down[:, None] - down[i])),
            right[None, :] - right[j],
        )
        power = np.where(near < 0.12, 0.0, power)
    return starts
