"""The coupling of units with one another: a symmetric matrix with zero diagonal."""

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
        is of no matter.
    **variables
        The variable, by name: ``Coupling(s=Spin(8))``. The units of several are coupled as those of one, in
        the order of declaration, save where the mask leaves out all couplings of two variables. A variable
        with several dimensions is flattened.

    Attributes
    ----------
    weight
        Parameter of shape (units, units), zero at first.
    mask
        Buffer, 1 where a coupling may be and 0 where none is; None where all may be.
    """

    def __init__(self, mask: Bool[Tensor, units * units] | None = None, **variables: Variable) -> None:
        if not variables:
            raise TypeError("Coupling: expected a variable, got none")
        super().__init__(**variables)
        self._sizes = [math.prod(declared.shape) for declared in variables.values()]
        units = sum(self._sizes)
        self.weight = nn.Parameter(torch.zeros(units, units))
        self.mask: Tensor | None
        self.register_buffer("mask", None if mask is None else _checked(mask, units))
        every = torch.ones(units, units, dtype=torch.bool) if mask is None else mask
        self._blocks = _coupled(every, self._sizes) or [(0, 0)]

    def matrix(self) -> Float[Tensor, units * units]:
        """W: the symmetric part of the weight off the diagonal, where the mask has couplings."""
        half = 0.5 * (self.weight + self.weight.t())
        half = half - half.diagonal().diag_embed()
        return half if self.mask is None else half * self.mask

    def energy(self, **state: Tensor) -> Tensor:
        values = [rows(state[name]) for name in self.variables]
        parts = self._parts()
        halves = [0.5 * (values[i] * (values[i] @ parts[i, i])).sum(1) for i, j in self._blocks if i == j]
        wholes = [(values[j] * (values[i] @ parts[i, j])).sum(1) for i, j in self._blocks if i < j]
        return -torch.stack([*halves, *wholes]).sum(0)

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """W s, by one product: autograd does not know that W is symmetric."""
        names, parts, found = list(self.variables), self._parts(), {}
        for name in wrt:
            j = names.index(name)
            value = state[name]
            pulls = [rows(state[names[i]]) @ parts[i, j] for i, k in self._blocks if k == j]
            pull = sum(pulls[1:], pulls[0]) if pulls else torch.zeros_like(rows(value))
            found[name] = pull.reshape(value.shape)
        return found

    def _parts(self) -> dict[tuple[int, int], Tensor]:
        """The matrix by pairs of variables."""
        matrix = self.matrix()
        if len(self._sizes) == 1:
            return {(0, 0): matrix}
        rows_of = [part.split(self._sizes, 1) for part in matrix.split(self._sizes)]
        return {(i, j): rows_of[i][j] for i, j in self._blocks}


def _coupled(mask: Tensor, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of variables that a mask leaves coupled; its diagonal is of no matter."""
    off = mask & ~torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    parts = [part.split(list(sizes), 1) for part in off.split(list(sizes))]
    return [(i, j) for i, row in enumerate(parts) for j, block in enumerate(row) if bool(block.any())]


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
