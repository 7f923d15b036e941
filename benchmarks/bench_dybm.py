"""Learning of a dynamic Boltzmann machine, tick by tick, against numpy written by its equations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

import energynet as en

if TYPE_CHECKING:
    from conftest import Versus

DECAYS = np.array([0.25, 0.5, 0.75])


class Numpy:
    """The traces, the conditional, the rule and AdaGrad, an equation a line, in the dtype of the model."""

    def __init__(self, model: en.models.DynamicBoltzmannMachine) -> None:
        self.d = model.traces.delays.numpy()
        self.b, self.u, self.v = (p.detach().numpy().copy() for p in (model.b, model.u, model.v))
        n, K, dtype = *self.u.shape[1:], self.b.dtype
        self.decays, self.sources = DECAYS.astype(dtype), np.arange(n)[:, None]
        self.queue = np.zeros((self.d.max(), n), dtype)
        self.alpha, self.gamma = np.zeros((n, n, K), dtype), np.zeros((n, K), dtype)
        self.squares = [np.full_like(p, np.finfo(dtype).tiny) for p in (self.b, self.u, self.v)]
        age = np.arange(1, self.d.max())[:, None, None]
        self.weights = np.where(age < self.d, 1.0, 0.0)[..., None] * DECAYS ** age[..., None]
        self.weights = self.weights.astype(dtype)

    def learn(self, sequence: np.ndarray) -> None:
        for x in sequence:
            beta = np.einsum("mi,mijl->ijl", self.queue[:-1], self.weights)
            field = self.b + np.einsum("ijk,ijk->j", self.u, self.alpha)
            field -= np.einsum("ijl,ijl->j", self.v, beta) + np.einsum("jil,il->j", self.v, self.gamma)
            with np.errstate(over="ignore"):
                e = x - 1 / (1 + np.exp(-field))
            slopes = (
                e,
                self.alpha * e[:, None],
                -beta * e[:, None] - self.gamma * e[:, None, None],
            )
            for parameter, total, slope in zip((self.b, self.u, self.v), self.squares, slopes, strict=True):
                np.add(total, slope * slope, out=total)
                np.add(parameter, slope / np.sqrt(total), out=parameter)
            self.queue[1:] = self.queue[:-1].copy()
            self.queue[0] = x
            self.alpha = self.decays * (self.alpha + self.queue[self.d - 1, self.sources][..., None])
            self.gamma = self.decays * (self.gamma + x[:, None])


def compare(versus: Versus, n: int, ticks: int, dtype: torch.dtype, goal: str, rounds: int = 31) -> None:
    generator = torch.Generator().manual_seed(0)
    delays = torch.randint(1, 10, (n, n), generator=generator)
    model = en.models.DynamicBoltzmannMachine(n, delays, DECAYS, DECAYS, generator=generator).to(dtype)
    sequence = torch.randint(0, 2, (ticks, n), generator=generator).to(dtype)
    baseline = Numpy(model)
    numbers = sequence.numpy()
    baseline.learn(numbers)
    model.learn(sequence)
    error = np.abs(model.u.detach().numpy() - baseline.u).max()
    versus(
        f"{ticks} ticks of {n} neurons, {str(dtype).removeprefix('torch.')}, against numpy by its equations",
        lambda: baseline.learn(numbers),
        lambda: model.learn(sequence),
        goal=goal,
        note=f"largest difference of u after {ticks} ticks {error:.0e}",
        rounds=rounds,
    )


def bench_seven(versus: Versus) -> None:
    compare(versus, 7, 700, torch.float64, "at most 1")


def bench_one_period_of_seven(versus: Versus) -> None:
    compare(versus, 7, 35, torch.float64, "")


def bench_hundred(versus: Versus) -> None:
    compare(versus, 100, 70, torch.float64, "at most 0.33")


def bench_hundred_single(versus: Versus) -> None:
    compare(versus, 100, 70, torch.float32, "at most 0.33")
