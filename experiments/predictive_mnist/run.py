"""Predictive coding on MNIST, 784-256-256-10 with squared error, beside backprop; then digits from labels.

    python experiments/predictive_mnist/run.py --data-dir DIRECTORY [--choose: activation and rate, held out]

It leaves results.md, accuracy.png, digits.png (or choice.md) beside this file, or in --out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from pictures import draw_digits, pictures
from torch import Tensor
from torch.nn import functional

import energynet as en
from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
COST = en.SquaredError("y")
RATES = (0.0005, 0.001, 0.002)
BACKPROP, MAP, WEAK = "backprop", "MaximumAPosteriori", "MaximumAPosteriori, weak output"
INCREMENTAL, GENERATIVE = "IncrementalPC", "generative weights"


@dataclass(frozen=True)
class Config:
    """What is run."""

    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers."""

    rules: tuple[str, ...] = (BACKPROP, "ZIL", "FixedPrediction", MAP, WEAK, INCREMENTAL)
    """What learns: backprop, two rules that equal it, and those that infer the states; the output of "weak
    output" has the precision `weak`, which makes its gradient nearer to backprop's."""

    pictures: bool = True
    """Train the generative network and draw digits, too."""

    activation: str = "relu"
    """Of the hidden layers; chosen on held-out training data, see choice.md."""

    lr: float = 0.002
    """Learning rate of Adam in the first epoch, of backprop and the exact rules, chosen likewise; it falls
    linearly to zero after the last."""

    inference_lr: float = 0.001
    """The same of the rules that infer the states."""

    epochs: int = 10
    """Passes through the training data."""

    weak: float = 0.1
    """Precision of the output beside 1 of the other predictions, chosen likewise."""

    batch: int = 100
    """Images in a batch."""

    steps: int = 10
    """Of state inference, by Euler's method with step 0.2 from the feed-forward pass."""

    held_out: int = 10_000
    """Training images on which --choose measures."""

    generative_epochs: int = 3
    """Passes of the network in which labels predict images."""

    seed: int = 0
    """Of the weights and the order of the batches, the same for every rule."""

    choose: bool = False
    """Compare activations and learning rates on held-out training data; the test data are not looked at."""

    settling: int = 300
    """The most steps of L-BFGS for a picture."""

    smoke: bool = False
    """8x8 digits, tiny networks, one epoch."""

    data_dir: Path | None = None
    """Directory of the four IDX files, gzipped or not; else $ENERGYNET_DATA, else they are downloaded."""

    out: Path = HERE
    """Where the results go."""


@dataclass
class Run:
    """A network, and what it did in each epoch."""

    model: en.models.PredictiveCoding | None
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def rules(config: Config) -> dict[str, Callable[[en.models.PredictiveCoding], en.LearningRule]]:
    """Backprop, the exact rules of predictive coding, and those that infer the states."""
    inference = {"solver": en.Euler(0.2), "until": en.Never(), "max_steps": config.steps}
    return {
        BACKPROP: lambda model: en.Backprop(_Whole(model), COST),
        "ZIL": lambda model: en.ZIL(model, COST),
        "FixedPrediction": lambda model: en.FixedPrediction(model, COST),
        MAP: lambda model: en.MaximumAPosteriori(model, **inference),
        WEAK: lambda model: en.MaximumAPosteriori(model, **inference),
        INCREMENTAL: lambda model: en.IncrementalPC(model, rate=0.01, steps=5, solver=en.Euler(0.2)),
    }


def infers(name: str) -> bool:
    """Whether a rule infers the states."""
    return name in (MAP, WEAK, INCREMENTAL)


class _Whole(torch.nn.Module):
    """The feed-forward pass of a model as a module that shares its weights."""

    def __init__(self, model: en.models.PredictiveCoding) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(term.module for term in model.predictions.values())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def believed(name: str, config: Config) -> float:
    """The precision of the output."""
    return config.weak if name == WEAK else 1.0


def network(
    config: Config, features: int, direction: str = "discriminative", precision: float = 1.0
) -> en.models.PredictiveCoding:
    """The same weights for every rule; the precision is that of the last prediction."""
    torch.manual_seed(config.seed)
    return en.models.PredictiveCoding(
        [features, *config.hidden, 10],
        config.activation,
        direction,
        precision=[*(1.0 for _ in config.hidden), precision],
    )


