"""Which solver for sparse codes? The gap of the objective by time, whitened patches in learned atoms.

    python experiments/sparse_solvers/run.py            # some minutes
    python experiments/sparse_solvers/run.py --smoke    # tiny patches, few steps: does it still run?

It leaves results.md and gaps.png beside this file, or in --out.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from sklearn.linear_model import Lasso
from torch import Tensor
from torch.nn import functional

import energynet as en
from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
GAPS = (1e-3, 1e-6)


@dataclass(frozen=True)
class Config:
    """What is run."""

    side: int = 16
    """Of a patch, in pixels."""

    atoms: int = 512
    """Of the dictionary."""

    batch: int = 256
    """Patches that are coded together."""

    sparsity: float = 0.1
    """lambda; patches have norm 2 on average, atoms norm 1."""

    updates: int = 150
    """Batches from which the dictionary is learned."""

    max_steps: int = 400
    """Steps of each solver."""

    rounds: int = 3
    """Timed runs, of which the median is taken."""

    seed: int = 0
    """Of patches and first atoms."""

    smoke: bool = False
    """Tiny patches and few steps."""

    out: Path = HERE
    """Where the results go."""


@dataclass(frozen=True)
class Curve:
    """The relative gap after some numbers of steps, and the seconds that they take."""

    name: str
    steps: list[int]
    gaps: list[float]
    seconds: list[float]

    def first(self, gap: float) -> int | None:
        """The place of the first gap that is small enough."""
        return next((i for i, found in enumerate(self.gaps) if found <= gap), None)


@dataclass(frozen=True)
class Problem:
    """Patches, a model that has learned its dictionary, and the least objective."""

    x: Tensor
    model: en.models.SparseCoding
    least: float

    def gap(self, code: Tensor) -> float:
        """Of the objective, summed over the batch, in float64."""
        return objective(self.model, self.x, code) / self.least - 1


def objective(model: en.models.SparseCoding, x: Tensor, code: Tensor) -> float:
    """The energy of all samples, in float64."""
    error = x.double() - code.double() @ model.weight.detach().double().T
    return float(0.5 * error.square().sum() + float(model.penalty.strength) * code.double().abs().sum())


def learned(config: Config) -> Problem:
    """On-line dictionary learning by `SparseCoding.fit_` on whitened patches of two photographs."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    raw = data.patches(data.natural_images(), config.side, 20_000, generator=generator)
    raw = raw - raw.mean(1, keepdim=True)
    x = data.zca(raw, ridge=1e-4)(raw)
    x = 2 * x / x.norm(dim=1).mean()
    model = en.models.SparseCoding(config.side**2, config.atoms, config.sparsity)
    with torch.no_grad():
        model.weight.copy_(x[: config.atoms].T)
        model.project_()
    inner, outer = torch.zeros(config.atoms, config.atoms), torch.zeros(config.side**2, config.atoms)
    for _ in range(config.updates):
        some = x[torch.randint(len(x), (config.batch,), generator=generator)]
        code = model.infer(some, max_steps=20).state["a"]
        inner.lerp_(code.T @ code, 0.1)
        outer.lerp_(some.T @ code, 0.1)
        model.fit_(inner, outer)
    test = x[-config.batch :]
    exact = en.models.SparseCoding(config.side**2, config.atoms, config.sparsity).double()
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    best = exact.infer(test.double(), solver=en.Proximal())
    return Problem(test, model, objective(model, test, best.state["a"]))


def solvers(model: en.models.SparseCoding) -> dict[str, en.Solver]:
    """Those whose steps are known, and the locally competitive algorithm with several solvers."""
    rate = model.lipschitz()
    return {
        "FISTA: Proximal()": en.Proximal(),
        "FISTA: Proximal(restart=False)": en.Proximal(restart=False),
        "ISTA: Proximal(accelerate=False)": en.Proximal(accelerate=False),
        "ADMM()": en.ADMM(),
        "CoordinateDescent()": en.CoordinateDescent(),
        "LCA: Euler(1 / L)": en.Euler(1 / rate),
        "LCA: Euler(1.9 / L)": en.Euler(1.9 / rate),
        "LCA: Momentum(1 / L, None)": en.Momentum(1 / rate, None),
        "LCA: LBFGS()": en.LBFGS(),
    }


def timed(program: Callable[[], object], rounds: int) -> float:
    """The median of CPU times."""
    program()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        program()
        times.append(time.process_time() - start)
    return statistics.median(times)


def settled(problem: Problem, name: str, solver: en.Solver, config: Config) -> Curve:
    """A solver's path, and its time: that of whole runs of two lengths, and a line between them."""
    many = min(60, config.max_steps) if isinstance(solver, en.CoordinateDescent) else config.max_steps

    def run(steps: int, record: str | None = None) -> en.Solution:
        return en.settle(
            problem.model,
            clamp={"x": problem.x},
            solver=solver,
            max_steps=steps,
            until=en.Never(),
            record=record,
        )

    gaps = [problem.gap(code) for code in run(many, "state").trajectory["a"]]
    few, more = many // 10, many // 2
    early, late = timed(lambda: run(few), config.rounds), timed(lambda: run(more), config.rounds)
    pace = max(late - early, 0.0) / (more - few)
    first = max(early - few * pace, 0.0)
    return Curve(name, list(range(many + 1)), gaps, [first + k * pace for k in range(many + 1)])


