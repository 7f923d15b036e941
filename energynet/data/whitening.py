"""Whitening, and back: what a map has learnt is from the data it was fitted to, and from nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float


class Whitening(ABC):
    """A map that whitens, with its inverse. Fit one to the data to learn from, and apply it to any."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Whiten, in the dtype of ``x``."""

    @abstractmethod
    def inverse(self, white: Tensor) -> Tensor:
        """Back to where `__call__` came from, in the dtype of ``white``."""


@final
@dataclass(frozen=True, eq=False)
class LinearWhitening(Whitening):
    """white = (x - mean) forward, and back x = white backward + mean.

    Attributes
    ----------
    mean
        Of the data it was fitted to, ``(features,)``, float64, as the others.
    forward
        ``(features, components)``.
    backward
        ``(components, features)``: the inverse of ``forward``; the pseudo-inverse where there are fewer
        components than features.
    """

    mean: Float[Tensor, " features"]
    forward: Float[Tensor, "features components"]
    backward: Float[Tensor, "components features"]

    def __call__(self, x: Float[Tensor, "*any features"]) -> Float[Tensor, "*any components"]:
        _check_floating(x)
        if x.shape[-1:] != self.mean.shape:
            raise ValueError(
                f"whitening: fitted to rows of {len(self.mean)} features, got data of shape {tuple(x.shape)}"
            )
        return (x - self.mean.to(x)) @ self.forward.to(x)

    def inverse(self, white: Float[Tensor, "*any components"]) -> Float[Tensor, "*any features"]:
        _check_floating(white)
        return white @ self.backward.to(white) + self.mean.to(white)


def _check_floating(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"whitening: expected floating-point numbers, got {x.dtype}; convert them first")


def pca(
    train: Float[Tensor, "n features"], components: int | None = None, *, ridge: float = 0.0
) -> LinearWhitening:
    """Whiten by principal components: uncorrelated, of unit variance, the largest variance first.

    Parameters
    ----------
    train : Tensor
        What to fit to, ``(n, features)``.
    components : int, optional
        How many to keep; all by default. With fewer, the inverse gives the nearest point to the data in the
        span of those.
    ridge : float
        Added to every variance before it is divided by, in the units of the data squared. The last components
        of photographs are little but compression noise, which 0, the default, blows up as it is.

    Returns
    -------
    LinearWhitening
        The map. Without a ridge the covariance of the whitened ``train`` (over n - 1) is the identity.

    Raises
    ------
    ValueError
        If a variance is zero to rounding where there is no ridge, or a number is out of range.
    """
    mean, vectors, scale = _spectrum(train, components, ridge)
    return LinearWhitening(mean, vectors / scale, (vectors * scale).mT)


def zca(train: Float[Tensor, "n features"], *, ridge: float = 0.0) -> LinearWhitening:
    """Whiten by the inverse root of the covariance: of all whitened data, those nearest to the data.

    Bell and Sejnowski (1997, Vision Res. 37:3327); that no whitening changes the data less is theirs as well.
    Pixels stay pixels. The arguments are those of `pca`.
    """
    mean, vectors, scale = _spectrum(train, None, ridge)
    return LinearWhitening(mean, (vectors / scale) @ vectors.mT, (vectors * scale) @ vectors.mT)


