"""The linear generative term of sparse coding: how far the data are from what the codes predict."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import Energy
from energynet.variable import Variable, rows


@final
class Reconstruction(Energy):
    """E = |target - W source|^2 / (2 variance), summed over units (Olshausen and Field 1996, eq. 2).

    Parameters
    ----------
    source, target
        Names of the code and of what it reconstructs.
    variance
        Of the noise.
    **variables
        Their declarations: ``Reconstruction("a", "x", a=Real(512), x=Real(256))``.

    Attributes
    ----------
    weight
        Parameter of shape (units of the target, units of the source): the dictionary, one atom a column. At
        first every atom is a random direction of unit norm.
    """

    def __init__(self, source: str, target: str, *, variance: float = 1.0, **variables: Variable) -> None:
        if set(variables) != {source, target}:
            raise TypeError(
                f"Reconstruction: expected declarations of {source!r} and {target!r}, got {sorted(variables)}"
            )
        if not 0 < variance < math.inf:
            raise ValueError(f"Reconstruction: the variance is a positive number, got {variance!r}")
        super().__init__(**variables)
        self.source, self.target = source, target
        self.variance = float(variance)
        inputs, outputs = (math.prod(variables[name].shape) for name in (source, target))
        self.weight = nn.Parameter(functional.normalize(torch.randn(outputs, inputs), dim=0))

    def energy(self, **state: Tensor) -> Tensor:
        source, target = rows(state[self.source]), rows(state[self.target])
        error = target - functional.linear(source, self.weight)
        return error.square().sum(1) / (2 * self.variance)
