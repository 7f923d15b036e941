"""A log of what torch is asked to compile, by a back end that runs graphs as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Log:
    """What torch was asked to compile, and what it has compiled."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.graphs: list[torch.fx.GraphModule] = []

    def __len__(self) -> int:
        return len(self.graphs)


def logged(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Leave out the compiler of machine code, and most of the time; torch's front end stays."""
    log, original = Log(), torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        log.graphs.append(graph)
        return graph.forward

    def replaced(function: Any, **options: Any) -> Any:
        log.asked.append(options)
        return original(function, **{**options, "backend": backend})

    monkeypatch.setattr(torch, "compile", replaced)
    return log


def assert_same(one: en.Solution, other: en.Solution) -> None:
    assert torch.equal(one.steps, other.steps)
    assert torch.equal(one.status, other.status)
    for name, value in one.state.items():
        torch.testing.assert_close(other.state[name], value, rtol=1e-9, atol=1e-9)
    for name, value in one.statistics.items():
        torch.testing.assert_close(other.statistics[name], value, rtol=1e-9, atol=1e-9)


def both(energy: en.Energy, *state: Any, seed: int = 0, **options: Any) -> en.Solution:
    """Settle with and without compiling, which must agree; the compiled solution."""
    found = [
        en.settle(energy, *state, **options, generator=torch.Generator().manual_seed(seed), compile=one)
        for one in (False, True)
    ]
    assert_same(*found)
    return found[1]