def _spectrum(train: Tensor, components: int | None, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, the principal directions as columns, and the root of each one's variance plus the ridge."""
    if not isinstance(train, Tensor):
        raise ValueError(f"whitening: expected data as a torch.Tensor, got {type(train).__name__}")
    if train.ndim != 2 or len(train) < 2:
        raise ValueError(
            f"whitening: expected data of shape (n, features) with n > 1, got {tuple(train.shape)}"
        )
    features = train.shape[1]
    kept = features if components is None else components
    if not 1 <= kept <= features:
        raise ValueError(f"whitening: expected 1 to {features} components, got {components}")
    if not ridge >= 0:
        raise ValueError(f"whitening: the ridge is a number from 0 up, got {ridge}")
    values = train.double()
    mean = values.mean(0)
    centred = values - mean
    variances, vectors = torch.linalg.eigh(centred.mT @ centred / (len(values) - 1))
    variances, vectors = variances.flip(0)[:kept], vectors.flip(1)[:, :kept]
    floor = features * torch.finfo(torch.float64).eps * float(variances[0])
    if not float(variances[-1]) + ridge > floor:
        rank = int((variances > floor).sum())
        raise ValueError(
            f"whitening: {kept} components were asked for, but the data vary in {rank} directions; "
            f"give more data, a ridge, or pca(train, components={max(rank, 1)})"
        )
    return mean, vectors, (variances.clamp(min=0) + ridge).sqrt()


@final
@dataclass(frozen=True, eq=False)
class SpectralWhitening(Whitening):
    """The filter of Olshausen and Field (1997, Vision Res. 37:3311), R(f) = f exp(-(f / cutoff)^4).

    Amplitudes of natural images fall as 1 / f. The filter evens them out below the cutoff and removes what is
    above it, the corners of the square of frequencies, where aliasing and noise are. Made by `spectral`.

    Attributes
    ----------
    mean
        Brightness of the images it was fitted to.
    scale
        Standard deviation, over their pixels, of what the filter makes of them.
    cutoff
        In cycles a pixel.

    Notes
    -----
    Images are periodic to it: pixels within a few of one side see the opposite side; `patches` has ``border``
    to stay away from them. The filter takes the mean of each image away, and the inverse puts `mean` in its
    place; all else comes back, the highest frequencies with the rounding of the values times 1 / R: at most
    2.5e4 times for the default cutoff.
    """

    mean: float
    scale: float
    cutoff: float

    def gain(self, height: int, width: int, like: Tensor) -> Float[Tensor, "height width"]:
        """R at the frequencies of a discrete Fourier transform, in the order of `torch.fft.rfft2`."""
        rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device)
        columns = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device)
        frequency = torch.hypot(rows[:, None], columns[None, :])
        return frequency * torch.exp(-((frequency / self.cutoff) ** 4))

    def __call__(self, x: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
        height, width = x.shape[-2:]
        wave = torch.fft.rfft2(x) * self.gain(height, width, x)
        return torch.fft.irfft2(wave, s=(height, width)) / self.scale

    def inverse(self, white: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
        height, width = white.shape[-2:]
        gain = self.gain(height, width, white)
        gain[0, 0] = 1.0
        wave = torch.fft.rfft2(white) / gain
        wave[..., 0, 0] = 0.0
        return torch.fft.irfft2(wave, s=(height, width)) * self.scale + self.mean


def spectral(train: Sequence[Float[Tensor, "height width"]], cutoff: float = 0.4) -> SpectralWhitening:
    """Fit the filter of Olshausen and Field, whose form is given: a mean and a scale are all that is learnt.

    Parameters
    ----------
    train : sequence of Tensor
        Images, ``(height, width)`` each; also a tensor ``(n, height, width)``.
    cutoff : float
        In cycles a pixel, where the filter begins to fall. The default is that of the paper, 200 cycles a
        picture of 512 pixels, 0.4.

    Returns
    -------
    SpectralWhitening
        The map; the pixels of the whitened ``train`` have unit variance together.

    Raises
    ------
    ValueError
        If the cutoff is not positive, or the images are constant.
    """
    if not cutoff > 0:
        raise ValueError(f"spectral: the cutoff is a positive number of cycles a pixel, got {cutoff}")
    for image in train:
        if image.ndim != 2:
            raise ValueError(
                f"spectral: expected whole images, (height, width) each, got one of {tuple(image.shape)}; "
                "patches are whitened by zca or pca"
            )
    pixels = sum(image.numel() for image in train)
    raw = SpectralWhitening(mean=0.0, scale=1.0, cutoff=float(cutoff))
    mean = sum(float(image.double().sum()) for image in train) / max(pixels, 1)
    power = sum(float(raw(image.double()).square().sum()) for image in train) / max(pixels, 1)
    if not power > 0:
        raise ValueError("spectral: expected images that are not constant, got no contrast at all")
    return SpectralWhitening(mean=mean, scale=power**0.5, cutoff=float(cutoff))
