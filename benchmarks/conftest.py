"""Ratios within one run: two programs take turns in one process, on one thread.

Times are CPU times of this process (``time.process_time``), so that other work on the machine counts little,
and each ratio is the median over rounds, with its quartiles. No benchmark asserts a time.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from energynet import data
from energynet.provenance import circumstances

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS: list[str] = []
HEAD = ["# Benchmarks", "", "Made by `make bench`; CPU times of one process, medians of the rounds.", ""]
RESULTS = Path(__file__).parent / "results.md"


@dataclass
class Versus:
    """Compares programs with a baseline, and notes the outcome."""

    benchmark: Callable[..., object]

    def __call__(
        self,
        title: str,
        baseline: Callable[[], object],
        candidate: Callable[[], object],
        *,
        goal: str,
        note: str = "",
        rounds: int = 31,
    ) -> float:
        """The median ratio of the candidate's time to the baseline's."""
        for program in (baseline, candidate, baseline, candidate):
            program()
        pairs = [(_seconds(baseline), _seconds(candidate)) for _ in range(rounds)]
        ratios = [c / b for b, c in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        base, cost = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        ROWS.append(
            f"| {title} | {base:.2f} | {cost:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {goal} | {note} |"
        )
        self.benchmark.extra_info.update(ratio=middle, quartiles=(low, high))  # type: ignore[attr-defined]
        self.benchmark.pedantic(candidate, rounds=3)  # type: ignore[attr-defined]
        return middle


def _seconds(program: Callable[[], object]) -> float:
    start = time.process_time()
    program()
    return time.process_time() - start


@pytest.fixture
def versus(benchmark: Callable[..., object]) -> Versus:
    return Versus(benchmark)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist() -> data.Dataset:
    if "ENERGYNET_DATA" not in os.environ:
        pytest.skip("needs MNIST: set ENERGYNET_DATA to the directory of its four files")
    return data.load("mnist")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    head = [
        "| what | baseline, ms | candidate, ms | ratio (quartiles) | goal | note |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines = [*head, *ROWS]
    for line in lines:
        terminalreporter.write_line(line)
    RESULTS.write_text("\n".join([*HEAD, *circumstances(), "", *lines, ""]))
    terminalreporter.write_line(f"written to {RESULTS.relative_to(Path.cwd())}")