def train(
    rule: en.LearningRule, run: Run, train: data.Split, test: data.Split, config: Config, lr: float
) -> None:
    """Adam with a rate that falls to zero; accuracy of the feed-forward pass after each epoch."""
    optimiser = torch.optim.Adam(rule.parameters(), lr)
    order = torch.Generator().manual_seed(config.seed)
    targets = train.one_hot(10)
    count = len(train) // config.batch
    settles = isinstance(rule, (en.MaximumAPosteriori, en.IncrementalPC))
    for epoch in range(config.epochs):
        start = time.process_time()
        for number, some in enumerate(
            torch.randperm(len(train), generator=order)[: count * config.batch].view(count, -1)
        ):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - (epoch + number / count) / config.epochs)
            optimiser.zero_grad()
            rule(x=train.x[some], **{"y" if settles else "target": targets[some]}).backward()
            optimiser.step()
        run.seconds.append(time.process_time() - start)
        if run.model.direction == "discriminative":
            run.accuracy.append(float((answer(run.model, test.x) == test.label).double().mean()))


def answer(model: en.models.PredictiveCoding, x: Tensor) -> Tensor:
    """The label that a network sees in images: of the feed-forward pass, or the best of ten by inference."""
    if model.direction == "discriminative":
        return model.feedforward(x)["y"].argmax(1)
    energies = [inferred(model, x, digit) for digit in range(10)]
    return torch.stack(energies, 1).argmin(1)


def inferred(model: en.models.PredictiveCoding, x: Tensor, digit: int) -> Tensor:
    """The energy of images and one label, with the hidden layers settled."""
    y = functional.one_hot(torch.full((len(x),), digit), 10).to(x.dtype)
    solver = en.LBFGS()
    return en.settle(model, model.feedforward(y), clamp={"x": x, "y": y}, solver=solver, max_steps=20).energy


def candidates(config: Config) -> Iterator[tuple[str, Config, float]]:
    """A rule, with the activation and the output precision in the configuration, and a learning rate."""
    for activation in ("relu", "tanh"):
        for name in ("ZIL", MAP):
            for lr in RATES:
                yield name, replace(config, activation=activation), lr
    for name, precisions in ((WEAK, (0.1, 0.01)), (INCREMENTAL, (1.0,))):
        for precision in precisions:
            for lr in RATES:
                yield name, replace(config, weak=precision), lr