def by_hand(problem: Problem, config: Config) -> Curve:
    """FISTA on the Gram matrix in plain PyTorch, as one would write it for this problem only."""
    weight, x, strength = problem.model.weight.detach(), problem.x, config.sparsity

    def run(steps: int, path: list[float] | None = None) -> None:
        gram = weight.T @ weight
        dt = 1 / torch.linalg.eigvalsh(gram)[-1]
        drive, turn = dt * (x @ weight), -dt * gram
        turn.diagonal().add_(1)
        code = torch.zeros_like(drive)
        ahead, t = code, 1.0
        for step in range(steps + 1):
            if path is not None:
                path.append(problem.gap(code))
            if step == steps:
                return
            moved = functional.softshrink(torch.addmm(drive, ahead, turn), float(dt * strength))
            older = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = torch.lerp(code, moved, 1 + (t - 1) / older)
            code, t = moved, older

    gaps: list[float] = []
    run(config.max_steps, gaps)
    few, more = config.max_steps // 10, config.max_steps // 2
    early, late = timed(lambda: run(few), config.rounds), timed(lambda: run(more), config.rounds)
    pace = max(late - early, 0.0) / (more - few)
    first = max(early - few * pace, 0.0)
    steps = list(range(len(gaps)))
    return Curve("FISTA by hand", steps, gaps, [first + k * pace for k in steps])


def scikit_learn(problem: Problem, config: Config) -> Curve:
    """Its coordinate descent, at falling tolerances."""
    weight, x = problem.model.weight.detach().numpy(), problem.x.numpy()
    gaps, seconds, places = [], [], []
    for power in range(1, 4 if config.smoke else 9):
        lasso = Lasso(
            config.sparsity / len(weight),
            fit_intercept=False,
            tol=10.0**-power,
            max_iter=2000,
            precompute=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gaps.append(problem.gap(torch.from_numpy(lasso.fit(weight, x.T).coef_).reshape(len(x), -1)))
            seconds.append(timed(lambda lasso=lasso: lasso.fit(weight, x.T), min(config.rounds, 3)))  # type: ignore[misc]
        places.append(power)
    return Curve("scikit-learn's Lasso", places, gaps, seconds)


def table(curves: list[Curve]) -> list[str]:
    """Markdown, the quickest to the smaller gap first."""
    lines = [
        "| solver | steps to 1e-3 | ms | steps to 1e-6 | ms | least gap |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def rank(curve: Curve) -> tuple[float, float]:
        found = [curve.first(gap) for gap in reversed(GAPS)]
        return tuple(float("inf") if i is None else curve.seconds[i] for i in found)  # type: ignore[return-value]

    for curve in sorted(curves, key=rank):
        cells = []
        for gap in GAPS:
            place = curve.first(gap)
            theirs = curve.name.startswith("scikit")
            steps = (
                "-"
                if place is None
                else f"tol 1e-{curve.steps[place]}"
                if theirs
                else str(curve.steps[place])
            )
            cells += [steps, "-" if place is None else f"{1e3 * curve.seconds[place]:.1f}"]
        lines.append(f"| {curve.name} | {' | '.join(cells)} | {min(curve.gaps):.1e} |")
    return lines


def draw(curves: list[Curve], path: Path) -> None:
    """The gap against time and against steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for number, curve in enumerate(curves):
        theirs = curve.name.startswith("scikit")
        style = "o-" if theirs else ("-", "--")[number // 6]
        shown = [max(gap, 1e-9) for gap in curve.gaps]
        colour = f"C{number}" if number < 10 else "black"
        left.loglog([1e3 * s for s in curve.seconds], shown, style, label=curve.name, color=colour, ms=3)
        if not theirs:
            right.loglog([max(k, 0.8) for k in curve.steps], shown, style, color=colour)
    for gap in GAPS:
        for axes in (left, right):
            axes.axhline(gap, color="grey", lw=0.5)
    left.set(xlabel="CPU time (ms)", ylabel="relative gap of the objective", ylim=(1e-8, 5))
    right.set(xlabel="steps, or sweeps")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Learn a dictionary, then race."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(
            side=6, atoms=40, batch=20, updates=3, max_steps=20, rounds=1, smoke=True, out=config.out
        )
    problem = learned(config)
    curves = [by_hand(problem, config)]
    curves += [settled(problem, name, s, config) for name, s in solvers(problem.model).items()]
    curves.append(scikit_learn(problem, config))
    with torch.no_grad():
        active = float((problem.model.infer(problem.x).state["a"] != 0).double().mean())
    lines = [
        "# Which solver for sparse codes",
        "",
        f"Made by `python experiments/sparse_solvers/run.py`; {config.side}x{config.side} whitened patches, "
        f"batch {config.batch}, {config.atoms} learned atoms, lambda {config.sparsity:g}, float32. Of the "
        f"codes {active:.1%} are not zero; the largest eigenvalue of the Gram matrix is "
        f"{problem.model.lipschitz():.2f}. "
        "Time is CPU time of one process on one thread: a start and a pace, from runs of two lengths "
        f"(medians of {config.rounds}).",
        "",
        *circumstances(),
        "",
        *table(curves),
        "",
    ]
    print("\n".join(lines))
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    draw(curves, config.out / "gaps.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
