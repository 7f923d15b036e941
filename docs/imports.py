"""Draw the layers of the package and the imports between them: docs/imports.svg.

Run from the root of the repository: ``.venv/bin/python docs/imports.py``. An import that others imply is left
out (the transitive reduction), or the picture would be all arrows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import networkx as nx
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_imports import LAYERS, PACKAGE, imports_of_package  # noqa: E402

BOX = {"boxstyle": "round,pad=0.35", "facecolor": "#dbe9f6", "edgecolor": "#3b6ea5"}
ARROW = {"arrowstyle": "-|>", "color": "0.45", "shrinkA": 24, "shrinkB": 24, "lw": 1.1}


def draw() -> Figure:
    """Layers from the inside, left, to the outside; an arrow leads to what is imported."""
    uses = imports_of_package()
    names = set(uses) - {PACKAGE}
    edges = [(a, b) for a in names for b in uses[a] & names - {a}]
    layers = [sorted(layer & names) for layer in LAYERS if layer & names]
    place = {
        name: (2.0 * column, 1.1 * (row - (len(layer) - 1) / 2) + 0.3 * (-1) ** column)
        for column, layer in enumerate(layers)
        for row, name in enumerate(layer)
    }
    tallest = max(map(len, layers))
    figure = Figure(figsize=(14, 0.75 * tallest), layout="constrained")
    axes = figure.add_subplot()
    for name, other in sorted(nx.transitive_reduction(nx.DiGraph(edges)).edges):
        axes.annotate("", place[other], place[name], arrowprops=ARROW)
    for name, (x, y) in place.items():
        axes.text(x, y, name, ha="center", va="center", fontsize=11, bbox=BOX)
    axes.set(xlim=(-0.8, 2.0 * (len(layers) - 1) + 0.8), ylim=(-0.55 * tallest - 0.5, 0.55 * tallest + 0.5))
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "energynet"  # the same picture, the same file
    draw().savefig(ROOT / "docs" / "imports.svg", metadata={"Date": None})
    if "--png" in sys.argv:
        draw().savefig(sys.argv[sys.argv.index("--png") + 1])
