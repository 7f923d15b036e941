"""Langevin samplers against bare PyTorch loops, on Gaussians in 100 dimensions, 1000 chains, float32."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from conftest import Versus

CHAINS, UNITS, STEPS = 1000, 100, 100


@functools.cache
def precision(kind: str) -> Tensor:
    """Eigenvalues from 1/2 to 2; along the axes, or in a random frame."""
    rates = torch.linspace(0.5, 2.0, UNITS)
    if kind == "diagonal":
        return rates
    frame = torch.linalg.qr(torch.randn(UNITS, UNITS, generator=torch.Generator().manual_seed(0))).Q
    return (frame * rates) @ frame.T


def energy_of(x: Tensor, matrix: Tensor) -> Tensor:
    return 0.5 * (((x @ matrix) if matrix.ndim == 2 else x * matrix) * x).sum(1)


class Gaussian(en.Energy):
    """As a user writes it: the energy alone."""

    def __init__(self, kind: str) -> None:
        super().__init__(x=en.Real(UNITS))
        self.register_buffer("matrix", precision(kind))

    def energy(self, x: Tensor) -> Tensor:
        return energy_of(x, self.matrix)


class ClosedForm(Gaussian):
    """With the force in closed form, which knows that the matrix is symmetric."""

    def force(self, state: en.State, wrt: Any) -> en.State:
        x = state["x"]
        return {"x": -(x @ self.matrix if self.matrix.ndim == 2 else x * self.matrix)}


def start() -> Tensor:
    return torch.randn(CHAINS, UNITS, generator=torch.Generator().manual_seed(1))


def bare_langevin(kind: str, dt: float) -> Callable[[], Tensor]:
    matrix, first = precision(kind), start()

    def run() -> Tensor:
        x = first
        for _ in range(STEPS):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy_of(x, matrix).sum(), x)
            with torch.no_grad():
                x = x - dt * slope + math.sqrt(2 * dt) * torch.randn_like(x)
        return x

    return run


def bare_mala(kind: str, dt: float) -> Callable[[], Tensor]:
    matrix, first = precision(kind), start()

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        energy = energy_of(x, matrix)
        (slope,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), slope

    def run() -> Tensor:
        x = first
        energy, slope = both(x)
        for _ in range(STEPS):
            noise = math.sqrt(2 * dt) * torch.randn_like(x)
            y = x - dt * slope + noise
            other, climb = both(y)
            back = x - y + dt * climb
            gain = energy - other + (noise.square().sum(1) - back.square().sum(1)) / (4 * dt)
            accept = torch.rand(len(x)).log() < gain
            x = torch.where(accept[:, None], y, x)
            slope = torch.where(accept[:, None], climb, slope)
            energy = torch.where(accept, other, energy)
        return x

    return run


def settled(energy: en.Energy, sampler: en.Sampler) -> Callable[[], Tensor]:
    state, generator = {"x": start()}, torch.Generator().manual_seed(2)
    return lambda: en.settle(energy, state, solver=sampler, max_steps=STEPS, generator=generator).state["x"]


@pytest.mark.parametrize("kind", ["correlated", "diagonal"])
@pytest.mark.parametrize(
    ("energy", "goal"), [(Gaussian, "at most 1"), (ClosedForm, "at most 0.67")], ids=["energy", "force"]
)
def bench_langevin(versus: Versus, kind: str, energy: type[Gaussian], goal: str) -> None:
    """Unadjusted steps; the loop differentiates the same energy by autograd."""
    what = "energy alone" if energy is Gaussian else "force in closed form"
    versus(
        f"{STEPS} Langevin steps, {kind} Gaussian, {what}, against a bare loop with autograd",
        bare_langevin(kind, 0.05),
        settled(energy(kind), en.Langevin(0.05)),
        goal=goal,
        rounds=15,
    )


@pytest.mark.parametrize("kind", ["correlated", "diagonal"])
def bench_mala(versus: Versus, kind: str) -> None:
    """Adjusted steps; the loop is MALA by hand, by autograd."""
    versus(
        f"{STEPS} MALA steps, {kind} Gaussian, energy alone, against a bare loop with autograd",
        bare_mala(kind, 0.05),
        settled(Gaussian(kind), en.MALA(0.05)),
        goal="at most 1",
        note=moments(kind),
        rounds=15,
    )


def moments(kind: str) -> str:
    """The mean of x.A x over UNITS, which is 1, where that of unadjusted steps is 4 % too large.

    On a direction of curvature k it is 1 / (1 - k dt / 2) for them; with 1 = 1.04 (1 - k dt / 2) on average,
    dt = 0.08 / 1.04 over the mean curvature, to first order.
    """
    matrix = precision(kind)
    rates = torch.linalg.eigvalsh(matrix) if matrix.ndim == 2 else matrix
    dt = 0.08 / 1.04 / float(rates.mean())
    told = []
    for sampler in (en.Langevin(dt), en.MALA(dt)):
        state, generator = {"x": start() / rates.mean().sqrt()}, torch.Generator().manual_seed(3)
        found: list[float] = []
        for _ in range(40):
            state = en.settle(Gaussian(kind), state, solver=sampler, max_steps=25, generator=generator).state
            found.append(float(2 * energy_of(state["x"], matrix).mean() / UNITS))
        told.append(sum(found[10:]) / len(found[10:]) - 1)
    law = float((1 / (1 - rates * dt / 2)).mean()) - 1
    assert abs(told[1]) < 0.01
    return f"second moment off by {told[1]:+.2%}; unadjusted {told[0]:+.2%}, by theory {law:+.2%}"
