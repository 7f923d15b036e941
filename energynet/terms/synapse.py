"""A synapse by any linear map, such as a convolution."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from energynet.energy import Energy
from energynet.variable import Variable, rows


@final
class Synapse(Energy):
    """E = -target . module(source): a linear map in both directions, the second by its transpose.

    Parameters
    ----------
    source, target
        Names of the two variables.
    module
        Linear in the source, of the target's shape: `nn.Linear` or `nn.Conv2d` with ``bias=False``. Where it is
        not linear the target drives the source through its derivative there.
    **variables
        Their declarations.
    """

    def __init__(self, source: str, target: str, module: nn.Module, **variables: Variable) -> None:
        if source == target or set(variables) != {source, target}:
            raise TypeError(
                f"Synapse({source!r}, {target!r}): expected the declarations of these two variables, "
                f"got {sorted(variables)}"
            )
        super().__init__(**variables)
        self.source, self.target, self.module = source, target, module

    def energy(self, **state: Tensor) -> Tensor:
        return -(rows(state[self.target]) * rows(self.module(state[self.source]))).sum(1)
