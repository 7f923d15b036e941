"""Codes of 256 whitened 16x16 patches in 512 learned atoms, lambda 0.1, float32, against FISTA by hand.

The time to a relative gap of the objective is that of the number of steps which reaches it.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor
from whitened import ATOMS, SIDE, STRENGTH, dictionary, fista, patches

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conftest import Versus

GAPS = (1e-3, 1e-6)


@functools.cache
def problem() -> tuple[en.models.SparseCoding, Tensor]:
    model = en.models.SparseCoding(SIDE**2, ATOMS, STRENGTH)
    with torch.no_grad():
        model.weight.copy_(dictionary())
    return model, patches()[:256]


@functools.cache
def best() -> float:
    model, x = problem()
    return objective(fista(model.weight.detach().double(), x.double(), 6000))


def objective(code: Tensor) -> float:
    """Summed over the batch, in float64."""
    model, x = problem()
    error = x.double() - code.double() @ model.weight.detach().double().T
    return float(0.5 * error.square().sum() + STRENGTH * code.double().abs().sum())


def steps_to(gap: float, codes: Sequence[Tensor]) -> int:
    """The first of codes after 0, 1, ... steps whose relative gap is small enough."""
    return next(k for k, code in enumerate(codes) if objective(code) <= best() * (1 + gap))


@functools.cache
def by_hand(gap: float) -> int:
    model, x = problem()
    return steps_to(gap, [fista(model.weight.detach(), x, k) for k in range(150)])


def settled(solver: en.Solver, steps: int) -> Callable[[], Tensor]:
    model, x = problem()
    return lambda: en.settle(model, clamp={"x": x}, solver=solver, max_steps=steps, until=en.Never()).state[
        "a"
    ]


def by_scikit_learn(tol: float) -> Tensor:
    model, x = problem()
    lasso = Lasso(STRENGTH / SIDE**2, fit_intercept=False, tol=tol, max_iter=1000, precompute=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(lasso.fit(model.weight.detach().numpy(), x.numpy().T).coef_)


SOLVERS: dict[str, tuple[Callable[[float], en.Solver], str]] = {
    "FISTA, `Proximal()`": (lambda _: en.Proximal(), "at most 1.2"),
    "`ADMM()`": (lambda _: en.ADMM(), "the quickest"),
    "LCA, `Momentum(1 / L, None)`": (lambda rate: en.Momentum(1 / rate, None), "at most 1.5 and 2.6"),
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", SOLVERS)
def bench_codes(versus: Versus, name: str, gap: float) -> None:
    model, x = problem()
    make, goal = SOLVERS[name]
    solver = make(model.lipschitz())
    path = en.settle(
        model, clamp={"x": x}, solver=solver, max_steps=150, until=en.Never(), record="state"
    ).trajectory["a"]
    steps, hand = steps_to(gap, list(path)), by_hand(gap)
    weight = model.weight.detach()
    versus(
        f"sparse codes to a gap of {gap:g}, {name}, against FISTA by hand on the Gram matrix",
        lambda: fista(weight, x, hand),
        settled(solver, steps),
        goal=goal,
        note=f"{steps} steps, {hand} by hand",
        rounds=15,
    )


@pytest.mark.parametrize("gap", GAPS)
def bench_scikit_learn(versus: Versus, gap: float) -> None:
    """What the coordinate descent of scikit-learn takes, at the loosest tolerance that is enough."""
    model, x = problem()
    weight, hand = model.weight.detach(), by_hand(gap)
    tol = next(
        t for t in 10.0 ** -torch.arange(1, 12) if objective(by_scikit_learn(float(t))) <= best() * (1 + gap)
    )
    versus(
        f"sparse codes to a gap of {gap:g}, scikit-learn's Lasso, against FISTA by hand",
        lambda: fista(weight, x, hand),
        lambda: by_scikit_learn(float(tol)),
        goal="",
        note=f"tol {float(tol):.0e}",
        rounds=5,
    )


def bench_coordinate_descent(versus: Versus) -> None:
    """A sweep of 512 units for the whole batch, against a step of FISTA by hand."""
    model, x = problem()
    weight = model.weight.detach()
    versus(
        "a sweep of coordinate descent over 512 atoms, against a step of FISTA by hand",
        lambda: fista(weight, x, 10),
        settled(en.CoordinateDescent(), 10),
        goal="",
        note="10 of each",
        rounds=5,
    )
