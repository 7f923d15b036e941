"""Sparse codes: problems, their optimality conditions and minima by other libraries."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

import energynet as en
from energynet.terms import Reconstruction, Sparsity

STRENGTH = 0.3
KINDS = ("generic", "no input", "duplicate atoms", "threshold above every correlation")


@functools.cache  # its trace serves every dictionary of this shape
def lasso(inputs: int, variable: en.variable.Continuous) -> en.Energy:
    """E = |x - W a|^2 / 2 + STRENGTH |a|_1, in float64."""
    with torch.random.fork_rng(devices=[]):
        return (
            Reconstruction("a", "x", a=variable, x=en.Real(inputs)) + Sparsity(STRENGTH, a=variable)
        ).double()


def with_dictionary(energy: en.Energy, weight: np.ndarray) -> en.Energy:
    """The energy, its dictionary replaced in place."""
    with torch.no_grad():
        energy.energies[0].weight.copy_(torch.from_numpy(weight))  # type: ignore[index, union-attr]
    return energy


def draw(seed: int, inputs: int, atoms: int, kind: str = "generic") -> tuple[np.ndarray, np.ndarray]:
    """A dictionary and three inputs."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(inputs, atoms))
    x = 2 * random.normal(size=(3, inputs))
    if kind == "no input":
        x[:] = 0
    if kind == "duplicate atoms":
        weight[:, 1] = weight[:, 0]
    if kind == "threshold above every correlation":
        x *= 0.999 * STRENGTH / np.abs(x @ weight).max(1, keepdims=True)
    return weight, x


def violation(weight: np.ndarray, x: np.ndarray, code: np.ndarray, positive: bool = False) -> float:
    """How far zero is from the subgradient of |x - W a|^2 / 2 + STRENGTH |a|_1 at codes, at most."""
    slope = (x - code @ weight.T) @ weight
    rest = slope - STRENGTH if positive else np.abs(slope) - STRENGTH
    return float(np.where(code != 0, np.abs(slope - STRENGTH * np.sign(code)), rest.clip(min=0)).max())


def objective(weight: np.ndarray, x: np.ndarray, code: np.ndarray) -> np.ndarray:
    return 0.5 * ((x - code @ weight.T) ** 2).sum(1) + STRENGTH * np.abs(code).sum(1)


def by_coordinate_descent(
    weight: np.ndarray, x: np.ndarray, positive: bool = False, strength: float = STRENGTH
) -> np.ndarray:
    """The least objective by scikit-learn, whose squares are divided by the number of inputs."""
    model = Lasso(
        alpha=strength / len(weight), fit_intercept=False, tol=1e-15, max_iter=100_000, positive=positive
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the duality gap is only as small as rounding
        return np.stack([model.fit(weight, one).coef_ for one in x])


def in_box(hessian: np.ndarray, field: np.ndarray, strength: float, low: float, high: float) -> np.ndarray:
    """Argmin of a.H a / 2 - field.a + strength |a|_1 over a box by scipy, with a = p - q, p and q from 0 up."""
    size = len(field)

    def split(pq: np.ndarray) -> tuple[float, np.ndarray]:
        a = pq[:size] - pq[size:]
        slope = hessian @ a - field
        return (
            0.5 * a @ hessian @ a - field @ a + strength * pq.sum(),
            np.concatenate([slope, -slope]) + strength,
        )

    if low >= 0:
        ends = [(low, high)] * size + [(0.0, 0.0)] * size
    else:
        ends = [(0.0, high)] * size + [(0.0, -low)] * size
    best = minimize(
        split,
        np.array([max(e[0], 0.0) for e in ends]),
        jac=True,
        method="L-BFGS-B",
        bounds=ends,
        options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000},
    )
    return best.x[:size] - best.x[size:]
