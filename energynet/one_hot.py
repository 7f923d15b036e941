"""Choices among categories."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from energynet.errors import StateError
from energynet.variable import Discrete


@final
class OneHot(Discrete):
    """Categories: along the last dimension one entry is 1 and the others are 0.

    A unit, which is what samplers draw and what a `Partial` clamp may hold, is all entries of the last
    dimension together. The energy is a function of the entries like any other.

    Parameters
    ----------
    *shape
        Shape of one sample, the number of categories last and at least 2: ``OneHot(10)`` is one choice among
        10, ``OneHot(28, 10)`` is 28 of them.
    """

    low, high = 0.0, 1.0

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        if not shape or shape[-1] < 2:
            raise ValueError(
                f"OneHot: expected a shape whose last number, of the categories, is at least 2, got {shape!r}"
            )

    @property
    def alternatives(self) -> tuple[tuple[float, ...], ...]:
        categories = range(self.shape[-1])
        return tuple(tuple(float(entry == choice) for entry in categories) for choice in categories)

    def project(self, value: Tensor) -> Tensor:
        """The nearest of the choices: a 1 at the largest entry, at the first of several."""
        return _one_hot(value.argmax(-1), self.shape[-1], value)

    def check_values(self, name: str, value: Tensor) -> None:
        super().check_values(name, value)
        if value.numel() == 0 or value.is_meta:
            return
        whole = ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)
        if not bool(whole.all()):
            index = (~whole).nonzero()[0].tolist()
            raise StateError(
                f"variable {name!r}: expected one 1 and else zeros along the last dimension of {self!r}, "
                f"got {value[tuple(index)].tolist()} at index {index}; project() gives the nearest choice"
            )

    def check_mask(self, name: str, mask: Tensor) -> None:
        """Raise `StateError` where a part of a unit would be held."""
        if bool((mask != mask[..., :1]).any()):
            raise StateError(
                f"variable {name!r}: a clamp holds all entries of a unit of {self!r} or none, got a mask "
                "that differs along the last dimension"
            )

    def initial(
        self,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Any of the choices, each as likely."""
        *outer, categories = self.shape
        choice = torch.randint(categories, (batch, *outer), device=device, generator=generator)
        return _one_hot(choice, categories, torch.empty(0, dtype=dtype, device=device))


def _one_hot(choice: Tensor, categories: int, like: Tensor) -> Tensor:
    return (choice.unsqueeze(-1) == torch.arange(categories, device=choice.device)).to(like.dtype)
