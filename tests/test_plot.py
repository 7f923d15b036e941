"""Figures show what they were given, and touch nothing global."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from energynet import plot
from energynet.plot import training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = {"first": [(0, 10.0), (1, 95.0), (2, 98.5)], "second": [(0, 12.0), (1, 97.0), (2, 100.0)]}


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_accuracy(tmp_path: Path) -> None:
    figure = plot.accuracy(CURVES, "a title", "validation")
    (axes,) = figure.axes
    assert figure.get_suptitle() == "a title"
    assert labels(axes) == ["first", "second"]
    assert axes.get_xlabel() == "epoch"
    assert "validation accuracy (%)" in axes.get_ylabel()
    for line, points in zip(axes.lines, CURVES.values(), strict=True):
        assert list(zip(*line.get_data(), strict=True)) == points
    assert len({line.get_color() for line in axes.lines}) == 2
    assert len({line.get_marker() for line in axes.lines}) == 2  # not told apart by colour alone
    low, high = axes.get_ylim()
    assert low < 10
    assert high >= 100  # every point is inside
    plot.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_low_accuracy_has_a_plain_axis() -> None:
    (axes,) = plot.accuracy({"one": [(0, 10.0), (1, 20.0)]}, "title").axes
    assert axes.get_yscale() == "linear"


def test_scale_of_the_accuracy_is_one_to_one() -> None:
    values = torch.tensor([0.0, 50.0, 97.3, 99.9, 100.0], dtype=torch.float64).numpy()
    assert training._gather(training._spread(values)) == pytest.approx(values)


def test_angle() -> None:
    (axes,) = plot.angle({"rule": [(0, 0.5), (1, 45.0)]}, "title").axes
    assert "degrees" in axes.get_ylabel()
    low, high = axes.get_ylim()
    assert 0 < low < 0.5
    assert high == 180
    assert plot.angle({"exact": [(0, 0.0)]}, "title").axes  # a log axis without a positive value


def test_settling() -> None:
    decay = 0.5 ** torch.arange(12, dtype=torch.float64)
    free = -100 + 8 * decay[:, None] * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    figure = plot.settling(free, free * 1e-3, free * 2e-3, beta=0.25, title="title", steps="sweeps")
    left, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "sweeps"
    drawn = left.lines[0].get_ydata()
    assert drawn == pytest.approx((free[:-1, 1] - free[-1, 1]).numpy())
    assert ["E + " in label or "E - " in label for label in labels(right)] == [True, True]
    assert all("0.25" in label for label in labels(right))
    bottom, top = left.get_ylim()
    assert bottom < drawn.min()
    assert drawn.max() < top


def test_energies_that_do_not_move() -> None:
    still = torch.full((4, 3), -2.0, dtype=torch.float64)
    plot.settling(still, still, still, beta=0.1, title="title")


def test_no_global_state() -> None:
    code = (
        "import sys, matplotlib as mpl\n"
        "before = dict(mpl.rcParams)\n"
        "from energynet import plot\n"
        "plot.save(plot.accuracy({'a': [(0, 1.0)]}, 't'), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(mpl.rcParams) == before\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, "/dev/null"], check=True, cwd=root, timeout=120)
