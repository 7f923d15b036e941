"""How training and settling go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from energynet.plot.canvas import COLOURS, panels

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from torch import Tensor

_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", "-.", ":", "-")

Curves = Mapping[str, Sequence[tuple[float, float]]]


def accuracy(curves: Curves, title: str, judged_on: str = "test") -> Figure:
    """Draw the accuracy of several rules over training.

    Parameters
    ----------
    curves
        For every label pairs of an epoch and an accuracy in per cent.
    title
        What was learnt.
    judged_on
        The name of the data that it was measured on.
    """
    figure, (axes,) = panels(1, title)
    _curves(axes, curves)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{judged_on} accuracy (%), error on a log scale")
    values = [value for points in curves.values() for _, value in points]
    # Rules differ near the top. The error on a log axis shows that, and the beginning too.
    if values and max(values) > 80:
        axes.set_yscale("function", functions=(_spread, _gather))
        axes.set_ylim(min(values) - 1, 99.9 if max(values) < 99.9 else 100)
        axes.set_yticks([t for t in (0, 50, 80, 90, 95, 97, 98, 99, 99.5) if t >= min(values) - 1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="lower right", frameon=False)
    return figure


def _spread(value: Any) -> Any:
    return -torch.log10(100.05 - torch.as_tensor(value).clamp(max=100.0)).numpy()


def _gather(value: Any) -> Any:
    return (100.05 - 10 ** (-torch.as_tensor(value))).numpy()


def angle(curves: Curves, title: str) -> Figure:
    """Draw the angle between the gradients of rules and the exact one over training.

    Parameters
    ----------
    curves
        For every label pairs of an epoch and an angle in degrees.
    title
        What was learnt.
    """
    figure, (axes,) = panels(1, title)
    # A log axis has no zero, and there is none to draw.
    curves = {label: [(x, y) for x, y in points if y > 0] for label, points in curves.items()}
    _curves(axes, curves)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axhline(90, color="0.4", linewidth=0.8)
    axes.annotate(
        "90°: no better than chance",
        (0.99, 90),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color="0.3",
        fontsize="small",
    )
    low = min((value for points in curves.values() for _, value in points), default=1.0)
    axes.set_ylim(low / 1.5, 180)
    axes.set_xlabel("epoch")
    axes.set_ylabel("angle to the exact gradient (degrees)")
    axes.legend(loc="best", frameon=False)
    return figure


def settling(
    free: Float[Tensor, "times samples"],
    plus: Float[Tensor, "times samples"],
    minus: Float[Tensor, "times samples"],
    *,
    beta: float,
    title: str,
    steps: str = "steps",
) -> Figure:
    """Draw how energy falls while it settles: free, then nudged with either sign.

    Parameters
    ----------
    free
        Energy in the free phase, at every step of every sample.
    plus, minus
        Energy and beta times the cost in the two nudged phases, which begin at the free state.
    beta
        Strength of the nudge.
    title
        What settled.
    steps
        What is counted along the axis.
    """
    figure, (left, right) = panels(2, title)
    _fall(left, free, 0, "$E$")
    left.set_title("Free phase", fontsize="medium")
    left.set_ylabel("energy above where it settles")
    _fall(right, plus, 1, rf"$E + \beta C$, $\beta = {beta:g}$")
    _fall(right, minus, 2, rf"$E - \beta C$, $\beta = {beta:g}$")
    right.set_title("Nudged phases, from the free state", fontsize="medium")
    right.set_ylabel("nudged energy above where it settles")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_ylim(top=3 * axes.get_ylim()[1])
        axes.set_xlabel(steps)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper right", frameon=False)
    return figure


def _curves(axes: Axes, curves: Curves) -> None:
    for number, (label, points) in enumerate(curves.items()):
        style = number % len(COLOURS)
        # Rules may agree to the last digit: an earlier line is wider and shows on both sides of a later one.
        width = 1.2 + 0.6 * (len(curves) - 1 - number)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=COLOURS[style],
            linestyle=_DASHES[style],
            marker=_MARKERS[style],
            markersize=2.5 + width,
            linewidth=width,
            label=label,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fall(axes: Axes, values: Tensor, style: int, label: str) -> None:
    """Draw how far energies are above their last: the median over samples, and the middle 80 % of them."""
    above = values[:-1] - values[-1]
    quantiles = above.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype), dim=1)
    # Below this is rounding, of energies that are sums of many terms.
    floor = 100 * torch.finfo(values.dtype).eps * float(values.abs().max())
    shown = int((quantiles[2] > floor).sum())
    low, middle, high = quantiles[:, :shown]
    middle = torch.where(middle > floor, middle, torch.nan)
    steps = range(shown)
    axes.fill_between(steps, low.clamp(min=floor), high, color=COLOURS[style], alpha=0.15, linewidth=0)
    axes.plot(
        steps,
        middle,
        color=COLOURS[style],
        linestyle=_DASHES[style],
        marker=_MARKERS[style],
        markersize=3.5,
        linewidth=1.5,
        label=f"{label}, median and 80 % of samples",
    )
    axes.set_ylim(bottom=floor)
