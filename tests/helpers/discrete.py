"""Small discrete energies, and what is true of them by looking at every state."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import energynet as en
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Mapping

F64 = torch.float64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def every_state(energy: en.Energy, names: list[str] | None = None) -> dict[str, Tensor]:
    """All states of discrete variables, the last unit fastest."""
    names = list(energy.variables) if names is None else names
    variables = [energy.variables[name] for name in names]
    ends = [v.values for v in variables for _ in range(int(np.prod(v.shape)))]  # type: ignore[attr-defined]
    table = np.array(list(itertools.product(*ends)))
    state, first = {}, 0
    for name, variable in zip(names, variables, strict=True):
        size = int(np.prod(variable.shape))
        state[name] = torch.tensor(table[:, first : first + size], dtype=F64).reshape(-1, *variable.shape)
        first += size
    return state


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(len(value), -1) for value in state.values()], 1)


def numbers(energy: en.Energy, state: Mapping[str, Tensor]) -> np.ndarray:
    """The place of each state among all of them."""
    high = flat({name: state[name] for name in energy.variables}).numpy() > flat(
        every_state(energy)
    ).numpy().mean(0)
    return high @ (2 ** np.arange(high.shape[1])[::-1])


def boltzmann(energies: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp(-(energies - energies.min()) / temperature)
    return weights / weights.sum()


def flips(energy: en.Energy, state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """E(high) - E(low) of every unit, by changing one after the other."""
    result = {}
    for name in names:
        variable: Any = energy.variables[name]
        found = torch.zeros_like(state[name])
        for place in itertools.product(*map(range, variable.shape)):
            ends = []
            for end in variable.values:
                changed = state[name].clone()
                changed[(slice(None), *place)] = end
                ends.append(energy.energy(**{**state, name: changed}))
            found[(slice(None), *place)] = ends[1] - ends[0]
        result[name] = found
    return result


def _dense(e: Any, s: Tensor) -> Tensor:
    return -0.5 * torch.einsum("bi,ij,bj->b", s, e.W, s) - s @ e.b


def dense(variable: en.Variable, *, scale: float = 0.5, seed: int = 0, own: bool = False) -> Functional:
    """A Boltzmann machine of one variable, fully coupled; ``own``: also each unit with itself."""
    (n,) = variable.shape
    raw = scale * noise(n, n, seed=seed)
    weight = raw + raw.T
    if not own:
        weight.fill_diagonal_(0.0)
    return Functional(_dense, {"W": weight, "b": 0.3 * noise(n, seed=seed + 1)}, s=variable)


def _restricted(e: Any, v: Tensor, h: Tensor) -> Tensor:
    return -((v @ e.W) * h).sum(1) - v @ e.b - h @ e.c


def restricted(v: en.Variable, h: en.Variable, *, seed: int = 0) -> Functional:
    (n,), (m,) = v.shape, h.shape
    tensors = {"W": noise(n, m, seed=seed), "b": noise(n, seed=seed + 1), "c": noise(m, seed=seed + 2)}
    return Functional(_restricted, tensors, v=v, h=h)


def _ring(e: Any, s: Tensor) -> Tensor:
    neighbours = sum(s * s.roll(1, dim) for dim in range(1, s.ndim))
    assert isinstance(neighbours, Tensor)
    return -e.J * neighbours.flatten(1).sum(1) - e.h * s.flatten(1).sum(1)


def torus(*shape: int, kind: type = en.Spin, coupling: float = 0.4, field: float = 0.1) -> Functional:
    """The Ising model on a periodic grid."""
    tensors = {"J": torch.tensor(coupling, dtype=F64), "h": torch.tensor(field, dtype=F64)}
    return Functional(_ring, tensors, s=kind(*shape))


def _open(e: Any, s: Tensor) -> Tensor:
    across = (s[:, 1:] * s[:, :-1]).flatten(1).sum(1) + (s[:, :, 1:] * s[:, :, :-1]).flatten(1).sum(1)
    return -e.J * across


def grid(*shape: int) -> Functional:
    """The Ising model on a grid with edges."""
    return Functional(_open, {"J": torch.tensor(0.4, dtype=F64)}, s=en.Spin(*shape))


def _quartic(e: Any, s: Tensor) -> Tensor:
    return (s @ e.a).pow(4) - 0.5 * (s @ e.b).square()


def _thresholded(e: Any, s: Tensor) -> Tensor:
    return ((s @ e.a) > 0.2).to(s.dtype) * (s @ e.b) + (s > 0.5).to(s.dtype) @ e.b


def _untraceable(e: Any, s: Tensor) -> Tensor:
    return torch.stack([(row @ e.a).square() if bool(row.sum() > 0) else row @ e.b for row in s])


def _third_order(e: Any, s: Tensor) -> Tensor:
    return -torch.einsum("bi,bj,bk,ijk->b", s, s, s, e.T) - s @ e.a


@cache
def other(name: str, kind: type, n: int = 4) -> Functional:
    """Energies that no unit of is a quadratic function: differences of energies are needed."""
    function = {
        "quartic": _quartic,
        "threshold": _thresholded,
        "untraceable": _untraceable,
        "third": _third_order,
    }
    tensors = {"a": 0.6 * noise(n, seed=3), "b": noise(n, seed=4)}
    if name == "third":
        tensors["T"] = 0.2 * noise(n, n, n, seed=5)
    return Functional(function[name], tensors, s=kind(n))
