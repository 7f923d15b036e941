"""The coupling of a variable with itself: a symmetric matrix with zero diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.state import State
from energynet.variable import Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@final
class Coupling(Energy):
    """E = -1/2 s . W s, W symmetric with zero diagonal: what Hopfield networks and Boltzmann machines share.

    Whatever ``weight`` holds, the energy reads its symmetric part off the diagonal, times the mask; so does
    its gradient, and an optimiser's step leaves a symmetric weight symmetric.

    Parameters
    ----------
    mask
        Symmetric boolean matrix of the couplings that are there; None, the default, for all. Its diagonal
        is of no matter. A variable with several dimensions is flattened.
    **variable
        The variable, by name: ``Coupling(s=Spin(8))``.

    Attributes
    ----------
    weight
        Parameter of shape (units, units), zero at first.
    mask
        Buffer, 1 where a coupling may be and 0 where none is; None where all may be.
    """

    def __init__(self, mask: Bool[Tensor, units * units] | None = None, **variable: Variable) -> None:
        if len(variable) != 1:
            raise TypeError(f"Coupling: expected one variable, got {sorted(variable)}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        units = math.prod(declared.shape)
        self.weight = nn.Parameter(torch.zeros(units, units))
        self.mask: Tensor | None
        self.register_buffer("mask", None if mask is None else _checked(mask, units))

    def matrix(self) -> Float[Tensor, units * units]:
        """W: the symmetric part of the weight off the diagonal, where the mask has couplings."""
        half = 0.5 * (self.weight + self.weight.t())
        half = half - half.diagonal().diag_embed()
        return half if self.mask is None else half * self.mask

    def energy(self, **state: Tensor) -> Tensor:
        value = rows(state[self.variable])
        return -0.5 * (value * (value @ self.matrix())).sum(1)

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """W s, by one product: autograd does not know that W is symmetric."""
        value = state[self.variable]
        pull = (rows(value) @ self.matrix()).reshape(value.shape)
        return dict.fromkeys(wrt, pull)


def _checked(mask: Tensor, units: int) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != (units, units):
        raise ValueError(
            f"Coupling: expected a mask of dtype torch.bool and shape ({units}, {units}), "
            f"got {mask.dtype} and {tuple(mask.shape)}"
        )
    if not torch.equal(mask, mask.t()):
        raise ValueError(
            "Coupling: expected a symmetric mask, for couplings act both ways; pass mask | mask.T, or "
            "mask & mask.T for fewer"
        )
    return mask.to(torch.get_default_dtype())
