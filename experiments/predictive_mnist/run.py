"""Predictive coding on MNIST, 784-256-256-10 with squared error, beside backprop; then digits from labels.

    python experiments/predictive_mnist/run.py --data-dir DIRECTORY [--choose: activation and rate, held out]

It leaves results.md, accuracy.png, digits.png (or choice.md) beside this file, or in --out.
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
from torch import Tensor
from torch.nn import functional

import energynet as en
from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
COST = en.SquaredError("y")
BACKPROP, WEAK = "backprop", "MaximumAPosteriori, output precision 0.1"
GIVEN = 0.05  # precision of what the leak and the Gaussian know of an image, beside 1 of the predictions


@dataclass(frozen=True)
class Config:
    """What is run."""

    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers."""

    rules: tuple[str, ...] = ("backprop", "ZIL", "MaximumAPosteriori")
    """Of these and "FixedPrediction", which equals ZIL, and "IncrementalPC", which takes twice as long, and
    "MaximumAPosteriori, output precision 0.1", whose gradient is nearer to backprop's."""

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

    model: en.models.PredictiveCoding
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def rules(config: Config) -> dict[str, Callable[[en.models.PredictiveCoding], en.LearningRule]]:
    """Backprop, the exact rules of predictive coding, and those that infer the states."""
    inference = {"solver": en.Euler(0.2), "until": en.Never(), "max_steps": config.steps}
    return {
        BACKPROP: lambda model: en.Backprop(_Whole(model), COST),
        "ZIL": lambda model: en.ZIL(model, COST),
        "FixedPrediction": lambda model: en.FixedPrediction(model, COST),
        "MaximumAPosteriori": lambda model: en.MaximumAPosteriori(model, **inference),
        WEAK: lambda model: en.MaximumAPosteriori(model, **inference),
        "IncrementalPC": lambda model: en.IncrementalPC(model, rate=0.01, steps=5, solver=en.Euler(0.2)),
    }


def rate_of(name: str, config: Config) -> float:
    """The learning rate of a rule."""
    return config.inference_lr if name in ("MaximumAPosteriori", WEAK, "IncrementalPC") else config.lr


class _Whole(torch.nn.Module):
    """The feed-forward pass of a model as a module that shares its weights."""

    def __init__(self, model: en.models.PredictiveCoding) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(term.module for term in model.predictions.values())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


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


