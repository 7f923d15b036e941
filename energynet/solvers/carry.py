"""The tensors of a state or carry, in a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from energynet.errors import CompileError
from energynet.solvers.base import Shared

_BATCHED, _SHARED = "batched", "shared"  # the leaves of a structure


def flatten(tree: Any) -> tuple[list[Tensor], Any]:
    """The tensors of a nested tuple or dict, and its structure; the order of keys does not matter."""
    if isinstance(tree, Shared):
        return [tree.value], _SHARED
    if isinstance(tree, Tensor):
        return [tree], _BATCHED
    if not isinstance(tree, (tuple, list, dict)):
        raise CompileError(f"expected a tensor, or a tuple or dict of tensors, in a carry, got {tree!r}")
    keys = sorted(tree) if isinstance(tree, dict) else None
    leaves, structures = [], []
    for item in tree if keys is None else (tree[key] for key in keys):
        found, structure = flatten(item)
        leaves += found
        structures.append(structure)
    return leaves, (None if keys is None else tuple(keys), tuple(structures))


def batched(structure: Any) -> list[tuple[int, ...]]:
    """For each leaf of a structure the dimensions that are the batch."""
    if structure in (_BATCHED, _SHARED):
        return [(0,) if structure == _BATCHED else ()]
    return [dims for one in structure[1] for dims in batched(one)]


def rebuild(structure: Any, leaves: Iterator[Tensor]) -> Any:
    """The inverse of `flatten`."""
    if structure in (_BATCHED, _SHARED):
        return next(leaves) if structure == _BATCHED else Shared(next(leaves))
    keys, inner = structure
    items = tuple(rebuild(one, leaves) for one in inner)
    return items if keys is None else dict(zip(keys, items, strict=True))
