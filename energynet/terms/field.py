"""The linear term: a constant field on a variable."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.variable import Variable, rows


@final
class Field(Energy):
    """E = -bias . s, where s is one variable.

    Parameters
    ----------
    **variable
        The variable, by name: ``Field(h=Unit(8))``.

    Attributes
    ----------
    bias
        Parameter of the variable's shape, zero at first.
    """

    def __init__(self, **variable: Variable) -> None:
        if len(variable) != 1:
            raise TypeError(f"Field: expected one variable, got {sorted(variable)}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        self.bias = nn.Parameter(torch.zeros(declared.shape))

    def energy(self, **state: Tensor) -> Tensor:
        return -rows(state[self.variable] * self.bias).sum(1)
