"""Clamps: which variables are held, whole or in part, and what they and a start have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.state import State
from energynet.variable import Variable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Partial:
    """A clamp of a part of a variable: entries where ``mask`` is true are held at ``value``.

    Parameters
    ----------
    value
        Tensor of shape ``(batch, *shape)``; entries outside the mask are ignored and may be NaN.
    mask
        Boolean tensor that broadcasts to the shape of ``value``.
    """

    value: Float[Tensor, batch * shape]
    mask: Bool[Tensor, ...]

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise StateError(f"Partial: expected a mask of dtype torch.bool, got {self.mask.dtype}")
        try:
            fits = torch.broadcast_shapes(self.mask.shape, self.value.shape) == self.value.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise StateError(
                f"Partial: expected a mask that broadcasts to {tuple(self.value.shape)}, "
                f"got shape {tuple(self.mask.shape)}"
            )

    def filled(self, variable: Variable) -> Tensor:
        """The value, with a value of the variable's domain outside the mask."""
        return torch.where(self.mask, self.value, variable.project(torch.zeros_like(self.value)))

    @property
    def full_mask(self) -> Tensor:
        return self.mask.expand(self.value.shape)


Clamp = Mapping[str, Tensor | Partial]


def common(energy: Energy, known: Mapping[str, Tensor]) -> tuple[int, Tensor]:
    """The size of the batch of some values, 1 where there are none, and a tensor of the dtype and device."""
    sizes = {name: len(value) for name, value in known.items()}
    if len(set(sizes.values())) > 1:
        raise StateError(f"expected one batch size for all values, got {sizes}")
    tensors = [*energy.parameters(), *known.values()]
    return next(iter(sizes.values()), 1), next(
        (tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0)
    )


def split(energy: Energy, clamp: Clamp) -> tuple[State, dict[str, Partial]]:
    """The variables that a clamp holds as a whole, and those it holds in part."""
    whole: State = {}
    held: dict[str, Partial] = {}
    for name, value in clamp.items():
        if name not in energy.variables:
            energy.check({name: value if isinstance(value, Tensor) else value.value}, partial=True)
        if isinstance(value, Partial):
            energy.variables[name].check_shape(name, value.value)
            energy.variables[name].check_mask(name, value.full_mask)
            held[name] = value
        elif isinstance(value, Tensor):
            whole[name] = value
        else:
            raise StateError(
                f"variable {name!r}: expected a tensor or en.Partial(value, mask) to clamp it to, "
                f"got {type(value).__name__}"
            )
    return whole, held
