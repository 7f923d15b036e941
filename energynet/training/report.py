"""What a run leaves to look at: a table and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energynet import plot
from energynet.training.learners import cost
from energynet.training.probe import fall

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from energynet.track import Run
    from energynet.training.config import Rule
    from energynet.training.learners import Learner
    from energynet.training.loop import Training

TITLES: dict[Rule, str] = {
    "ep": "equilibrium propagation",
    "chl": "contrastive Hebbian",
    "implicit": "exact implicit gradient",
    "backprop": "backprop",
}
_FALLING = 16  # examples whose energy is drawn
_CANDIDATES = 1000  # out of these


def table(run: Run, rules: tuple[Rule, ...]) -> str:
    """Lay out the accuracy and the training time of every rule.

    Parameters
    ----------
    run
        A run that has been trained.
    rules
        Its rules.
    """
    metrics, timing = run.metrics(), run.timing()
    on = metrics[-1]["judged_on"]
    rows = [("rule", f"{on} accuracy", f"best {on} accuracy (epoch)", "training time")]
    for rule in rules:
        own = [record for record in metrics if record["rule"] == rule]
        best = max(own, key=lambda record: record["accuracy"])
        seconds = sum(record["seconds"] for record in timing if record["rule"] == rule)
        rows.append(
            (
                TITLES[rule],
                f"{100 * own[-1]['accuracy']:.2f} %",
                f"{100 * best['accuracy']:.2f} % ({best['epoch']})",
                f"{seconds:.1f} s",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def figures(training: Training) -> list[Path]:
    """Draw what a trained run shows.

    Parameters
    ----------
    training
        After `Training.train`.

    Returns
    -------
    list of Path
        The files, in the run's directory of figures.
    """
    metrics = training.run.metrics()
    rules = training.config.rules
    folder = training.run.figures_path
    by_rule = {rule: [record for record in metrics if record["rule"] == rule] for rule in rules}
    title = f"{training.config.dataset}, layers {'-'.join(map(str, sizes(training)))}"
    on = training.data.judged_on
    made: list[Path] = []

    accuracies = {TITLES[rule]: [(r["epoch"], 100 * r["accuracy"]) for r in by_rule[rule]] for rule in rules}
    made.append(folder / "accuracy.png")
    plot.save(plot.accuracy(accuracies, title, on), made[-1])

    angles = {
        TITLES[rule]: [(r["epoch"], r["angle"]) for r in by_rule[rule] if r["angle"] is not None]
        for rule in rules
    }
    if any(angles.values()):
        made.append(folder / "angle.png")
        plot.save(plot.angle({name: points for name, points in angles.items() if points}, title), made[-1])

    for rule in rules:  # the energy of the first learner that has one
        learner = training.learners[rule]
        found = fall(learner, training.config, *hardest(training, learner))
        if found is not None:
            made.append(folder / "energy.png")
            figure = plot.settling(
                found.free,
                found.plus,
                found.minus,
                beta=found.beta,
                title=f"{title}, {TITLES[rule]}: the {len(found.free[0])} {on} examples of the highest cost",
                steps=_STEPS[training.config.solver],
            )
            plot.save(figure, made[-1])
            break
    return made


_STEPS = {
    "block": "sweeps of block descent",
    "block-momentum": "sweeps of block descent with momentum",
    "euler": "Euler steps",
    "heun": "Heun steps",
    "rk4": "Runge-Kutta steps",
}


def hardest(training: Training, learner: Learner) -> tuple[Tensor, Tensor]:
    """Give the examples, and their targets, that the learner does worst on: a nudge moves these."""
    judge = training.data.judge
    x = judge.x[:_CANDIDATES]
    target = learner.targets(judge.label[:_CANDIDATES], training.data.classes)
    costs = cost().energy(y=learner.output(x), target=target)
    chosen = costs.topk(min(_FALLING, len(costs))).indices
    return x[chosen], target[chosen]


def sizes(training: Training) -> tuple[int, ...]:
    """Give the units of all layers."""
    return (training.data.x.shape[1], *training.config.hidden, training.data.classes)
