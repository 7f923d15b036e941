"""Rules under DistributedDataParallel: every process leaves the gradient of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed, multiprocessing

import energynet as en
from helpers.networks import data, difference, gradient, layered

if TYPE_CHECKING:
    from pathlib import Path


def make() -> en.EquilibriumPropagation:
    return en.EquilibriumPropagation(layered("tanh", 4, 5, 3), en.SquaredError("y"), 0.01)


def work(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rule = make()
    parallel = torch.nn.parallel.DistributedDataParallel(rule)
    mine = {name: value[rank::2] for name, value in data(batch=6).items()}
    parallel(**mine).backward()
    torch.save({n: p.grad for n, p in rule.named_parameters()}, f"{out}/{rank}.pt")
    distributed.barrier()  # or the one that ends first pulls the other down
    distributed.destroy_process_group()


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    multiprocessing.spawn(work, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    expected = gradient(make(), **data(batch=6))
    for rank in range(2):
        assert difference(torch.load(tmp_path / f"{rank}.pt"), expected) < 1e-6
