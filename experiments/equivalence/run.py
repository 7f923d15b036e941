"""Which rule equals which gradient, in which limit? The numbers of docs/predictive.md.

    python experiments/equivalence/run.py            # all tables, a minute or two
    python experiments/equivalence/run.py --smoke    # few networks: does it still run?

It leaves results.md and errors.png beside this file, or in --out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

import energynet as en
from energynet import data
from energynet.provenance import circumstances
from energynet.testing import backprop_problems, check_backprop_equivalence
from energynet.testing.feedback import WeakFeedback

HERE = Path(__file__).parent
COST = en.SquaredError("y")
TIGHT = en.Stationary(atol=1e-13)


@dataclass(frozen=True)
class Config:
    """What is run."""

    networks: int = 200
    """Random networks on which the exact rules are checked."""

    batch: int = 32
    """Digits on which the other gradients are compared."""

    learned: int = 300
    """Steps of Adam before they are compared, so that the weights are not random."""

    seed: int = 0
    """Of the weights."""

    smoke: bool = False
    """Few networks and steps."""

    out: Path = HERE
    """Where the results go."""


def gradient(rule: nn.Module, **examples: Tensor) -> list[Tensor]:
    """What the rule leaves, parameter by parameter."""
    rule.zero_grad()
    rule(**examples).backward()
    return [p.grad.clone() for p in rule.parameters() if p.grad is not None]


def weights(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients of matrices only, from the first layer up."""
    return [g for g in gradients if g.ndim == 2]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """The relative error of every matrix, and of all of them as one vector."""
    pairs = list(zip(weights(found), weights(exact), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    each = [float((a - b).norm() / b.norm()) for a, b in pairs]
    off, size = (
        math.hypot(*(float(v.norm()) for v in vs)) for vs in ([a - b for a, b in pairs], weights(exact))
    )
    return [*each, off / size]


def cosine(found: list[Tensor], exact: list[Tensor]) -> float:
    """Between all matrices as one vector."""
    a, b = (torch.cat([g.flatten() for g in weights(gradients)]) for gradients in (found, exact))
    return float(a @ b / (a.norm() * b.norm()))


def network(config: Config, activation: str = "tanh", **more: Any) -> en.models.PredictiveCoding:
    """A network of 64-32-32-10 that has learned a little."""
    torch.manual_seed(config.seed)
    return en.models.PredictiveCoding([64, 32, 32, 10], activation, **more).double()


def learn(rule: nn.Module, x: Tensor, target: Tensor, config: Config) -> None:
    """Some steps of Adam."""
    optimiser = torch.optim.Adam(rule.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(3 if config.smoke else config.learned):
        some = torch.randint(len(x), (50,), generator=generator)
        optimiser.zero_grad()
        rule(x=x[some], target=target[some]).backward()
        optimiser.step()


@dataclass(frozen=True)
class Law:
    """How an error falls with a strength."""

    name: str
    reference: str
    order: int
    strengths: tuple[float, ...]
    errors: tuple[list[float], ...]

    @property
    def measured(self) -> float:
        """The exponent between the two weakest strengths."""
        (s, t), (a, b) = self.strengths[-2:], (e[-1] for e in self.errors[-2:])
        return math.log(a / b) / math.log(s / t)

    def lines(self) -> list[str]:
        """Markdown."""
        layers = len(self.errors[0]) - 1
        head = " | ".join(f"layer {i + 1}" for i in range(layers))
        body = [
            f"| {s:g} | {' | '.join(f'{e:.2e}' for e in es)} |"
            for s, es in zip(self.strengths, self.errors, strict=True)
        ]
        return [
            f"### {self.name} against {self.reference}",
            "",
            f"| strength | {head} | all |",
            "| --- " * (layers + 2) + "|",
            *body,
            "",
            f"The error falls as the power {self.measured:.2f}; theory says {self.order}.",
            "",
        ]


def law(
    name: str,
    reference: str,
    order: int,
    strengths: tuple[float, ...],
    exact: list[Tensor],
    found: Callable[[float], list[Tensor]],
) -> Law:
    """Measure the errors at all strengths."""
    return Law(name, reference, order, strengths, tuple(errors(found(s), exact) for s in strengths))


def laws(x: Tensor, target: Tensor, some: dict[str, Tensor], config: Config) -> list[Law]:
    """Every limit on one network each, with errors by layer."""
    model = network(config)
    learn(en.ZIL(model, COST), x, target, config)
    back = gradient(en.ZIL(model, COST), **some)
    down = (0.3, 0.1, 0.03, 0.01)  # a negative nudge of 1 would leave the output without a minimum
    weaker = (
        0.03,
        0.01,
        0.003,
        0.001,
    )  # at 0.1 some samples of the Hopfield network leave for another minimum
    if config.smoke:  # each strength is traced anew
        down, weaker = down[1:3], weaker[:2]

    def nudged(energy: en.Energy, estimator: str) -> Callable[[float], list[Tensor]]:
        return lambda beta: gradient(
            en.EquilibriumPropagation(energy, COST, beta, estimator, until=TIGHT), **some
        )

    def soft(precision: float) -> list[Tensor]:
        """The output clamped, but believed with a small precision; the gradient over it."""
        weak = network(config, precision=[1.0, 1.0, precision])
        with torch.no_grad():
            for p, q in zip(weak.parameters(), model.parameters(), strict=True):
                p.copy_(q)
        rule = en.MaximumAPosteriori(weak, until=TIGHT)
        return [g / precision for g in gradient(rule, x=some["x"], y=some["target"])]

    torch.manual_seed(config.seed)
    hopfield = en.models.LayeredHopfield([64, 32, 32, 10], "tanh").double()
    learn(en.EquilibriumPropagation(hopfield, COST, 0.1), x, target, config)
    implicit = gradient(en.ImplicitDifferentiation(hopfield, COST, until=TIGHT), **some)
    return [
        law("Predictive coding, one-sided nudge", "backprop", 1, down, back, nudged(model, "one-sided")),
        law("Predictive coding, centred nudge", "backprop", 2, down, back, nudged(model, "centered")),
        law("MaximumAPosteriori / output precision", "backprop", 1, down, back, soft),
        law("EP, one-sided", "the implicit gradient", 1, weaker, implicit, nudged(hopfield, "one-sided")),
        law("EP, centred", "the implicit gradient", 2, weaker, implicit, nudged(hopfield, "centered")),
        law(
            "CHL, feedback gain",
            "backprop",
            1,
            down,
            back,
            lambda gain: gradient(WeakFeedback(model, gain, until=TIGHT, max_steps=10_000), **some),
        ),
    ]


def random_networks(config: Config) -> list[str]:
    """The exact rules to rounding, and the laws of the limits, on generated networks."""
    count = 2 if config.smoke else config.networks
    lines = [
        "| rule | dtype | networks | largest relative error of a parameter | norm ratio |",
        "| --- " * 5 + "|",
    ]
    for rule in (en.FixedPrediction, en.ZIL):
        for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            problems = backprop_problems(depth=(2, 10), width=6, dtype=dtype)
            report = check_backprop_equivalence(
                rule, problems=problems, examples=count, rtol=rtol, dtype=dtype
            )
            worst = max(row.error for row in report.rows.values())
            rows = report.rows.values()
            off = max(max(row.most - 1, 1 - row.least) for row in rows)
            lines.append(
                f"| {rule.__name__} | {str(dtype)[6:]} | {report.examples} | {worst:.1e} | 1 ± {off:.1e} |"
            )
    return lines


def clamped(x: Tensor, target: Tensor, some: dict[str, Tensor], config: Config) -> list[str]:
    """How far the settled gradient with a clamped output is from backprop's, before and after learning."""
    lines = [
        "| network | layer 1 | layer 2 | layer 3 | all | cosine |",
        "| --- " * 6 + "|",
    ]
    for activation in ("linear",) if config.smoke else ("tanh", "linear"):
        model = network(config, activation)
        for state in ("at first", "after learning"):
            found = gradient(en.MaximumAPosteriori(model, until=TIGHT), x=some["x"], y=some["target"])
            back = gradient(en.ZIL(model, COST), **some)
            cells = " | ".join(f"{e:.3f}" for e in errors(found, back))
            lines.append(f"| {activation}, {state} | {cells} | {cosine(found, back):.4f} |")
            if state == "at first":
                learn(en.ZIL(model, COST), x, target, config)
    found = gradient(en.MaximumAPosteriori(model, until=TIGHT), x=some["x"], y=some["target"])
    rescaled = weighted_residual(model, some)
    off = errors(found, rescaled)[-1]
    return [
        *lines,
        "",
        f"For the linear network it is the gradient of 1/2 r' S⁻¹ r, by autograd, to {off:.1e}.",
    ]


def weighted_residual(model: en.models.PredictiveCoding, some: dict[str, Tensor]) -> list[Tensor]:
    """The gradient of the settled energy of a linear network in closed form, by autograd."""
    model.zero_grad()
    value, spread = some["x"], torch.zeros(0)
    for number, term in enumerate(model.predictions.values()):
        weight: Any = term.get_parameter("module.weight")
        value = value @ weight.T + term.get_parameter("module.bias")
        own = torch.eye(len(weight), dtype=weight.dtype)
        spread = own if number == 0 else own + weight @ spread @ weight.T
    residual = some["target"] - value
    (0.5 * (residual * torch.linalg.solve(spread, residual.T).T).sum(1)).mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def draw(found: list[Law], path: Path) -> None:
    """Errors of all parameters against strength."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, one in enumerate(found):
        style = ("-o", "--s")[one.order - 1]
        axes.loglog(
            one.strengths,
            [e[-1] for e in one.errors],
            style,
            markersize=4,
            label=f"{one.name} ({one.measured:.2f})",
            color=f"C{number}",
        )
    axes.set(
        xlabel="strength: beta, output precision or feedback gain",
        ylabel="relative error of the gradient",
        title="solid: order 1; dashed: order 2; in brackets what was measured",
    )
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Measure everything."""
    torch.set_num_threads(1)
    digits = data.load("digits").train
    x, target = digits.x.double(), digits.one_hot(10).double()
    some = {"x": x[: config.batch], "target": target[: config.batch]}
    found = laws(x, target, some, config)
    lines = [
        "# Which rule equals which gradient",
        "",
        "Made by `python experiments/equivalence/run.py`; float64 where nothing else is said. Relative "
        "errors of the weights' gradients, |found - exact| / |exact|.",
        "",
        *circumstances(),
        "",
        "## Equal to rounding",
        "",
        "Random networks of 2 to 10 layers, with tanh, ReLU, sigmoid or linear units, squared error or "
        "cross-entropy, some residual, some with mu scaling; each weight and each bias by itself.",
        "",
        *random_networks(config),
        "",
        "## Equal in a limit",
        "",
        f"A network of 64-32-32-10, tanh, after {config.learned} steps of Adam on 8x8 digits; "
        f"{config.batch} digits.",
        "",
        *[line for one in found for line in one.lines()],
        "## Not equal: the output clamped, everything settled",
        "",
        "`MaximumAPosteriori` against backprop on the same network.",
        "",
        *clamped(x, target, some, config),
        "",
    ]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw(found, config.out / "errors.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
