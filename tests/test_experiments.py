"""Every experiment still runs, on a small scale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted((REPOSITORY / "experiments").glob("*/run.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_smoke(script: Path, tmp_path: Path) -> None:
    before = sorted(script.parent.iterdir())
    done = subprocess.run(
        [sys.executable, str(script), "--smoke", "--out", str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {path.suffix for path in tmp_path.iterdir()}
    assert ".md" in left
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())
    assert sorted(script.parent.iterdir()) == before  # nothing beside the script


def test_there_are_experiments() -> None:
    assert {
        "accuracy",
        "minimisers",
        "predictive_mnist",
        "deep_residual",
        "equivalence",
        "error_coordinates",
    } <= {script.parent.name for script in SCRIPTS}
