"""The soft threshold as a module, through which potentials become codes that are exactly zero."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class Shrinkage(nn.Module):
    """f(u) = sign(u) max(|u| - threshold, 0), with derivative 1 outside the threshold and 0 within.

    Unlike the link `SoftThreshold` it is a part of an energy of u: a sampler of u then has the derivative in
    its drift, and samples exp(-E(f(u)) - prior(u)).

    Parameters
    ----------
    threshold
        Positive.
    learn_threshold
        Make the logarithm of the threshold a parameter, starting at ``threshold``.
    """

    def __init__(self, threshold: float, *, learn_threshold: bool = False) -> None:
        super().__init__()
        if not 0 < threshold < math.inf:
            raise ValueError(f"Shrinkage: the threshold is a positive number, got {threshold!r}")
        self._number = float(threshold)
        self.log_threshold: nn.Parameter | None = None
        if learn_threshold:
            self.log_threshold = nn.Parameter(torch.tensor(self._number).log())

    @property
    def threshold(self) -> float | Tensor:
        """A number, or a scalar tensor where it is learned."""
        return self._number if self.log_threshold is None else self.log_threshold.exp()

    def forward(self, potential: Tensor) -> Tensor:
        """From potentials to codes."""
        return potential.sign() * (potential.abs() - self.threshold).relu()
