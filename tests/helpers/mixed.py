"""Small energies of choices and of real units beside two-valued ones, and every state of what is discrete."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import energynet as en
from helpers.discrete import F64, noise
from helpers.functional import Functional


def all_states(energy: en.Energy, names: list[str] | None = None) -> dict[str, Tensor]:
    """All states of discrete variables, written without the library's enumeration."""
    names = list(energy.variables) if names is None else names
    lists = []
    for name in names:
        variable = energy.variables[name]
        if isinstance(variable, en.OneHot):
            *outer, categories = variable.shape
            lists += [list(np.eye(categories))] * int(np.prod(outer))
        else:
            lists += [[np.array([variable.low]), np.array([variable.high])]] * int(np.prod(variable.shape))
    table = torch.tensor(np.array([np.concatenate(row) for row in itertools.product(*lists)]), dtype=F64)
    sizes = [int(np.prod(energy.variables[name].shape)) for name in names]
    parts = table.split(sizes, 1)
    return {n: p.reshape(-1, *energy.variables[n].shape) for n, p in zip(names, parts, strict=True)}


def places(states: dict[str, Tensor], found: dict[str, Tensor]) -> np.ndarray:
    """The place of each state that was found in the list of all."""
    rows = torch.cat([found[name].flatten(1) for name in states], 1)
    table = torch.cat([value.flatten(1) for value in states.values()], 1)
    key = noise(rows.shape[1], seed=11)  # tells all states apart
    order = np.argsort((table @ key).numpy())
    at = np.searchsorted((table @ key).numpy()[order], (rows @ key).numpy() - 1e-9)
    result = order[at]
    assert torch.equal(table[torch.from_numpy(result)], rows)
    return result


def _softmax(e: Any, v: Tensor, h: Tensor) -> Tensor:
    return -(torch.einsum("bik,ikj->bj", v, e.W) * h).sum(1) - (v * e.b).sum((1, 2)) - h @ e.c


def _potts(e: Any, s: Tensor) -> Tensor:
    """A ring of three with couplings of every pair of categories, and squares of the entries themselves."""
    pairs = torch.einsum("bik,ikl,bil->b", s, e.J, s.roll(-1, 1))
    return -pairs - (s * e.b).sum((1, 2)) - 0.4 * (s.sum(1) @ e.a).square()


def _means(e: Any, x: Tensor, s: Tensor) -> Tensor:
    return 0.5 * (x - s @ e.C).square().sum(1)


def _product(e: Any, s: Tensor, t: Tensor) -> Tensor:
    """A cube, so that no force is a difference of energies."""
    return (s @ e.a).sum(1).pow(3) - (s @ e.b).prod(1) * t.sum(1) - 0.3 * t[:, 0] * t[:, 1]


def _gaussian(e: Any, v: Tensor, h: Tensor) -> Tensor:
    return 0.5 * ((v - e.b).square() / e.variance).sum(1) - ((v @ e.W) * h).sum(1) - h @ e.c


def _gated(e: Any, v: Tensor, h: Tensor) -> Tensor:
    """The curvature in v depends on h: a spike and slab."""
    return 0.5 * (v.square() * (1 + h @ e.W.T.square())).sum(1) - v @ e.b - h @ e.c


def _coupled(e: Any, s: Tensor, h: Tensor) -> Tensor:
    return 0.5 * ((s @ e.H) * s).sum(1) - (s * (h @ e.W)).sum(1) - h @ e.c


@cache
def mixed(name: str) -> Functional:
    """Energies by name; each is traced once."""
    root = noise(3, 3, seed=6)
    rbm = {"W": 0.7 * noise(2, 3), "b": noise(2, seed=1), "c": 0.5 * noise(3, seed=2)}
    variance = {"variance": torch.tensor([0.5, 1.5], dtype=F64)}
    softmax = {"W": noise(2, 3, 2), "b": noise(2, 3, seed=1), "c": noise(2, seed=2)}
    potts = {"J": 0.7 * noise(3, 3, 3), "b": 0.5 * noise(3, 3, seed=1), "a": noise(3, seed=2)}
    cube = {"a": 0.5 * noise(3, seed=3), "b": 0.4 * noise(3, seed=4)}
    field = {"H": root @ root.T / 3 + 0.5 * torch.eye(3, dtype=F64), "W": noise(2, 3), "c": noise(2, seed=1)}
    return {
        "softmax": lambda: Functional(_softmax, softmax, v=en.OneHot(2, 3), h=en.Bit(2)),
        "potts": lambda: Functional(_potts, potts, s=en.OneHot(3, 3)),
        "means": lambda: Functional(_means, {"C": noise(4, 2)}, x=en.Real(2), s=en.OneHot(4)),
        "cube": lambda: Functional(_product, cube, s=en.OneHot(2, 3), t=en.Spin(2)),
        "gaussian": lambda: Functional(_gaussian, {**rbm, **variance}, v=en.Real(2), h=en.Bit(3)),
        "rectified": lambda: Functional(_gaussian, {**rbm, **variance}, v=en.NonNegative(2), h=en.Bit(3)),
        "boxed": lambda: Functional(
            _gaussian, {**rbm, **variance}, v=en.Interval(2, low=-0.3, high=0.8), h=en.Spin(3)
        ),
        "gated": lambda: Functional(_gated, rbm, v=en.Real(2), h=en.Bit(3)),
        "coupled": lambda: Functional(_coupled, field, s=en.Real(3), h=en.Bit(2)),
    }[name]()
