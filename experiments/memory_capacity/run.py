"""How much do associative memories hold? Hebb against theory, other rules, dense and modern memories.

    python experiments/memory_capacity/run.py            # the whole, under two minutes
    python experiments/memory_capacity/run.py --smoke    # tiny networks: does it still run?

It leaves results.md and capacity.png beside this file, or in --out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from scipy.integrate import quad
from scipy.stats import chi2, norm

import energynet as en
from energynet.analysis import CRITICAL_LOAD, capacity, mean_field_overlap
from energynet.provenance import circumstances

HERE = Path(__file__).parent
SPREAD = 2.0  # standard deviation of the real patterns
QUANTILE = 2.5758  # half a per cent of a normal distribution lies above


@dataclass(frozen=True)
class Config:
    """What is run."""

    seed: int = 0
    """Of the patterns."""

    smoke: bool = False
    """Tiny networks."""

    out: Path = HERE
    """Where the results go."""


def hebb(config: Config, axes: plt.Axes, generator: torch.Generator) -> list[str]:
    """Overlap against load for growing networks, and the theory of infinite ones."""
    sizes = (50, 100) if config.smoke else (250, 500, 1000, 2000)
    loads = np.array([0.08, 0.11, 0.125, 0.135, 0.145, 0.155, 0.17, 0.2])
    lines = [
        "| load | " + " | ".join(f"n = {n}" for n in sizes) + " | theory |",
        "| --- " * (len(sizes) + 2) + "|",
    ]
    found = []
    for units in sizes:
        model = en.models.Hopfield(units)

        def recall(patterns: torch.Tensor, model: en.models.Hopfield = model) -> en.analysis.Recall:
            model.forget().store(patterns)
            return lambda cues: model.recall(cues, generator=generator)

        counts = [round(load * units) for load in loads]
        trials = max(4, 2000 // units)
        found.append(
            capacity(recall, units, counts, cues=60, trials=min(trials, 6), generator=generator).mean(1)
        )
        axes.plot(loads, found[-1], "o-", ms=3, label=f"n = {units}")
    fine = np.linspace(0.06, 0.2, 400)
    axes.plot(
        fine, [mean_field_overlap(load) or np.nan for load in fine], "k", lw=2, label="theory, n infinite"
    )
    axes.axvline(CRITICAL_LOAD, color="k", ls=":", lw=1)
    axes.set(title="Hebb rule", xlabel="patterns per unit", ylabel="overlap after recall", ylim=(0.2, 1.03))
    axes.legend(fontsize=8)
    for row, load in enumerate(loads):
        cells = " | ".join(f"{curve[row]:.3f}" for curve in found)
        expected = mean_field_overlap(load)
        theory = f"{expected:.3f}" if expected else "none"
        lines.append(f"| {load:.3f} | {cells} | {theory} |")
    return [
        "## Hebb rule",
        "",
        "Mean overlap of up to 60 patterns with where recall from them ends.",
        "",
        *lines,
        "",
    ]


def rules(config: Config, axes: plt.Axes, generator: torch.Generator) -> list[str]:
    """Overlap after recall, and how many patterns are strictly stable, for three rules."""
    units = 60 if config.smoke else 500
    loads = np.array([0.05, 0.1, 0.14, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 0.9, 0.98, 1.0, 1.1])
    lines = [
        "| load | "
        + " | ".join(f"{rule}: overlap, stable" for rule in ("hebb", "storkey", "pseudoinverse"))
        + " |"
    ]
    lines.append("| --- " * 4 + "|")
    table: dict[str, list[tuple[float, float]]] = {}
    model = en.models.Hopfield(units).double()
    for rule, colour in (("hebb", "C0"), ("storkey", "C1"), ("pseudoinverse", "C2")):
        for load in loads:
            if rule == "storkey" and load > 0.6:
                table[rule].append((math.nan, math.nan))
                continue
            patterns = (
                2.0 * torch.randint(0, 2, (round(load * units), units), generator=generator).double() - 1
            )
            model.forget().store(patterns, rule=rule)
            some = patterns[:30]
            field = some @ model.weight.detach()
            stable = float((some * field > 1e-9).all(1).double().mean())
            end = model.recall(some, generator=generator).state["s"]
            table.setdefault(rule, []).append((float((end * some).mean()), stable))
        overlap, stable = np.array(table[rule]).T
        shown = overlap if rule != "pseudoinverse" else np.where(loads < 1, overlap, np.nan)
        axes.plot(loads, shown, "o-", ms=3, color=colour, label=f"{rule}: overlap")
        axes.plot(
            loads, stable, "s--", ms=3, color=colour, alpha=0.7, label=f"{rule}: patterns strictly stable"
        )
    axes.set(title=f"Rules, n = {units}", xlabel="patterns per unit", xlim=(0, 1.9), ylim=(-0.03, 1.05))
    axes.legend(fontsize=8, loc="center right")
    for row, load in enumerate(loads):
        cells = " | ".join(
            "" if math.isnan(table[rule][row][0]) else f"{table[rule][row][0]:.3f}, {table[rule][row][1]:.2f}"
            for rule in table
        )
        lines.append(f"| {load:.2f} | {cells} |")
    return [f"## Rules, n = {units}", "", *lines, ""]


def errors(power: int, units: int, count: int, generator: torch.Generator) -> float:
    """The part of the units of stored patterns that one update flips."""
    wrong, total = 0.0, 0
    while total < 20_000:
        patterns = 2.0 * torch.randint(0, 2, (count, units), generator=generator).double() - 1
        model = en.models.DenseAssociativeMemory(patterns, power=power)
        some = patterns[: max(1, 2**22 // (units * count))]
        flow = en.ConditionalFlow(model, None, {"s": some})
        with torch.no_grad():
            wrong += float((flow.velocity(some_point := {"s": some})["s"] > 0).sum())
        total += some_point["s"].numel()
    return wrong / total


def dense(config: Config, axes: plt.Axes, generator: torch.Generator) -> list[str]:
    """How many patterns a dense memory holds at half a per cent of errors."""
    sizes = {2: (64, 128, 256), 3: (24, 48, 96), 4: (24, 36, 54)}
    lines = ["| power | units | patterns | signal and noise | ratio |", "| --- " * 5 + "|"]
    for power, each in sizes.items():
        units_of = each[:1] if config.smoke else each
        double = math.prod(range(1, 2 * power - 2, 2))  # (2 p - 3)!!
        found = []
        for units in units_of:
            expected = units ** (power - 1) / (QUANTILE**2 * double)
            counts = [max(2, round(expected * factor)) for factor in (0.6, 0.9, 1.4, 2.2)]
            rates = [errors(power, units, count, generator) for count in counts]
            found.append(float(np.exp(np.interp(0.005, rates, np.log(counts)))))
            lines.append(
                f"| {power} | {units} | {found[-1]:.0f} | {expected:.0f} | {found[-1] / expected:.2f} |"
            )
        axes.loglog(units_of, found, "o", label=f"power {power}", color=f"C{power}")
        grid = np.array([min(units_of) * 0.9, max(units_of) * 1.1])
        axes.loglog(grid, grid ** (power - 1) / (QUANTILE**2 * double), "-", color=f"C{power}", lw=1)
    axes.set(title="Dense memories: 0.5 % of errors", xlabel="units n", ylabel="patterns")
    ticks = [25, 50, 100, 200]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.plot([], [], "k-", lw=1, label="$n^{p-1} / (z^2 (2p-3)!!)$")
    axes.legend(fontsize=8)
    return ["## Dense memories", "", "Patterns at which one update flips 0.5 % of the units.", "", *lines, ""]


def confusion(units: int) -> float:
    """The probability that one other pattern alone moves a pattern by a tenth of its length.

    For x of length r the rival y has x.y ~ N(0, SPREAD^2 r^2) and, nearly, distance
    sqrt(r^2 + SPREAD^2 n); it moves x by its weight in the softmax times that distance.
    """

    def given(square: float) -> float:
        r = SPREAD * math.sqrt(square)
        weight = 0.1 * r / math.sqrt(r * r + SPREAD**2 * units)
        least = (r * r + math.log(weight / (1 - weight))) / (SPREAD * r)
        return float(chi2.pdf(square, units) * norm.sf(least))

    return quad(given, 1e-6, 10 * units, limit=200)[0]


def modern(config: Config, axes: plt.Axes, generator: torch.Generator) -> list[str]:
    """How many Gaussian patterns a modern network holds at one per cent of failures."""
    sizes = (6, 9) if config.smoke else (9, 12, 15, 18, 21, 24)
    most = 2**10 if config.smoke else 2**18
    lines = ["| units | patterns | one rival at a time |", "| --- | --- | --- |"]
    found, bounds = [], []
    for units in sizes:
        rates, counts, count = [], [], 4
        while count <= most:
            failed = []
            for _ in range(max(1, 400 // count)):
                patterns = SPREAD * torch.randn(count, units, generator=generator)
                some = patterns[:400]
                end = en.models.ModernHopfield(patterns, beta=1.0).attend(some).detach()
                failed.append((end - some).norm(dim=1) > 0.1 * some.norm(dim=1))
            rates.append(float(torch.cat(failed).float().mean()))
            counts.append(count)
            if rates[-1] > 0.3:
                break
            count *= 2
        rates = list(np.maximum.accumulate(rates))
        found.append(float(np.exp(np.interp(0.1, rates, np.log(counts)))))
        bounds.append(0.1 / confusion(units))
        lines.append(f"| {units} | {found[-1]:.0f} | {bounds[-1]:.0f} |")
    slope = np.polyfit(sizes, np.log2(found), 1)[0]
    axes.semilogy(sizes, found, "o-", color="C3", label=f"grows as 2^({slope:.2f} n)")
    axes.semilogy(sizes, bounds, "k--", lw=1, label="one rival at a time")
    axes.set(title="Modern network: 10 % of failures", xlabel="units n", ylabel="patterns")
    axes.legend(fontsize=8)
    return [
        "## Modern network",
        "",
        "Patterns drawn from a Gaussian of standard deviation 2, beta = 1; a failure is an update "
        "that moves a pattern by more than a tenth of its length. Patterns at which 10 % fail, "
        "and where they would if each other pattern were alone to confuse with (an integral over "
        "lengths, with distances at their mean).",
        "",
        *lines,
        "",
        f"Least squares: 2^({slope:.2f} n).",
        "",
    ]


def main(config: Config) -> None:
    """Measure every memory."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(config.seed)
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    lines = [
        "# Capacity of associative memories",
        "",
        "Made by `python experiments/memory_capacity/run.py`.",
        "",
    ]
    lines += [*circumstances(), ""]
    for part, axes in zip((hebb, rules, dense, modern), panels.flat, strict=True):
        lines += part(config, axes, generator)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    figure.savefig(config.out / "capacity.png", dpi=110)
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
