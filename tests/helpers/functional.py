"""An energy from a function, and plain autograd to compare it with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Functional(en.Energy):
    """The energy that a function computes from the energy object, for its parameters, and the state."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        tensors: Mapping[str, Tensor | nn.Module] | None = None,
        **variables: en.Variable,
    ) -> None:
        super().__init__(**variables)
        self.function = function
        for name, value in (tensors or {}).items():
            setattr(self, name, value if isinstance(value, nn.Module) else nn.Parameter(value))

    def energy(self, **state: Tensor) -> Tensor:
        return self.function(self, **state)


def autograd_force(energy: en.Energy, state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """-dE/ds by autograd of the scalar, without any of the library's code but the energy."""
    leaves = {name: state[name].detach().clone().requires_grad_() for name in names}
    with torch.enable_grad():
        total = energy.energy(**{**state, **leaves}).sum()
        slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(state[name]) if slope is None else -slope
        for name, slope in zip(leaves, slopes, strict=True)
    }


def traced_force(energy: en.Energy, state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The force that settling uses, with every other variable clamped."""
    clamp = {name: value for name, value in state.items() if name not in names}
    return energy.condition(**clamp).force({name: state[name] for name in names}, list(names))


def central_difference(function: Callable[[], float], entries: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a number in the entries of a tensor that it reads, entry by entry, in place."""
    slopes = torch.zeros_like(entries)
    with torch.no_grad():
        flat, out = entries.view(-1), slopes.view(-1)
        for i in range(len(flat)):
            kept = float(flat[i])
            flat[i] = kept + step
            above = function()
            flat[i] = kept - step
            out[i] = (above - function()) / (2 * step)
            flat[i] = kept
    return slopes
