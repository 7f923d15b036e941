"""Does a residual network of 32 layers learn by predictive coding? With and without `mu`, at every rate.

    python experiments/deep_residual/run.py            # the table and the picture, some minutes
    python experiments/deep_residual/run.py --smoke    # shallow networks, one epoch: does it still run?

It leaves results.md and rates.png beside this file, or in --out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro

import energynet as en
from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
COST = en.SquaredError("y")


@dataclass(frozen=True)
class Config:
    """What is run."""

    depths: tuple[int, int] = (4, 32)
    """Predictions of the shallow network, on which a rate might be chosen, and of the deep one."""

    width: int = 32
    """Units of a hidden layer."""

    activation: str = "relu"
    """Of the hidden layers."""

    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Learning rates of Adam in the first step; they fall linearly to zero after the last."""

    epochs: int = 8
    """Passes through 1438 digits of 8x8."""

    batch: int = 64
    """Digits in a batch."""

    exact: bool = True
    """Train the deep network by an exact rule, too."""

    steps: int = 32
    """Of state inference, by Euler's method with step `dt` from the feed-forward pass: about the depth."""

    dt: float = 0.2
    """Step of the inference."""

    seed: int = 0
    """Of the weights and the order of the batches."""

    smoke: bool = False
    """Shallow networks, few steps, one epoch."""

    out: Path = HERE
    """Where the results go."""


@dataclass
class Run:
    """What a network did: training loss at first and after each epoch, and accuracies at the end."""

    loss: list[float] = field(default_factory=list)
    train: float = 0.0
    test: float = 0.0
    seconds: float = 0.0


def rule(kind: str, model: en.models.PredictiveCoding, config: Config) -> en.LearningRule:
    """State inference with input and label clamped, or backprop by an exact rule."""
    if kind == "ZIL":
        return en.ZIL(model, COST)
    solver = en.Euler(config.dt)
    return en.MaximumAPosteriori(model, solver=solver, max_steps=config.steps, until=en.Never())


def train(kind: str, depth: int, mu: bool, rate: float, source: data.Dataset, config: Config) -> Run:
    """Adam on minibatches. Where settling or the weights diverge it stops, and the loss stays infinite."""
    torch.manual_seed(config.seed)
    sizes = [64, *[config.width] * (depth - 1), 10]
    model = en.models.PredictiveCoding(sizes, config.activation, residual=True, mu=mu)
    learning = rule(kind, model, config)
    optimiser = torch.optim.Adam(learning.parameters(), rate)
    order = torch.Generator().manual_seed(config.seed)
    x, target = source.train.x, source.train.one_hot(10)
    count, done = len(x) // config.batch, 0
    run = Run([loss(model, source.train)])
    start = time.process_time()
    for _ in range(config.epochs):
        shuffled = torch.randperm(len(x), generator=order)[: count * config.batch]
        try:
            for some in shuffled.view(count, -1):
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1 - done / (count * config.epochs))
                optimiser.zero_grad()
                learning(x=x[some], **{"target" if kind == "ZIL" else "y": target[some]}).backward()
                optimiser.step()
                done += 1
        except en.SettlingError:
            run.loss.append(float("inf"))
            break
        run.loss.append(loss(model, source.train))
    run.seconds = time.process_time() - start
    run.train, run.test = accuracy(model, source.train), accuracy(model, source.test)
    return run


def loss(model: en.models.PredictiveCoding, split: data.Split) -> float:
    """Mean squared error of the feed-forward pass."""
    y = model.feedforward(split.x)["y"]
    return float(COST.energy(y=y, target=split.one_hot(10)).mean())


def accuracy(model: en.models.PredictiveCoding, split: data.Split) -> float:
    """Of the feed-forward pass."""
    return float((model.feedforward(split.x)["y"].argmax(1) == split.label).double().mean())


Key = tuple[str, int, bool, float]


def table(runs: dict[Key, Run], config: Config) -> list[str]:
    """Markdown: loss, training and test accuracy at the end, by rate."""
    head = " | ".join(f"{r:g}" for r in config.rates)
    lines = [f"| predictions | rule | scaling | {head} |", "| --- " * (3 + len(config.rates)) + "|"]
    for kind, depth, mu in dict.fromkeys(key[:3] for key in runs):
        ends = [runs[kind, depth, mu, rate] for rate in config.rates]
        cells = " | ".join(
            "diverged"
            if end.loss[-1] == float("inf")
            else f"{end.loss[-1]:.3g}, {end.train:.0%}, {end.test:.0%}"
            for end in ends
        )
        lines.append(f"| {depth} | {kind} | {'mu' if mu else 'none'} | {cells} |")
    return lines


