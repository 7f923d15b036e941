"""Normal numbers between two ends, far from the mean or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TAIL = (
    -10.0
)  # probabilities below exp of this are inverted by their asymptotic form, then by Newton's method
_NEWTON = 3  # quadratic convergence from an error of 1 % or less
_FLAT = 1e-7  # the density is taken for constant where its logarithm changes by less


def truncated_normal(mean: Tensor, deviation: Tensor, low: float, high: float, chance: Tensor) -> Tensor:
    """The quantiles of a normal distribution between two ends.

    Parameters
    ----------
    mean, deviation
        Of the distribution without ends; the deviation is positive.
    low, high
        The ends, of which one may be infinite.
    chance
        Numbers in (0, 1), uniform if samples are wanted.

    Notes
    -----
    By the inverse of the distribution function, in float64 and in terms of the logarithm of the upper tail,
    so that it holds where the interval is hundreds of deviations from the mean.
    """
    centre, width = mean.double(), deviation.double()
    below, above = (low - centre) / width, (high - centre) / width
    mirrored = below + above < 0  # so that the interval is on the right, or most of it
    first, last = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
    share = torch.where(mirrored, 1 - chance, chance).double()
    tail = torch.logaddexp(
        torch.log1p(-share) + torch.special.log_ndtr(-first), share.log() + torch.special.log_ndtr(-last)
    )
    quantile = _upper(tail)
    flat = (last - first) * (last.abs() + 1) < _FLAT
    quantile = torch.where(flat, first + share * (last - first), quantile)
    quantile = torch.minimum(torch.maximum(quantile, first), last)
    value = centre + width * torch.where(mirrored, -quantile, quantile)
    return value.to(mean.dtype).clamp(None if low == -math.inf else low, None if high == math.inf else high)


def _upper(tail: Tensor) -> Tensor:
    """Where the upper tail of the standard normal distribution has a probability, given its logarithm."""
    far = (-2 * tail - math.log(2 * math.pi) - (-2 * tail).clamp(min=1.0).log()).clamp(min=1.0).sqrt()
    x = torch.where(tail < _TAIL, far, -torch.special.ndtri(tail.exp()))
    for _ in range(_NEWTON):
        log = torch.special.log_ndtr(-x)
        hazard = (-0.5 * x.square() - 0.5 * math.log(2 * math.pi) - log).exp()
        x = torch.where(tail < -1.0, x + (log - tail) / hazard, x)
    return x
