"""Settling by compiled steps against plain ones: where it pays, and where it does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch
from bench_langevin import ClosedForm, Gaussian, start

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Versus

LARGE, SMALL = (784, 512, 10), (20, 16, 8, 4)
MINIMISERS: dict[str, Callable[[], en.Solver]] = {
    "Euler": lambda: en.Euler(0.2),
    "BlockDescent": en.BlockDescent,
    "BlockDescent, momentum": lambda: en.BlockDescent(momentum=True),
    "FIRE": en.FIRE,
    "LBFGS": en.LBFGS,
}
SAMPLERS: dict[str, Callable[[], en.Solver]] = {
    "Langevin": lambda: en.Langevin(0.1),
    "MALA": lambda: en.MALA(0.3),
    "HMC, 5 steps": lambda: en.HamiltonianMonteCarlo(0.2, 5),
}


def compare(versus: Versus, title: str, run: Callable[[bool], en.Solution], rounds: int) -> None:
    begin = time.perf_counter()
    found = run(True)
    first = time.perf_counter() - begin  # less where torch's cache has the code
    for name, value in run(False).state.items():
        astray = (found.state[name] - value).abs().amax(1) > 1e-3  # where rounding decides on a proposal
        assert float(astray.float().mean()) < 0.05
    versus(
        f"{title}: compiled steps against plain ones",
        lambda: run(False),
        lambda: run(True),
        goal="below 1 where it pays",
        note=f"first call {first:.1f} s",
        rounds=rounds,
    )


@pytest.mark.parametrize("solver", MINIMISERS)
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
def bench_layers(versus: Versus, sizes: tuple[int, ...], solver: str) -> None:
    """100 steps of a layered network, batch 100, so that both take the same number."""
    torch.manual_seed(0)
    model = en.models.LayeredHopfield(sizes)
    clamp, method = {"x": torch.rand(100, sizes[0])}, MINIMISERS[solver]()

    def run(compiled: bool) -> en.Solution:
        return en.settle(model, clamp=clamp, solver=method, until=en.Never(), max_steps=100, compile=compiled)

    name = "-".join(map(str, sizes))
    compare(versus, f"100 steps of {solver}, {name}, batch 100", run, 15 if sizes is SMALL else 9)


@pytest.mark.parametrize("solver", SAMPLERS)
@pytest.mark.parametrize(("family", "kind"), [(Gaussian, "diagonal"), (ClosedForm, "dense")])
def bench_chains(versus: Versus, family: type[Gaussian], kind: str, solver: str) -> None:
    """100 steps of 1000 chains on a Gaussian in 100 dimensions; noise is drawn outside of the block."""
    model, first, method = family(kind), {"x": start()}, SAMPLERS[solver]()

    def run(compiled: bool) -> en.Solution:
        return en.settle(
            model,
            first,
            solver=method,
            max_steps=100,
            generator=torch.Generator().manual_seed(0),
            compile=compiled,
        )

    how = "user-written" if family is Gaussian else "force in closed form"
    compare(versus, f"100 steps of {solver}, 1000 chains in 100 dimensions, {kind}, {how}", run, 7)