class Gaussian(en.Energy):
    """What is known of images before anything is learned: their mean and their covariance."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(x=en.Real(images.shape[1]))
        covariance = images.double().T.cov() + 1e-3 * torch.eye(images.shape[1], dtype=torch.float64)
        self.register_buffer("mean", images.mean(0))
        self.register_buffer("precision", covariance.inverse().to(images.dtype))

    def energy(self, x: Tensor) -> Tensor:
        from_mean = x - self.mean
        return 0.5 * (from_mean * (from_mean @ self.precision)).sum(1)


def picture(model: en.models.PredictiveCoding, prior: en.Energy | None, start: Tensor, steps: int) -> Tensor:
    """An image for each label: the label clamped, everything else settled."""
    y = torch.eye(10)
    energy = model if prior is None else model + GIVEN * prior
    state = (
        model.feedforward(y) if model.direction == "generative" else model.feedforward(start.expand(10, -1))
    )
    state.pop("y")
    return en.settle(energy, state, clamp={"y": y}, solver=en.LBFGS(), max_steps=steps).state["x"]


def completed(
    model: en.models.PredictiveCoding, prior: en.Energy | None, images: Tensor, steps: int
) -> Tensor:
    """The lower half from the upper one: no label, everything but the upper half settled."""
    mask = torch.arange(images.shape[1]) < images.shape[1] // 2
    part = en.Partial(images, mask)
    energy = model + 0.1 * en.terms.Leak(y=model.variables["y"])
    if prior is not None:
        energy = energy + GIVEN * prior
    if model.direction == "generative":  # every label is tried, and the best explanation is kept
        y = torch.eye(10).repeat_interleave(len(images), 0)
        part = en.Partial(images.repeat(10, 1), mask)
        state = {n: v for n, v in model.feedforward(y).items() if n not in ("x", "y")}
        solution = _settled(model, {"x": part, "y": y}, state, steps)
        best = solution.energy.view(10, -1).argmin(0)
        return solution.state["x"].view(10, *images.shape)[best, torch.arange(len(images))]
    state = model.feedforward(torch.where(mask, images, images.mean(0)))
    return _settled(energy, {"x": part}, {n: v for n, v in state.items() if n != "x"}, steps).state["x"]


def _settled(
    energy: en.Energy, clamp: dict[str, Tensor | en.Partial], state: dict[str, Tensor], steps: int
) -> en.Solution:
    return en.settle(energy, state, clamp=clamp, solver=en.LBFGS(), max_steps=steps)


def choose(config: Config, train_all: data.Split) -> list[str]:
    """Held-out accuracy of activations and learning rates, by an exact rule and by inference."""
    cut = len(train_all) - config.held_out
    learn = data.Split(train_all.x[:cut], train_all.label[:cut])
    held = data.Split(train_all.x[cut:], train_all.label[cut:])
    lines = [
        f"| activation | learning rate | rule | held-out accuracy, {config.epochs // 2} epochs |",
        "| --- " * 4 + "|",
    ]
    for activation in ("relu", "tanh"):
        for lr in (0.0005, 0.001, 0.002):
            for name in ("ZIL", "MaximumAPosteriori"):
                epochs = max(config.epochs // 2, 1)
                chosen = replace(config, activation=activation, epochs=epochs)
                run = Run(network(chosen, learn.x.shape[1]))
                train(rules(chosen)[name](run.model), run, learn, held, chosen, lr)
                lines.append(f"| {activation} | {lr} | {name} | {run.accuracy[-1]:.2%} |")
                print(lines[-1], flush=True)
    return lines


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
    for number, (name, run) in enumerate(runs.items()):
        if run.accuracy:
            style = ("-", "--", ":", "-", "-")[number % 5]
            axes.plot(range(1, len(run.accuracy) + 1), [100 * a for a in run.accuracy], style, label=name)
    axes.axhline(98, color="grey", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_digits(rows: dict[str, Tensor], path: Path) -> None:
    """One row of images for each way to make them; grey values from 0 to 1 as in the data."""
    side = int(next(iter(rows.values())).shape[1] ** 0.5)
    figure, panels = plt.subplots(len(rows), 10, figsize=(9, 1.06 * len(rows)))
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.view(side, side), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=8, pad=3)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, 0.05, 0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pictures(
    best: Run, generative: Run, learn: data.Split, test: data.Split, config: Config
) -> dict[str, Tensor]:
    """Digits by discriminative and by generative weights."""
    features = learn.x.shape[1]
    mean, prior = learn.x.mean(0), Gaussian(learn.x)
    shown = torch.stack([test.x[test.label == digit][0] for digit in range(10)])
    dark = shown.clone()
    dark[:, features // 2 :] = 0
    leak = en.terms.Leak(x=best.model.variables["x"])
    return {
        "discriminative weights, label clamped, 0.05/2 |x|²": picture(
            best.model, leak, mean, config.settling
        ),
        "the same weights, label clamped, Gaussian prior of the pixels": picture(
            best.model, prior, mean, config.settling
        ),
        "generative weights, label clamped, no prior": picture(generative.model, None, mean, config.settling),
        "test images": shown,
        "what is clamped": dark,
        "completed by discriminative weights, Gaussian prior": completed(
            best.model, prior, shown, config.settling
        ),
        "completed by the Gaussian prior alone": alone(prior, shown, config.settling),
        "completed by generative weights, no prior": completed(
            generative.model, None, shown, config.settling
        ),
    }


def alone(prior: Gaussian, images: Tensor, steps: int) -> Tensor:
    """What the prior knows without a network."""
    mask = torch.arange(images.shape[1]) < images.shape[1] // 2
    return _settled(prior, {"x": en.Partial(images, mask)}, {}, steps).state["x"]


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
        (config.out / "choice.md").write_text("\n".join([*lines, *choose(config, learn), ""]))
        return
    runs: dict[str, Run] = {}
    for name in config.rules:
        make = rules(config)[name]
        believed = 0.1 if name == WEAK else 1.0
        runs[name] = run = Run(network(config, learn.x.shape[1], precision=believed))
        train(make(run.model), run, learn, test, config, rate_of(name, config))
        print(name, [round(a, 4) for a in run.accuracy], [round(s, 1) for s in run.seconds], flush=True)
    lines += [
        f"{config.activation}; learning rate {config.lr}, and {config.inference_lr} where states are "
        "inferred. Test accuracy (%) after each epoch; CPU time of the training steps.",
        "",
        *table(runs),
        "",
    ]
    if config.pictures:
        generative = Run(network(config, learn.x.shape[1], "generative"))
        few = replace(config, epochs=config.generative_epochs)
        rule = rules(config)["MaximumAPosteriori"](generative.model)
        train(rule, generative, learn, test, few, config.inference_lr)
        some = slice(0, 1000)
        right = (answer(generative.model, test.x[some]) == test.label[some]).double().mean()
        lines += [
            f"Generative weights (label predicts image), {few.epochs} epochs, as a classifier: {right:.1%} "
            "of the first 1000 test images have the lowest settled energy with their own label.",
            "",
        ]
        last = list(runs.values())[-1]
        draw_digits(pictures(last, generative, learn, test, config), config.out / "digits.png")
    (config.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw_accuracy(runs, config.out / "accuracy.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
