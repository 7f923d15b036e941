"""Gibbs sampling of the Ising model: a periodic 64x64 grid, 256 chains, beta = 0.4."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Versus

SIDE, CHAINS, BETA, SWEEPS = 64, 256, 0.4, 50


def exact_bond_energy(side: int, beta: float) -> float:
    """The mean of s s' on a bond of a periodic square grid (Kaufman 1949, Phys. Rev. 76:1232)."""

    def log_partition(coupling: float) -> float:
        c = math.cosh(2 * coupling) ** 2 / math.sinh(2 * coupling)
        gamma = [
            2 * coupling + math.log(math.tanh(coupling))
            if k == 0
            else math.acosh(c - math.cos(math.pi * k / side))
            for k in range(2 * side)
        ]
        products = []
        for first, function in ((1, math.cosh), (1, math.sinh), (0, math.cosh), (0, math.sinh)):
            halves = [0.5 * side * gamma[k] for k in range(first, 2 * side, 2)]
            values = [2 * function(half) for half in halves]
            products.append((sum(math.log(abs(v)) for v in values), np.prod(np.sign(values))))
        largest = max(log for log, _ in products)
        total = sum(sign * math.exp(log - largest) for log, sign in products)
        return (
            -math.log(2) + 0.5 * side**2 * math.log(2 * math.sinh(2 * coupling)) + largest + math.log(total)
        )

    step = 1e-5
    return (log_partition(beta + step) - log_partition(beta - step)) / (2 * step) / (2 * side**2)


class Grid(en.Energy):
    """E = -beta sum of s s' over the bonds: nothing but the trace tells which units are neighbours."""

    def __init__(self) -> None:
        super().__init__(s=en.Spin(SIDE, SIDE))
        self.beta = nn.Parameter(torch.tensor(BETA))

    def energy(self, s: Tensor) -> Tensor:
        return -self.beta * (s * (s.roll(1, 1) + s.roll(1, 2))).sum((1, 2))


def lattice() -> en.terms.Lattice:
    """The same as a term."""
    term = en.terms.Lattice(s=en.Spin(SIDE, SIDE))
    with torch.no_grad():
        term.coupling.fill_(BETA)
    return term


@functools.cache
def start() -> torch.Tensor:
    return en.Spin(SIDE, SIDE).initial(
        CHAINS, dtype=torch.float32, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0)
    )


def ours(energy: en.Energy) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(1)
    state = {"s": start()}

    def run() -> None:
        solution = en.settle(
            energy, state, solver=en.Gibbs(scan="block"), max_steps=SWEEPS, generator=generator
        )
        state["s"] = solution.state["s"]

    return run


def roll_and_mask() -> Callable[[], object]:
    """The usual checkerboard in torch: neighbours by shifts, the other colour masked out."""
    black = (torch.arange(SIDE).unsqueeze(1) + torch.arange(SIDE)) % 2 == 0
    generator = torch.Generator().manual_seed(1)
    state = [start()]

    def run() -> None:
        s = state[0]
        for _ in range(SWEEPS):
            for colour in (black, ~black):
                field = s.roll(1, 1) + s.roll(-1, 1) + s.roll(1, 2) + s.roll(-1, 2)
                up = torch.rand(s.shape, generator=generator) < torch.sigmoid(2 * BETA * field)
                s = torch.where(colour, torch.where(up, 1.0, -1.0), s)
        state[0] = s

    return run


def numpy_table() -> Callable[[], object]:
    """The quickest by hand: each colour packed into bytes, and a table of the five probabilities."""
    rng = np.random.Generator(np.random.SFC64(1))
    bits = (start().numpy() > 0).astype(np.int8)
    rows = np.arange(SIDE)[:, None]
    pick = [2 * np.arange(SIDE // 2)[None] + (rows + colour) % 2 for colour in (0, 1)]
    halves = [np.take_along_axis(bits, places[None], 2) for places in pick]
    table = (1 / (1 + np.exp(-2 * BETA * (2 * np.arange(5) - 4.0)))).astype(np.float32)

    def run() -> None:
        for _ in range(SWEEPS):
            for colour in (0, 1):
                other = halves[1 - colour]
                count = other + np.roll(other, 1, 1) + np.roll(other, -1, 1)
                # the fourth neighbour is in the column before or behind, by the parity of the row
                count[:, colour::2] += np.roll(other[:, colour::2], 1, 2)
                count[:, 1 - colour :: 2] += np.roll(other[:, 1 - colour :: 2], -1, 2)
                halves[colour] = (rng.random(count.shape, dtype=np.float32) < table[count]).astype(np.int8)

    return run


def bond_energy(energy: en.Energy, sweeps: int) -> tuple[float, float]:
    """The mean of s s' over all bonds and chains, and its standard error from the chains."""
    generator = torch.Generator().manual_seed(2)
    solution = en.settle(
        energy, {"s": start()}, solver=en.Gibbs(scan="block"), max_steps=sweeps, generator=generator,
        record="energy", record_every=10,
    )  # fmt: skip
    assert isinstance(solution.trajectory, torch.Tensor)
    late = solution.trajectory[len(solution.trajectory) // 2 :]
    each = -late.double().mean(0) / (BETA * 2 * SIDE**2)
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def bench_ising(versus: Versus) -> None:
    mean, error = bond_energy(Grid(), 600)
    exact = exact_bond_energy(SIDE, BETA)
    versus(
        f"{SWEEPS} Gibbs sweeps of a 64x64 Ising grid, 256 chains, all found from the trace, against torch "
        "roll-and-mask",
        roll_and_mask(),
        ours(Grid()),
        goal="at most 1",
        note=f"bond energy {mean:.5f} +- {error:.5f}, exact {exact:.5f}",
        rounds=15,
    )


def bench_ising_against_numpy(versus: Versus) -> None:
    mean, error = bond_energy(lattice(), 600)
    versus(
        "the same by terms.Lattice against numpy with packed colours and a table of probabilities",
        numpy_table(),
        ours(lattice()),
        goal="at most 1",
        note=f"bond energy {mean:.5f} +- {error:.5f}",
        rounds=15,
    )
