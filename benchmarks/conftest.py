"""Ratios within one run: two programs take turns in one process, on one thread.

Times are CPU times of this process (``time.process_time``), so that other work on the machine counts little,
and each ratio is the median over rounds, with its quartiles. No benchmark asserts a time.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from energynet import data

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS: list[str] = []
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
    RESULTS.write_text("\n".join([*_circumstances(), "", *lines, ""]))
    terminalreporter.write_line(f"written to {RESULTS.relative_to(Path.cwd())}")


def _circumstances() -> list[str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        "# Benchmarks",
        "",
        "Made by `make bench`; CPU times of one process, medians of the rounds.",
        "",
        f"- commit {commit}, {datetime.now(UTC):%Y-%m-%d}",
        f"- {_processor()}, torch {torch.__version__}, Python {platform.python_version()}",
        f"- {torch.get_num_threads()} thread, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
