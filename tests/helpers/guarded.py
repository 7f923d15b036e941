"""Problems for the safeguarded minimisers, with their solutions by other means."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import energynet as en
from energynet.terms import Bilinear, Field, Leak, Reconstruction, Sparsity

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def definite(size: int, condition: float, seed: int = 0) -> Tensor:
    """A positive definite matrix with eigenvalues from 1 / condition to 1, evenly on a logarithmic scale."""
    turn, _ = torch.linalg.qr(normal(size, size, seed=seed))
    values = torch.logspace(0, -np.log10(condition), size, dtype=F64)
    hessian = turn @ torch.diag(values) @ turn.T
    return (hessian + hessian.T) / 2


class Quadratic(en.Energy):
    """E = z.H z / 2 - z.f over z = (a, b), where b has half of the units."""

    def __init__(self, hessian: Tensor, *variables: en.Variable) -> None:
        a, b = variables
        super().__init__(f=en.Real(len(hessian)), a=a, b=b)
        self.register_buffer("hessian", hessian)

    def energy(self, f: Tensor, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a.flatten(1), b.flatten(1)], 1)
        return 0.5 * ((z @ self.hessian) * z).sum(1) - (z * f).sum(1)


def joined(solution: en.Solution) -> np.ndarray:
    return torch.cat([solution.state["a"].flatten(1), solution.state["b"].flatten(1)], 1).numpy()


def squash(kind: str, field: np.ndarray) -> np.ndarray:
    return {
        "hardsigmoid": lambda u: u.clip(0, 1),
        "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
        "tanh": np.tanh,
    }[kind](field)


def stiff(kind: str) -> tuple[en.Energy, np.ndarray, np.ndarray, np.ndarray]:
    """A network x - h - g - y whose layers have time constants 1, 20 and 0.3, and its weights.

    The coupling's largest eigenvalue is 0.95 times the least curvature of the leak, so that the energy is
    convex, its fixed point unique and ``s <- f(W s + b)`` a contraction.
    """
    sizes, taus = [5, 7, 4], [1.0, 20.0, 0.3]
    link = {"hardsigmoid": None, "sigmoid": en.Sigmoid(), "tanh": en.Tanh()}[kind]
    low = -1.0 if kind == "tanh" else 0.0
    names = ["h", "g", "y"]
    variables = {
        n: en.Interval(size, low=low, high=1.0, tau=tau, link=link)
        for n, size, tau in zip(names, sizes, taus, strict=True)
    }
    matrix = np.zeros((16, 16))
    matrix[:5, 5:12] = normal(5, 7, seed=1)
    matrix[5:12, 12:] = normal(7, 4, seed=2)
    matrix += matrix.T
    matrix *= 0.95 * (4.0 if kind == "sigmoid" else 1.0) / np.linalg.eigvalsh(matrix)[-1]
    terms: list[en.Energy] = [Leak(**{n: v}) for n, v in variables.items()]
    first = Bilinear("x", "h", x=en.Real(3), h=variables["h"])
    middle = Bilinear("h", "g", h=variables["h"], g=variables["g"])
    last = Bilinear("g", "y", g=variables["g"], y=variables["y"])
    bias = Field(y=variables["y"])
    weights = {
        first.weight: normal(5, 3, seed=3),
        middle.weight: torch.from_numpy(matrix[5:12, :5]),
        last.weight: torch.from_numpy(matrix[12:, 5:12]),
        bias.bias: normal(4, seed=4),
    }
    energy = sum([*terms, first, middle, last, bias]).double()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(value)
    field = np.zeros((3 + 1, 16))
    field[:3, :5] = normal(5, 3, seed=3).numpy().T
    field[3, 12:] = normal(4, seed=4)
    return energy, matrix, field[:3], field[3]


def fixed_point(kind: str, matrix: np.ndarray, drive: np.ndarray, held: Any = None) -> np.ndarray:
    state = np.zeros_like(drive)
    for _ in range(1500):  # 0.95^1500 = 4e-34
        state = squash(kind, state @ matrix + drive)
        if held is not None:
            state = np.where(np.isnan(held), state, held)
    return state


def lca(atoms: int, inputs: int, strength: float, nonnegative: bool = False) -> en.Energy:
    link = en.SoftThreshold(strength, nonnegative)
    code = en.NonNegative(atoms, link=link) if nonnegative else en.Real(atoms, link=link)
    term = Reconstruction("a", "x", a=code, x=en.Real(inputs))
    with torch.no_grad():
        term.weight.copy_(torch.nn.functional.normalize(normal(inputs, atoms, seed=9), dim=0))
    return (term + Sparsity(strength, a=code)).double()


def ista(weight: np.ndarray, x: np.ndarray, strength: float, nonnegative: bool) -> np.ndarray:
    rate = 1 / np.linalg.norm(weight, 2) ** 2
    code = np.zeros((len(x), weight.shape[1]))
    for _ in range(6000):
        code = code + rate * (x - code @ weight.T) @ weight
        code = np.sign(code) * (np.abs(code) - rate * strength).clip(min=0)
        code = code.clip(min=0) if nonnegative else code
    return code
