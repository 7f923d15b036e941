"""Transition matrices of samplers of two-valued units, and whether samples are distributed as they should."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

import energynet as en
from energynet.samplers.noise import Tape
from helpers.discrete import (
    boltzmann,
    dense,
    every_state,
    flat,
    noise,
    numbers,
    other,
    restricted,
    torus,
)
from helpers.functional import Functional

FALSE_ALARM = 1e-6  # of each statistical test


def single_updates(energy: en.Energy, temperature: float) -> tuple[list[np.ndarray], np.ndarray]:
    """The transition matrix of drawing each unit anew, and the distribution, from all energies."""
    states = every_state(energy)
    energies = energy.energy(**states).detach().numpy()
    count, units = flat(states).shape
    matrices = []
    for unit in range(units):
        bit = 2 ** (units - 1 - unit)
        matrix = np.zeros((count, count))
        for state in range(count):
            low, high = state & ~bit, state | bit
            chance = 1 / (1 + np.exp((energies[high] - energies[low]) / temperature))
            matrix[state, high] += chance
            matrix[state, low] += 1 - chance
        matrices.append(matrix)
    return matrices, boltzmann(energies, temperature)


def sweep_matrix(
    energy: en.Energy,
    sampler: Any,
    temperature: float,
    matrices: list[np.ndarray],
    orders: list[Tensor | None],
) -> np.ndarray:
    """The transition matrix of a step, by feeding it with every combination of uniform numbers that matters.

    A step is constant in its numbers between the conditional probabilities; the cells between them are
    weighted with their volumes. ``orders`` are the numbers that decide the order of the units, all as likely.
    """
    states = every_state(energy)
    count, units = flat(states).shape
    edges = np.unique(
        np.round(
            np.concatenate(
                [
                    [0.0, 1.0],
                    *(
                        m[np.arange(count), np.arange(count) | 2 ** (units - 1 - i)]
                        for i, m in enumerate(matrices)
                    ),
                ]
            ),
            15,
        )
    )
    middles, volumes = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    cells = torch.from_numpy(np.array(list(itertools.product(middles, repeat=units))))
    weights = np.array(list(itertools.product(volumes, repeat=units))).prod(1)
    start = {name: value.repeat_interleave(len(cells), 0) for name, value in states.items()}
    flow = sampler.flow(energy, None, start)
    carry = sampler.init(flow, start)
    total = np.zeros((count, count))
    for order in orders:
        dry = Tape(given=[] if order is None else [order])
        sampler.sample(flow, start, carry, dry, temperature)
        given, used = [], 0
        for _, shape in dry.asked:
            if order is not None and not given:
                given.append(order)
                continue
            across = shape[1] if shape[0] == len(cells) * count else shape[0]
            part = cells.repeat(count, 1)[:, used : used + across]
            given.append(part if shape[0] == len(part) else part.t().contiguous())
            used += across
        assert used == units
        after, _, _ = sampler.sample(flow, start, carry, Tape(given=given), temperature)
        ends = numbers(energy, after).reshape(count, len(cells))
        for state in range(count):
            total[state] += np.bincount(ends[state], weights, minlength=count)
    return total / len(orders)


def product(matrices: list[np.ndarray], order: Any) -> np.ndarray:
    return np.linalg.multi_dot(
        [np.eye(len(matrices[0])), *(matrices[i] for i in order), np.eye(len(matrices[0]))]
    )


def reversible(matrix: np.ndarray, distribution: np.ndarray) -> np.ndarray:
    flux = distribution[:, None] * matrix
    return np.abs(flux - flux.T).max()


def chain(e: Any, s: Tensor) -> Tensor:
    return -(s[:, 1:] * s[:, :-1]) @ e.J - s @ e.b


@cache
def model(name: str) -> Functional:
    models: dict[str, Any] = {
        "spins": lambda: dense(en.Spin(3)),
        "bits": lambda: dense(en.Bit(3), own=True),
        "two variables": lambda: restricted(en.Bit(2), en.Spin(1)),
        "chain": lambda: Functional(chain, {"J": noise(2), "b": noise(3, seed=1)}, s=en.Spin(3)),
        "quartic": lambda: other("quartic", en.Spin, 3),
        "threshold": lambda: other("threshold", en.Bit, 3),
    }
    return models[name]()


def assert_distributed(energy: en.Energy, state: dict[str, Tensor], temperature: float) -> None:
    """Pearson's chi-square over all states, the rare ones pooled, at a false alarm rate of 1e-6."""
    weights = boltzmann(energy.energy(**every_state(energy)).detach().numpy(), temperature)
    found = np.bincount(numbers(energy, state), minlength=len(weights))
    expected = weights * found.sum()
    rare = expected < 10
    if rare.any():
        found = np.append(found[~rare], found[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    statistic = ((found[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert statistic < chi2.isf(FALSE_ALARM, kept.sum() - 1)


@cache
def eight(kind: str) -> Functional:
    makers: dict[str, Any] = {
        "spins": lambda: dense(en.Spin(8), scale=0.15, seed=7),
        "bits": lambda: dense(en.Bit(8), scale=0.4, seed=8, own=True),
        "two variables": lambda: restricted(en.Bit(5), en.Spin(3), seed=9),
        "ring": lambda: torus(8, coupling=0.3, field=0.2),
    }
    return makers[kind]()


CHAINS = 20_000
