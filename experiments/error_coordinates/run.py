"""How many evaluations until the gradient of predictive coding is right? Errors against states, by depth.

    python experiments/error_coordinates/run.py --data-dir DIRECTORY   # MNIST; a minute
    python experiments/error_coordinates/run.py --smoke                # 8x8 digits, small networks

It leaves results.md and errors.png beside this file, or in --out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor

import energynet as en
from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
GOAL = 1e-3
Model = en.models.PredictiveCoding


@dataclass(frozen=True)
class Config:
    """What is run."""

    networks: tuple[tuple[int, int], ...] = ((300, 2), (128, 8))
    """Width and number of the hidden layers of each network."""

    evaluations: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100)
    """Of energy and force, after which the gradient is taken."""

    training: int = 300
    """Steps of Adam by an exact rule, before which and after which everything is measured."""

    batch: int = 64
    """Images."""

    seed: int = 0
    """Of the weights and of the images."""

    smoke: bool = False
    """Small networks, few evaluations."""

    data_dir: Path | None = None
    """Directory of the four IDX files, gzipped or not; else $ENERGYNET_DATA, else they are downloaded."""

    out: Path = HERE
    """Where the results go."""


def ways(model: Model) -> dict[str, tuple[en.MaximumAPosteriori, int]]:
    """The rule for each way to settle, and how many evaluations it makes besides one in each step.

    A safeguarded solver looks at its start as well, and descent does not.
    """
    never = en.Never()
    errors = {"coordinates": "errors", "until": never}
    return {
        "errors, L-BFGS": (en.MaximumAPosteriori(model, solver=en.LBFGS(), **errors), 1),
        "errors, descent 0.1": (en.MaximumAPosteriori(model, solver=en.Euler(0.1), **errors), 0),
        "states, L-BFGS": (en.MaximumAPosteriori(model, solver=en.LBFGS(), until=never), 1),
        "states, descent 0.2": (en.MaximumAPosteriori(model, solver=en.Euler(0.2), until=never), 0),
    }


def gradients(rule: en.LearningRule, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of the weight of each layer, in float64."""
    rule.zero_grad()
    rule(x=x, y=y).backward()
    return [
        p.grad.double() for n, p in rule.named_parameters() if n.endswith("weight") and p.grad is not None
    ]


