"""Where a number was made: the commit, the processor, the versions and the date that go with a result."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch


def circumstances() -> list[str]:
    """Lines of Markdown that say where and when the results below them were made."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        f"- commit {commit or 'unknown'}, {datetime.now(UTC):%Y-%m-%d}",
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