def choose(config: Config, train_all: data.Split) -> Iterator[str]:
    """Held-out accuracy of activations, learning rates and output precisions, row by row."""
    cut = len(train_all) - config.held_out
    learn = data.Split(train_all.x[:cut], train_all.label[:cut])
    held = data.Split(train_all.x[cut:], train_all.label[cut:])
    epochs = max(config.epochs // 2, 1)
    yield f"| rule | activation | learning rate | output precision | held-out accuracy, {epochs} epochs |"
    yield "| --- " * 5 + "|"
    for name, chosen, lr in candidates(replace(config, epochs=epochs)):
        run = Run(network(chosen, learn.x.shape[1], precision=believed(name, chosen)))
        train(rules(chosen)[name](run.model), run, learn, held, chosen, lr)
        precision = f"{believed(name, chosen):g}" if infers(name) else ""
        yield f"| {name} | {chosen.activation} | {lr:g} | {precision} | {run.accuracy[-1]:.2%} |"


def key(config: Config) -> str:
    """What runs must have in common to stand in one table."""
    return repr(replace(config, rules=(), pictures=False, choose=False, data_dir=None, out=Path()))


def kept(config: Config) -> dict[str, Run]:
    """What has been trained before, by another command with the same configuration."""
    path = config.out / "runs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return {n: Run(None, **r) for n, r in known["runs"].items()} if known.get("key") == key(config) else {}


def keep(runs: dict[str, Run], config: Config) -> None:
    """Write down what has been trained."""
    numbers = {n: {"accuracy": r.accuracy, "seconds": r.seconds} for n, r in runs.items()}
    text = json.dumps({"key": key(config), "runs": numbers}, indent=1)
    (config.out / "runs.json").write_text(text + "\n")


def table(runs: dict[str, Run]) -> list[str]:
    """Markdown: test accuracy of each epoch, and time."""
    epochs = len(next(iter(runs.values())).accuracy)
    base = sum(runs[BACKPROP].seconds) if BACKPROP in runs else float("nan")
    lines = [
        f"| rule | {' | '.join(str(e + 1) for e in range(epochs))} | s per epoch | to backprop |",
        "| --- " * (epochs + 3) + "|",
    ]
    for name, run in runs.items():
        if run.accuracy:
            cells = " | ".join(f"{100 * a:.2f}" for a in run.accuracy)
            seconds = sum(run.seconds)
            lines.append(f"| {name} | {cells} | {seconds / epochs:.1f} | {seconds / base:.1f} |")
    return lines


def draw_accuracy(runs: dict[str, Run], path: Path) -> None:
    """Test accuracy against epochs."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    epochs = len(next(iter(runs.values())).accuracy)
    for number, (name, run) in enumerate(runs.items()):
        if len(run.accuracy) == epochs:  # not the generative weights, which are judged once
            style = ("-", "--", ":", "-", "-")[number % 5]
            axes.plot(range(1, len(run.accuracy) + 1), [100 * a for a in run.accuracy], style, label=name)
    axes.axhline(98, color="grey", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Train by every rule; draw digits."""
    torch.set_num_threads(1)
    source = data.load("digits") if config.smoke else data.load("mnist", config.data_dir)
    if config.smoke:
        config = Config(
            rules=tuple(rules(config)),
            hidden=(16, 16),
            epochs=1,
            generative_epochs=1,
            held_out=300,
            settling=10,
            choose=config.choose,
            out=config.out,
        )
    learn, test = source.train, source.test
    config.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Predictive coding on MNIST",
        "",
        "Made by `python experiments/predictive_mnist/run.py" + " --choose" * config.choose + "`; "
        f"{source.train.x.shape[1]}-{'-'.join(map(str, config.hidden))}-10, squared error, "
        f"batches of {config.batch}, {config.epochs} epochs, Adam from the rate given, linearly to zero.",
        "",
        *circumstances(),
        "",
    ]
    if config.choose:
        for line in choose(config, learn):
            print(line, flush=True)
            lines.append(line)
            (config.out / "choice.md").write_text("\n".join([*lines, ""]))
        return
    runs = kept(config)
    for name in config.rules:
        runs[name] = run = Run(network(config, learn.x.shape[1], precision=believed(name, config)))
        lr = config.inference_lr if infers(name) else config.lr
        train(rules(config)[name](run.model), run, learn, test, config, lr)
        keep(runs, config)
        print(name, [round(a, 4) for a in run.accuracy], [round(s, 1) for s in run.seconds], flush=True)
    if config.pictures:
        runs[GENERATIVE] = generative = Run(network(config, learn.x.shape[1], "generative"))
        few = replace(config, epochs=config.generative_epochs)
        rule = rules(config)[MAP](generative.model)
        train(rule, generative, learn, test, few, config.inference_lr)
        some = slice(0, 1000)
        right = (answer(generative.model, test.x[some]) == test.label[some]).double().mean()
        generative.accuracy.append(float(right))
        keep(runs, config)
        shown = pictures(runs[MAP].model, generative.model, learn, test, config.settling)
        draw_digits(shown, config.out / "digits.png")
    shown_rules = {name: runs[name] for name in rules(config) if name in runs}
    lines += [
        f"{config.activation}; learning rate {config.lr}, and {config.inference_lr} where states are "
        "inferred. Test accuracy (%) after each epoch; CPU time of the training steps.",
        "",
        *table(shown_rules),
        "",
    ]
    if GENERATIVE in runs:
        lines += [
            f"Generative weights (label predicts image), {config.generative_epochs} epochs, as a classifier: "
            f"{runs[GENERATIVE].accuracy[0]:.1%} of the first 1000 test images have the lowest energy "
            "with their own label.",
            "",
        ]
    (config.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw_accuracy(shown_rules, config.out / "accuracy.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