def best(runs: dict[Key, Run], depth: int, mu: bool, config: Config) -> float:
    """The rate of state inference that leaves the smallest training loss."""
    return min(config.rates, key=lambda rate: runs["MaximumAPosteriori", depth, mu, rate].loss[-1])


def readings(runs: dict[Key, Run], config: Config) -> list[str]:
    """Markdown: the deep network at the best rate of the shallow one, of the other one, and of its own."""
    shallow, deep = config.depths
    lines = [
        f"| {deep} predictions, at the rate that is best | with mu | without |",
        "| --- | --- | --- |",
    ]
    own = {mu: best(runs, deep, mu, config) for mu in (True, False)}
    rows = {
        f"for itself at {shallow} predictions": {mu: best(runs, shallow, mu, config) for mu in (True, False)},
        f"with mu at {deep}": dict.fromkeys((True, False), own[True]),
        f"without mu at {deep}": dict.fromkeys((True, False), own[False]),
        f"for itself at {deep}": own,
    }
    for name, rates in rows.items():
        cells = []
        for mu in (True, False):
            run = runs["MaximumAPosteriori", deep, mu, rates[mu]]
            cells.append(f"{rates[mu]:g}: loss {run.loss[-1]:.3g}, test {run.test:.1%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw(runs: dict[Key, Run], path: Path, config: Config) -> None:
    """Test accuracy and training loss at the end against the rate.

    Stars: the deep network at its best rate. Circles: at that of the shallow one.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    values: list[Callable[[Run], float]] = [lambda run: 100 * run.test, lambda run: run.loss[-1]]
    shallow, deep = config.depths
    for axes, value in zip(panels, values, strict=True):
        for mu, colour in ((True, "tab:blue"), (False, "tab:red")):
            for depth, style in ((shallow, ":"), (deep, "-")):
                ends = [value(runs["MaximumAPosteriori", depth, mu, rate]) for rate in config.rates]
                name = f"{depth} predictions, {'with' if mu else 'without'} mu"
                axes.plot(config.rates, ends, style, color=colour, label=name)
            for depth, mark, size in ((deep, "*", 160), (shallow, "o", 60)):
                rate = best(runs, depth, mu, config)
                at = value(runs["MaximumAPosteriori", deep, mu, rate])
                face = colour if mark == "*" else "white"
                axes.scatter([rate], [at], s=size, marker=mark, color=face, edgecolor=colour, zorder=3)
        axes.set(xscale="log", xlabel="learning rate")
    panels[0].axhline(10, color="grey", linewidth=0.8)
    panels[0].set(ylabel="test accuracy at the end (%)", ylim=(0, 102))
    panels[1].axhline(0.45, color="grey", linewidth=0.8)
    panels[1].set(ylabel="training loss at the end", yscale="log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(config: Config) -> None:
    """Train every network at every rate."""
    torch.set_num_threads(1)
    if config.smoke:
        config = replace(config, depths=(2, 4), rates=(0.01, 0.03), epochs=1, steps=2, width=8)
    source = data.load("digits")
    runs: dict[Key, Run] = {}
    kinds = [("MaximumAPosteriori", depth) for depth in config.depths]
    for kind, depth in [*kinds, ("ZIL", config.depths[1])] if config.exact else kinds:
        for mu in (True, False):
            for rate in config.rates:
                run = train(kind, depth, mu, rate, source, config)
                runs[kind, depth, mu, rate] = run
                print(kind, depth, mu, rate, [round(v, 3) for v in run.loss], round(run.test, 3), flush=True)
    lines = [
        f"# A residual network of {config.depths[1]} layers",
        "",
        "Made by `python experiments/deep_residual/run.py`; 8x8 digits, "
        f"64-{config.width}-...-{config.width}-10 with {config.depths[0]} and {config.depths[1]} "
        f"predictions, {config.activation}, squared error, Adam, {config.epochs} epochs in batches of "
        f"{config.batch}; states by {config.steps} steps of Euler({config.dt:g}).",
        "",
        *circumstances(),
        "",
        "At the end, by learning rate: mean training loss, training accuracy, test accuracy. An answer that "
        "does not depend on the input has a loss of 0.45 at best.",
        "",
        *table(runs, config),
        "",
        *readings(runs, config),
        "",
    ]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw(runs, config.out / "rates.png", config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
