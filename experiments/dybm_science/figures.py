"""The figures of run.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
Curve = Sequence[tuple[int, int]]


def draw_learning(sequence: Tensor, recalls: Sequence[tuple[int, Tensor]], path: Path) -> None:
    """What is recalled after more and more periods, above the word."""
    rows = [*((f"{periods:,} periods", made) for periods, made in recalls), ("the word", sequence)]
    figure, panels = plt.subplots(len(rows), 1, figsize=(6, 0.95 * len(rows)), layout="constrained")
    for axes, (name, columns) in zip(panels, rows, strict=True):
        axes.imshow(columns.t(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_queues(curves: Mapping[str, Sequence[Curve]], columns: int, path: Path) -> None:
    """Columns that recall has right, over periods, for each order of the queue."""
    figure, panels = plt.subplots(
        1,
        len(curves),
        figsize=(2.7 * len(curves) + 0.8, 2.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, each), colour in zip(
        panels[0], curves.items(), (BLUE, VERMILION, GREEN, PURPLE), strict=False
    ):
        for number, curve in enumerate(each):
            periods, right = zip(*curve, strict=True)
            axes.plot(periods, right, color=colour, lw=0.9, alpha=0.9 - 0.15 * number)
            axes.plot(periods[-1], right[-1], "o" if right[-1] == columns else "x", color=colour, ms=5)
        axes.axhline(columns, color="0.7", lw=0.8, zorder=0)
        axes.set_xscale("symlog", linthresh=100)
        axes.set(title=name, xlabel="periods", ylim=(-1, columns + 2))
    panels[0][0].set_ylabel(f"columns right, of {columns}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_mistake(shows: Tensor, surprise: Tensor, differs: Tensor, path: Path) -> None:
    """What is shown, and minus the log-likelihood of each column."""
    figure, (image, curve) = plt.subplots(
        2, 1, figsize=(9, 3.4), height_ratios=[1, 2], sharex=True, layout="constrained"
    )
    image.imshow(shows.t(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    image.set(yticks=[])
    first, last = int(differs[0]) - 0.5, int(differs[-1]) + 0.5
    for axes in (image, curve):
        axes.axvspan(first, last, color=VERMILION, alpha=0.2, lw=0)
    curve.bar(range(len(surprise)), surprise, width=0.8, color=BLUE)
    curve.set(xlabel="column", ylabel="-log P, nats", xlim=(-0.5, len(surprise) - 0.5))
    curve.annotate(
        "columns that differ",
        (last, float(surprise.max()) * 0.85),
        xytext=(6, 0),
        textcoords="offset points",
        color=VERMILION,
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_turns(periods: Sequence[int | None], path: Path) -> None:
    """Periods that each sequence needs in each turn."""
    figure, axes = plt.subplots(figsize=(5.5, 3), layout="constrained")
    kinds = (("the word", BLUE, "o-"), ("its mirror image", VERMILION, "s--"))
    for start, (name, colour, style) in enumerate(kinds):
        needed = [(turn, p) for turn, p in enumerate(periods[start::2], 1) if p is not None]
        if needed:
            axes.plot(*zip(*needed, strict=True), style, color=colour, label=name)
    axes.set(xlabel="turn", ylabel="periods until it is recalled")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
