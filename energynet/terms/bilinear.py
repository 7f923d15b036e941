"""The bilinear term: two variables coupled by a matrix."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import Energy
from energynet.variable import Variable, rows


@final
class Bilinear(Energy):
    """E = -target . (weight @ source): a layer whose two sides drive each other, by the same weight.

    Parameters
    ----------
    source, target
        Names of the two variables.
    **variables
        Their declarations: ``Bilinear("x", "h", x=Real(4), h=Unit(8))``. Variables with several dimensions
        are flattened.

    Attributes
    ----------
    weight
        Parameter of shape (target units, source units), as in ``torch.nn.Linear``. Drawn from
        U(-1/sqrt(n), 1/sqrt(n)) with n the number of source units, torch's own default for a layer.
    """

    def __init__(self, source: str, target: str, **variables: Variable) -> None:
        if source == target or set(variables) != {source, target}:
            raise TypeError(
                f"Bilinear({source!r}, {target!r}): expected the declarations of these two variables, "
                f"got {sorted(variables)}"
            )
        super().__init__(**variables)
        self.source, self.target = source, target
        inputs, outputs = (math.prod(variables[name].shape) for name in (source, target))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)

    def energy(self, **state: Tensor) -> Tensor:
        source, target = rows(state[self.source]), rows(state[self.target])
        return -(target * functional.linear(source, self.weight)).sum(1)
