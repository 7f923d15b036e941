"""Dictionaries, codes, and what codes make of data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from energynet.plot.canvas import COLOURS, VERMILION, panels

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from torch import Tensor

_MOST_CHAINS = 3  # that are told apart in one picture


def mosaic(
    atoms: Float[Tensor, "count height width"],
    title: str,
    *,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draw the atoms of a dictionary, each on its own scale, on which zero is middle grey.

    Parameters
    ----------
    atoms
        Pictures; of a weight ``(pixels, atoms)``: ``weight.mT.reshape(-1, height, width)``.
    title
        Of what.
    columns
        How many side by side; by default so many that the whole is about square.
    labels
        A short text under each.
    """
    if atoms.ndim != 3 or not len(atoms):
        raise ValueError(f"mosaic: expected atoms of shape (count, height, width), got {tuple(atoms.shape)}")
    if labels is not None and len(labels) != len(atoms):
        raise ValueError(f"mosaic: expected a label for each of {len(atoms)} atoms, got {len(labels)}")
    count, height, width = atoms.shape
    columns = min(columns or math.ceil(math.sqrt(count * height / width)), count)
    rows = math.ceil(count / columns)
    side = 7.0 / max(columns, rows)
    size = max(columns * side, 2.5), rows * side * height / width + 0.6
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    scaled = (atoms / atoms.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)).detach()
    if labels is None:
        # one picture: axes by the hundred are slow to draw
        canvas = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1), torch.nan)
        for number, atom in enumerate(scaled):
            row, column = divmod(number, columns)
            top, left = row * (height + 1), column * (width + 1)
            canvas[top : top + height, left : left + width] = atom
        axes = figure.subplots()
        axes.imshow(canvas.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        return figure
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, atom, label in zip(grid, scaled, labels, strict=False):
        axes.imshow(atom.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(label, fontsize="x-small", pad=2)
    return figure


def code_histogram(codes: Mapping[str, Tensor], title: str) -> Figure:
    """Draw the densities of codes on a log scale, and tell the share that is exactly zero.

    Parameters
    ----------
    codes
        For every label codes of any shape.
    title
        Of what.
    """
    figure, (axes,) = panels(1, title)
    values = {label: code.detach().flatten().double().numpy() for label, code in codes.items()}
    # a few outliers would squeeze the rest
    end = max(
        (float(np.quantile(np.abs(each), 0.9995)) for each in values.values() if each.size), default=1.0
    )
    edges = np.linspace(-1, 1, 82) * (end or 1.0)
    for number, (label, each) in enumerate(values.items()):
        other = each[each != 0]
        heights = np.histogram(other, edges)[0] / max(each.size, 1) / np.diff(edges)
        zero = 1 - other.size / max(each.size, 1)
        axes.stairs(
            np.where(heights > 0, heights, np.nan),
            edges,
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.6,
            label=f"{label}: {zero:.1%} exactly zero",
        )
    axes.set_xlabel("code")
    axes.set_ylabel("density of codes that are not zero")
    axes.legend(loc="upper right", frameon=False)
    if any(each.any() for each in values.values()):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * 3 ** len(values))  # room for the legend
    return figure


def reconstruction(
    pictures: Float[Tensor, "count height width"],
    rebuilt: Mapping[str, Float[Tensor, "count height width"]],
    title: str,
) -> Figure:
    """Draw data above what codes make of them, each with the share of its variance that it explains.

    Parameters
    ----------
    pictures
        The data.
    rebuilt
        For every label what was made of them. A picture is on one scale with what is made of it.
    title
        Of what.
    """
    count = len(pictures)
    rows = 1 + len(rebuilt)
    figure = Figure(figsize=(1.0 * count + 1.3, 1.15 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, count, squeeze=False)
    for row, (label, images) in zip(grid, {"data": pictures, **rebuilt}.items(), strict=True):
        for axes, image, source in zip(row, images.detach(), pictures, strict=True):
            limit = float(source.abs().max()) or 1.0
            axes.imshow(image.numpy(), cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if images is not pictures:
                error = float((image - source).square().sum() / source.square().sum().clamp(min=1e-30))
                axes.set_xlabel(f"{1 - error:.0%}", fontsize="x-small", labelpad=2)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def posterior(
    chains: Float[Tensor, "times chains"],
    title: str,
    *,
    law: tuple[Tensor, Tensor] | None = None,
    zero: float | None = None,
    name: str = "code",
    shown: int = 300,
) -> Figure:
    """Draw a code over a chain, and the law of all that the chains have been.

    Parameters
    ----------
    chains
        A code at every record of every chain, the burn-in left out.
    title
        Of what.
    law
        Values and the exact density at them, without the mass at zero.
    zero
        The exact probability that the code is zero.
    name
        What the code is called.
    shown
        How many records at the end are drawn, of up to three chains.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    last = chains.detach()[-shown:].double()
    start = len(chains) - len(last)
    for number in range(min(chains.shape[1], _MOST_CHAINS)):
        left.plot(
            range(start, len(chains)),
            last[:, number].numpy(),
            color=COLOURS[number],
            linewidth=0.9,
            alpha=0.9,
        )
    left.set_xlabel("record after the burn-in")
    left.set_ylabel(name)
    left.set_xlim(start, len(chains) - 1)
    _law(right, chains.detach().flatten().double().numpy(), law, zero)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _law(axes: Axes, values: np.ndarray, law: tuple[Tensor, Tensor] | None, zero: float | None) -> None:
    other = values[values != 0]
    low, high = (float(other.min()), float(other.max())) if other.size else (-1.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 60)
    heights = np.histogram(other, edges)[0] / values.size / np.diff(edges)
    axes.stairs(
        heights, edges, orientation="horizontal", fill=True, color=COLOURS[0], alpha=0.35, label="sampled"
    )
    if law is not None:
        axes.plot(law[1].numpy(), law[0].numpy(), color=VERMILION, linewidth=1.5, label="exact")
    found = 1 - other.size / values.size
    if found > 0 or zero is not None:
        told = f"zero: {found:.3f}" + (f", exact {zero:.3f}" if zero is not None else "")
        axes.axhline(0, color="0.3", linewidth=0.9, linestyle=":")
        axes.text(0.98, 0.03, told, transform=axes.transAxes, ha="right")
    axes.set_xlabel("density" + (" of what is not zero" if found > 0 else ""))
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", frameon=False)
