"""Couplings: how the units of a quadratic energy read each other.

In their code x (`energynet.units`: for two-valued units 0 at the low value and 1 at the high one) such an
energy is that of a Boltzmann machine: the field on an entry, such as the gap E(low) - E(high), is
drive + K x, K symmetric and zero between the entries of one unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float

    from energynet.packing import Packing

_SPARSE = 8  # a row is sparse if at most one unit in so many is coupled to it
_DENSE_UNITS = 16384  # a dense matrix of more units is not made: it would take a gibibyte and more
_PROBES = 2**24  # entries of the coupling matrix that are found at once
_GOLDEN = (5**0.5 - 1) / 2
_SPARE = 8  # operations beside the sum in a product with the matrix, each with its rounding

Products = Callable[[Tensor], Tensor]


class Couplings(ABC):
    """The symmetric matrix K of the couplings of units, in their code.

    Parameters
    ----------
    own
        The force on each entry by its own value, dF_i / ds_i, shape ``(entries,)``; not part of K.
    each
        How many entries, one after the other, make a unit.
    """

    def __init__(self, own: Float[Tensor, units], each: int) -> None:
        self.own = own
        self.each = each
        self.packings: dict[str, Packing] = {}  # by the property that the groups are of

    @property
    def count(self) -> int:
        """The number of units."""
        return len(self.own) // self.each

    def entries(self, units: Tensor) -> Tensor:
        """The places of the entries of some units."""
        if self.each == 1:
            return units
        return (units.unsqueeze(1) * self.each + torch.arange(self.each, device=units.device)).flatten()

    @abstractmethod
    def pull(self, index: Tensor, code: Float[Tensor, units * batch]) -> Tensor:
        """K x in some of the entries, ``(some, batch)``."""

    @abstractmethod
    def pull_adjacent(self, place: slice, code: Float[Tensor, units * batch]) -> Tensor:
        """K x in entries that follow one another."""

    @abstractmethod
    def ordered(self, order: Tensor) -> Couplings:
        """The same couplings of the entries in another order."""

    @abstractmethod
    def among(self, index: Tensor) -> Tensor:
        """K between some entries, ``(some, some)``; the same one may be there more than once."""

    @abstractmethod
    def coupled(self) -> Callable[[int], np.ndarray]:
        """The entries that an entry is coupled to."""

    def neighbours(self) -> Callable[[int], np.ndarray]:
        """The units that a unit is coupled to."""
        coupled, each = self.coupled(), self.each
        if each == 1:
            return coupled
        return lambda unit: np.unique(
            np.concatenate([coupled(entry) for entry in range(unit * each, (unit + 1) * each)]) // each
        )

    def renewed(self, products: Products, width: Float[Tensor, units]) -> Couplings | None:
        """The same pattern of couplings with other strengths, from few products; None where it is unknown.

        Parameters
        ----------
        products, width
            As in `probed`.
        """
        return None

    @abstractmethod
    def alike(self, other: Couplings) -> bool:
        """Whether the same units are coupled in another matrix."""

    @cached_property
    def hollow(self) -> bool:
        """Whether no unit's force reads its own value."""
        return not bool(self.own.any())

    def adopt(self, other: Couplings) -> None:
        """Take over what is known about the same pattern of couplings."""
        for name in ("colours", "levels", "apart"):
            if name in vars(other):
                vars(self)[name] = vars(other)[name]

    @cached_property
    def colours(self) -> tuple[Tensor, ...]:
        """Groups of units that are not coupled, few of them; two where two are enough.

        The next unit is the one with the most colours among its neighbours (Brelaz 1979, Commun. ACM 22:251).
        """
        units = self.count
        neighbours = self.neighbours()
        colour = np.full(units, -1)
        seen = np.zeros((units, 8), dtype=bool)
        count = np.zeros(units, dtype=np.int64)
        for _ in range(units):
            unit = int(count.argmax())
            chosen = int(seen[unit].argmin())  # the first that no neighbour has
            colour[unit], count[unit] = chosen, -units - 1
            around = neighbours(unit)
            count[around] += ~seen[around, chosen]
            seen[around, chosen] = True
            if count[around].max(initial=0) == seen.shape[1]:
                seen = np.pad(seen, ((0, 0), (0, seen.shape[1])))
        return self._groups(colour)

    @cached_property
    def levels(self) -> tuple[Tensor, ...]:
        """Groups of uncoupled units that, one after the other, do what the units in their order would do."""
        units = self.count
        neighbours = self.neighbours()
        level = np.zeros(units, dtype=np.int64)
        for unit in range(units):
            around = neighbours(unit)
            level[unit] = level[around[around < unit]].max(initial=-1) + 1
        return self._groups(level)

    def _groups(self, number: np.ndarray) -> tuple[Tensor, ...]:
        order = torch.from_numpy(np.argsort(number, kind="stable"))
        return order.to(self.own.device).split(np.bincount(number).tolist())


