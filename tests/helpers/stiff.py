"""Layered networks that are stiff and have one fixed point, and their dynamics written out in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LINKS = {
    "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
    "tanh": np.tanh,
    "hardsigmoid": lambda u: np.clip(u, 0, 1),
}
LEAST = {
    "sigmoid": 4.0,
    "tanh": 1.0,
    "hardsigmoid": 1.0,
}  # curvature of the leak: 1 over the slope of the link
SIZES = (3, 6, 5, 4)


def stiff(
    activation: str, *, coupling: float = 0.95, spread: float = 100.0, seed: int = 0
) -> en.models.LayeredHopfield:
    """A network whose couplings have the norm ``coupling`` times the least curvature of the leaks.

    Below 1 the energy is strictly convex, so there is one fixed point. The time constants of the layers fall
    from 1 to 1 / spread.
    """
    torch.manual_seed(seed)
    model = en.models.LayeredHopfield(SIZES, activation=activation).double()
    names = list(model.fields)
    within = {key: weight(model, key) for key in model.couplings if not key.startswith("x_")}
    norm = np.linalg.norm(matrix(within, names), 2)
    for value in within.values():
        value.mul_(coupling * LEAST[activation] / float(norm))
    for number, name in enumerate(names):
        nn.init.uniform_(model.fields[name].bias, 0.1, 0.4)  # type: ignore[arg-type]
        model.variables[name].tau = spread ** (-number / (len(names) - 1))  # type: ignore[attr-defined]
    return model


def weight(model: en.models.LayeredHopfield, key: str) -> Tensor:
    return model.couplings[key].weight.data  # type: ignore[union-attr, return-value]


def matrix(weights: Mapping[str, Tensor], names: list[str]) -> np.ndarray:
    """The symmetric matrix of the couplings between the layers above the input."""
    edges = dict(zip(names, np.cumsum([0, *SIZES[1:]]), strict=False))
    whole = np.zeros((sum(SIZES[1:]), sum(SIZES[1:])))
    for key, value in weights.items():
        low, high = key.split("_")
        rows, columns = edges[high], edges[low]
        whole[rows : rows + value.shape[0], columns : columns + value.shape[1]] = value.numpy()
    return whole + whole.T


class Written:
    """The same network as one vector of potentials: tau du/dt = -u + W f(u) + drive."""

    def __init__(self, model: en.models.LayeredHopfield, x: Tensor) -> None:
        names = list(model.fields)
        keys = [key for key in model.couplings if not key.startswith("x_")]
        self.names = names
        self.link: Any = LINKS[model.activation]
        self.coupling = matrix({key: weight(model, key) for key in keys}, names)
        bias = np.concatenate([model.fields[n].bias.detach().numpy() for n in names])  # type: ignore[union-attr]
        self.drive = np.tile(bias, (len(x), 1))
        self.drive[:, : SIZES[1]] += x.numpy() @ weight(model, "x_h1").numpy().T
        tau = [np.full(n, model.variables[name].tau) for n, name in zip(SIZES[1:], names, strict=True)]  # type: ignore[attr-defined]
        self.tau = np.concatenate(tau)

    def velocity(self, sample: int, u: np.ndarray) -> np.ndarray:
        return (-u + self.coupling @ self.link(u) + self.drive[sample]) / self.tau

    def wrong(self, state: Mapping[str, Tensor]) -> float:
        """How far values are from f(W values + drive)."""
        s = self.join(state)
        return float(np.abs(s - self.link(s @ self.coupling + self.drive)).max())

    def join(self, state: Mapping[str, Tensor]) -> np.ndarray:
        return np.concatenate([state[name].numpy() for name in self.names], 1)


def inputs(batch: int = 3, seed: int = 5) -> Tensor:
    return torch.randn(batch, SIZES[0], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
