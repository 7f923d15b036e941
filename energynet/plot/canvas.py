"""What figures share: colours, a frame, a file. No global state, no window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with every kind of colour vision; markers and dashes differ as well.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG.

    Parameters
    ----------
    figure
        What to write.
    path
        Where to.
    """
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def panels(columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, quietly framed."""
    figure = Figure(figsize=(6.4 if columns == 1 else 9.6, 4.2), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.9", linewidth=0.6)
        each.set_axisbelow(True)
    figure.suptitle(title)
    return figure, axes