@final
class Dense(Couplings):
    """Couplings as a matrix."""

    def __init__(self, own: Tensor, each: int, matrix: Float[Tensor, units * units]) -> None:
        super().__init__(own, each)
        self.matrix = matrix

    def pull(self, index: Tensor, code: Tensor) -> Tensor:
        return self.matrix.index_select(0, index) @ code

    def pull_adjacent(self, place: slice, code: Tensor) -> Tensor:
        return self.matrix[place] @ code

    def ordered(self, order: Tensor) -> Dense:
        matrix = self.matrix.index_select(0, order).index_select(1, order)
        return Dense(self.own.index_select(0, order), self.each, matrix)

    def among(self, index: Tensor) -> Tensor:
        return self.matrix.index_select(0, index).index_select(1, index)

    def coupled(self) -> Callable[[int], np.ndarray]:
        coupled = (self.matrix != 0).cpu().numpy()
        return lambda unit: np.flatnonzero(coupled[unit])

    def alike(self, other: Couplings) -> bool:
        return isinstance(other, Dense) and torch.equal(self.matrix != 0, other.matrix != 0)


@final
class Sparse(Couplings):
    """Couplings as a list of neighbours for each unit, filled up with some of strength zero."""

    def __init__(self, own: Tensor, each: int, others: Tensor, strength: Tensor) -> None:
        super().__init__(own, each)
        self.others, self.strength = others, strength

    def pull(self, index: Tensor, code: Tensor) -> Tensor:
        others, strength = self.others.index_select(0, index), self.strength.index_select(0, index)
        return functional.embedding_bag(others, code, mode="sum", per_sample_weights=strength)

    def pull_adjacent(self, place: slice, code: Tensor) -> Tensor:
        others, strength = self.others[place], self.strength[place]
        return functional.embedding_bag(others, code, mode="sum", per_sample_weights=strength)

    def ordered(self, order: Tensor) -> Sparse:
        others = order.argsort()[self.others.index_select(0, order)]
        return Sparse(
            self.own.index_select(0, order), self.each, others, self.strength.index_select(0, order)
        )

    def among(self, index: Tensor) -> Tensor:
        others, strength = self.others.index_select(0, index), self.strength.index_select(0, index)
        return ((others.unsqueeze(2) == index) * strength.unsqueeze(2)).sum(1)

    @cached_property
    def apart(self) -> Tensor:
        """A group for each unit, ``(units,)``: none reads two units of one group, or one of its own."""
        neighbours = self.neighbours()
        group = np.full(self.count, -1)
        for unit in range(self.count):
            around = neighbours(unit)
            taken = set(group[np.concatenate([around, *(neighbours(other) for other in around)])].tolist())
            group[unit] = next(number for number in range(len(taken) + 1) if number not in taken)
        return torch.from_numpy(group).to(self.own.device)

    def renewed(self, products: Products, width: Tensor) -> Sparse | None:
        """See `Couplings`: one product for each group of `apart`, and another that has to come out right.

        An entry has one neighbour at most in a group, so that its product with the sum of the group's
        directions is that one coupling (Curtis, Powell and Reid 1974, IMA J. Appl. Math. 13:117).
        """
        units, degree = self.others.shape
        if self.each > 1 or _SPARSE * degree**2 > units:
            return None
        group, there = self.apart, self.strength != 0
        found = products(functional.one_hot(group).t() * width) * width
        own = found.gather(0, group.unsqueeze(0)).squeeze(0)
        strength = torch.where(there, found.t().gather(1, group[self.others]), 0.0)
        # a direction that no new coupling is likely to be orthogonal to
        code = (torch.arange(units, dtype=width.dtype, device=width.device) * _GOLDEN).frac() + 0.5
        terms = strength * code[self.others]
        expected = own * code + terms.sum(1)
        size = (own * code).abs() + terms.abs().sum(1)
        off = (products((code * width).unsqueeze(0)).squeeze(0) * width - expected).abs()
        if bool((off > (degree + _SPARE) * torch.finfo(width.dtype).eps * size).any()):
            return None
        return Sparse(own / width**2, self.each, self.others, strength)

    def coupled(self) -> Callable[[int], np.ndarray]:
        others, there = self.others.cpu().numpy(), (self.strength != 0).cpu().numpy()
        return lambda unit: others[unit][there[unit]]

    def alike(self, other: Couplings) -> bool:
        return (
            isinstance(other, Sparse)
            and torch.equal(self.others, other.others)
            and torch.equal(self.strength != 0, other.strength != 0)
        )


