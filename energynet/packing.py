"""Groups of units that are updated at once, and their rows in tensors of one row for each entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.couplings import Couplings

if TYPE_CHECKING:
    from jaxtyping import Float


class Piece(ABC):
    """Some units, which are not coupled."""

    @abstractmethod
    def of(self, rows: Tensor) -> Tensor:
        """The rows of their entries."""

    @abstractmethod
    def pull(self, code: Float[Tensor, units * batch]) -> Tensor:
        """What the others add to the fields on their entries."""

    @abstractmethod
    def put(self, code: Tensor, new: Tensor) -> None:
        """Set the rows of their entries."""


@final
class Listed(Piece):
    """Units anywhere among the others."""

    def __init__(self, couplings: Couplings, units: Tensor) -> None:
        self._couplings = couplings
        self._index = couplings.entries(units)

    def of(self, rows: Tensor) -> Tensor:
        return rows.index_select(0, self._index)

    def pull(self, code: Tensor) -> Tensor:
        return self._couplings.pull(self._index, code)

    def put(self, code: Tensor, new: Tensor) -> None:
        code.index_copy_(0, self._index, new)


@final
class Adjacent(Piece):
    """Units whose entries follow one another."""

    def __init__(self, couplings: Couplings, first: int, last: int) -> None:
        self._couplings = couplings
        self._place = slice(first, last)

    def of(self, rows: Tensor) -> Tensor:
        return rows[self._place]

    def pull(self, code: Tensor) -> Tensor:
        return self._couplings.pull_adjacent(self._place, code)

    def put(self, code: Tensor, new: Tensor) -> None:
        code[self._place] = new


@final
class Packing:
    """All units in an order in which those of each group follow one another.

    A group is then a part of every tensor rather than a copy from all over it.

    Parameters
    ----------
    couplings
        Of the units in their own order.
    groups
        Of units that are not coupled, each unit in one of them.

    Attributes
    ----------
    order
        The entries in the order of the groups.
    pieces
        The groups, of the entries in this order.
    """

    def __init__(self, couplings: Couplings, groups: Sequence[Tensor]) -> None:
        entries = [couplings.entries(group) for group in groups]
        self.order = torch.cat(entries)
        self._back = self.order.argsort()
        ordered = couplings.ordered(self.order)
        ends = accumulate((len(group) for group in entries), initial=0)
        self.pieces = tuple(Adjacent(ordered, first, last) for first, last in pairwise(ends))

    def packed(self, rows: Tensor) -> Tensor:
        """Rows of entries in the order of the groups."""
        return rows.index_select(0, self.order)

    def unpacked(self, rows: Tensor) -> Tensor:
        """The inverse of `packed`."""
        return rows.index_select(0, self._back)


def packing_of(couplings: Couplings, kind: str) -> Packing:
    """The packing by ``"colours"`` or ``"levels"``; made once, then kept with the couplings."""
    if kind not in couplings.packings:
        groups = couplings.colours if kind == "colours" else couplings.levels
        couplings.packings[kind] = Packing(couplings, groups)
    return couplings.packings[kind]