def fixed_point(model: Model, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient at the fixed point in float64; an error if it was not reached."""
    exact = Model([v.shape[0] for v in model.variables.values()], model.activation).double()
    exact.load_state_dict(model.state_dict())
    rule = en.MaximumAPosteriori(exact, coordinates="errors", max_steps=3000, until=en.Stationary(atol=1e-10))
    (phase,) = rule.phases(x=x.double(), y=y.double())
    en.solution.check_converged(phase.solution)
    return gradients(rule, x.double(), y.double())


def train(model: Model, source: data.Split, config: Config) -> None:
    """Some steps of an exact rule."""
    rule = en.ZIL(model, en.SquaredError("y"))
    optimiser = torch.optim.Adam(rule.parameters(), 1e-3)
    order = torch.Generator().manual_seed(config.seed)
    targets = source.one_hot(10)
    for _ in range(config.training):
        some = torch.randint(len(source), (config.batch,), generator=order)
        optimiser.zero_grad()
        rule(x=source.x[some], target=targets[some]).backward()
        optimiser.step()


@dataclass
class Curve:
    """Relative errors of the gradient: of all weights together, and of the worst layer, by evaluations."""

    whole: list[float]
    worst: list[float]


def measure(model: Model, x: Tensor, y: Tensor, config: Config) -> dict[str, Curve]:
    """The curve of each way; infinite from where it diverges."""
    exact = fixed_point(model, x, y)
    size = torch.stack([g.norm() for g in exact])
    curves = {}
    for name, (rule, more) in ways(model).items():
        curve = curves[name] = Curve([], [])
        for number in config.evaluations:
            rule.max_steps = number - more
            try:
                found = gradients(rule, x, y)
            except en.SettlingError:
                curve.whole.append(float("inf"))
                curve.worst.append(float("inf"))
                continue
            off = torch.stack([(a - b).norm() for a, b in zip(found, exact, strict=True)])
            curve.whole.append(float(off.norm() / size.norm()))
            curve.worst.append(float((off / size).max()))
    return curves


def needed(curve: list[float], config: Config) -> str:
    """The first of the numbers of evaluations from which on the error stays below the goal."""
    below = [number for number, error in zip(config.evaluations, curve, strict=True) if error < GOAL]
    last = [number for number, error in zip(config.evaluations, curve, strict=True) if not error < GOAL]
    late = max(last, default=0)
    return str(min((n for n in below if n > late), default="")) or f"more than {config.evaluations[-1]}"


Found = dict[tuple[int, int, bool], dict[str, Curve]]


def table(found: Found, config: Config) -> list[str]:
    """Markdown: evaluations until the error is below the goal, and the error after 15."""
    lines = [
        "| hidden layers | weights | way | evaluations until all weights are within 1e-3 "
        "| until the worst layer is | error of all weights after 3 | after 15 |",
        "| --- " * 7 + "|",
    ]
    for (width, count, trained), curves in found.items():
        for name, curve in curves.items():
            at = dict(zip(config.evaluations, curve.whole, strict=True))
            after = " | ".join(f"{at[n]:.1e}" if n in at else "" for n in (3, 15))
            lines.append(
                f"| {count} of {width} | {'trained' if trained else 'fresh'} | {name} "
                f"| {needed(curve.whole, config)} | {needed(curve.worst, config)} | {after} |"
            )
    return lines


def draw(found: Found, path: Path, config: Config) -> None:
    """Error against evaluations, one panel a network."""
    columns = len(config.networks)
    figure, panels = plt.subplots(
        2, columns, figsize=(3.6 * columns, 6), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for line, trained in zip(panels, (False, True), strict=True):
        for axes, (width, count) in zip(line, config.networks, strict=True):
            for name, curve in found[width, count, trained].items():
                style = "o-" if name.startswith("errors") else "s--"
                axes.loglog(config.evaluations, curve.whole, style, markersize=3, label=name)
            axes.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
            axes.set(title=f"{count} hidden layers, {'trained' if trained else 'fresh'}", ylim=(1e-7, 10))
    for axes in panels[-1]:
        axes.set_xlabel("evaluations")
    for axes in panels[:, 0]:
        axes.set_ylabel("relative error of the gradient")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2 if columns == 1 else 4, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(config: Config) -> None:
    """Measure every network, before and after some training."""
    torch.set_num_threads(1)
    if config.smoke:
        config = replace(config, networks=((16, 2),), evaluations=(2, 3, 15), training=5, batch=16)
    source = (data.load("digits") if config.smoke else data.load("mnist", config.data_dir)).train
    x, y = source.x[: config.batch], source.one_hot(10)[: config.batch]
    found: Found = {}
    for width, count in config.networks:
        torch.manual_seed(config.seed)
        model = Model([source.x.shape[1], *[width] * count, 10])
        for trained in (False, True):
            if trained:
                train(model, source, config)
            found[width, count, trained] = measure(model, x, y, config)
            print(width, count, trained, flush=True)
    lines = [
        "# Evaluations until the gradient is right",
        "",
        f"Made by `python experiments/error_coordinates/run.py`; {source.x.shape[1]} inputs, tanh, 10 "
        f"outputs; input and label clamped, {config.batch} images. float32 against the fixed point in "
        f"float64: relative errors of the weights' gradients. Trained: {config.training} steps of `ZIL`.",
        "",
        *circumstances(),
        "",
        *table(found, config),
        "",
    ]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw(found, config.out / "errors.png", config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