def probed(products: Callable[[Tensor], Tensor], width: Float[Tensor, units], each: int) -> Couplings | None:
    """The couplings of an energy whose Hessian is constant.

    Parameters
    ----------
    products
        From directions ``(some, entries)`` to the change of the force along each of them.
    width
        The change of each entry for a change of its code by 1.
    each
        How many entries make a unit.

    Returns
    -------
    Couplings or None
        None where they are too many to keep.
    """
    units = len(width)
    own: list[Tensor] = []
    blocks: list[Tensor] = []
    sparse: list[tuple[Tensor, Tensor]] = []
    most = units // _SPARSE
    for first in range(0, units, max(1, _PROBES // units)):
        rows = torch.arange(first, min(units, first + max(1, _PROBES // units)), device=width.device)
        ones = torch.zeros(len(rows), units, dtype=width.dtype, device=width.device)
        ones.scatter_(1, rows.unsqueeze(1), 1.0)
        block = products(ones).clone()
        own.append(block.gather(1, rows.unsqueeze(1)).squeeze(1))
        first_of = rows.unsqueeze(1) // each * each
        block.scatter_(1, first_of + torch.arange(each, device=rows.device), 0.0)
        block *= width * width.index_select(0, rows).unsqueeze(1)
        if most and int((block != 0).sum(1).max()) <= most:
            sparse.append(_listed(block))
        elif units > _DENSE_UNITS:
            return None
        else:
            if most:  # what came before was listed
                blocks = [_spread(*part, units) for part in sparse]
                most = 0
            blocks.append(block)
    diagonal = torch.cat(own)
    if not most:
        return Dense(diagonal, each, torch.cat(blocks))
    longest = max(others.shape[1] for others, _ in sparse)
    others, strength = (
        torch.cat([functional.pad(part, (0, longest - part.shape[1])) for part in parts])
        for parts in zip(*sparse, strict=True)
    )
    return Sparse(diagonal, each, others, strength)


def _spread(others: Tensor, strength: Tensor, units: int) -> Tensor:
    """The rows that were listed."""
    return strength.new_zeros(len(others), units).scatter_add_(1, others, strength)


def _listed(block: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of what is not zero in each row, in order, and its values."""
    row, column = block.nonzero(as_tuple=True)
    count = (block != 0).sum(1)
    place = torch.arange(len(row), device=block.device) - (count.cumsum(0) - count)[row]
    size = (len(block), max(1, int(count.max())))
    others = torch.zeros(size, dtype=torch.int64, device=block.device).index_put((row, place), column)
    strength = block.new_zeros(size).index_put((row, place), block[row, column])
    return others, strength
