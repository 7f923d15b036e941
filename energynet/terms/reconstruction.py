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
    learn_variance
        Make the logarithm of the variance a parameter, starting at ``variance``. The energy then has the
        normaliser log(2 pi variance) / 2 for each unit, without which the variance would grow without end.
    through
        A module that the source passes first, unit by unit, such as `Shrinkage`: E = |target - W f(source)|^2
        / (2 variance).
    **variables
        Their declarations: ``Reconstruction("a", "x", a=Real(512), x=Real(256))``.

    Attributes
    ----------
    weight
        Parameter of shape (units of the target, units of the source): the dictionary, one atom a column. At
        first every atom is a random direction of unit norm.
    log_variance
        Parameter, a scalar, where the variance is learned; else None.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        variance: float = 1.0,
        learn_variance: bool = False,
        through: nn.Module | None = None,
        **variables: Variable,
    ) -> None:
        if set(variables) != {source, target}:
            raise TypeError(
                f"Reconstruction: expected declarations of {source!r} and {target!r}, got {sorted(variables)}"
            )
        if not 0 < variance < math.inf:
            raise ValueError(f"Reconstruction: the variance is a positive number, got {variance!r}")
        super().__init__(**variables)
        self.source, self.target = source, target
        self._number = float(variance)
        self.log_variance: nn.Parameter | None = None
        if learn_variance:
            self.log_variance = nn.Parameter(torch.tensor(self._number).log())
        self.through = through
        inputs, outputs = (math.prod(variables[name].shape) for name in (source, target))
        self.weight = nn.Parameter(functional.normalize(torch.randn(outputs, inputs), dim=0))

    @property
    def variance(self) -> float | Tensor:
        """sigma^2: a number, or a scalar tensor where it is learned."""
        return self._number if self.log_variance is None else self.log_variance.exp()

    def energy(self, **state: Tensor) -> Tensor:
        source, target = rows(state[self.source]), rows(state[self.target])
        if self.through is not None:
            source = self.through(source)
        error = target - functional.linear(source, self.weight)
        square = error.square().sum(1) / (2 * self.variance)
        if self.log_variance is None:
            return square
        return square + 0.5 * target.shape[1] * (self.log_variance + math.log(2 * math.pi))
