"""Which minimiser for which energy? Work and time until the residual is 1e-6, on four standard problems.

    python experiments/minimisers/run.py            # the whole table, some minutes
    python experiments/minimisers/run.py --smoke    # tiny networks, few steps: does it still run?

It leaves results.md and residuals.png beside this file, or in --out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor
from torch.nn import functional

import energynet as en
from energynet import data
from energynet.forces import TracedForces
from energynet.provenance import circumstances
from energynet.settle import flow_of

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """What is run."""

    batch: int = 64
    """Samples that settle together."""

    tolerance: float = 1e-6
    """Residual at which a sample has settled."""

    max_steps: int = 5000
    """Steps after which a minimiser is given up."""

    rounds: int = 5
    """Timed runs; the table has their median."""

    seed: int = 0
    """Of the initial weights."""

    smoke: bool = False
    """Tiny networks and few steps."""

    out: Path = HERE
    """Where the results go."""


@dataclass(frozen=True)
class Problem:
    """An energy with trained weights, and what is clamped."""

    name: str
    energy: en.Energy
    clamp: dict[str, Tensor]


def solvers(problem: Problem) -> dict[str, en.Solver]:
    """Every minimiser; those that want a step get one from the largest curvature at the start."""
    dt = 1 / fastest(problem)
    return {
        f"Euler({dt:.2g})": en.Euler(dt),
        "Adaptive()": en.Adaptive(),
        "BlockDescent()": en.BlockDescent(),
        "BlockDescent(momentum=True)": en.BlockDescent(momentum=True),
        f"Momentum({dt:.2g}, None)": en.Momentum(dt, None),
        "FIRE()": en.FIRE(),
        "Anderson()": en.Anderson(),
        "LBFGS()": en.LBFGS(),
        "NewtonKrylov()": en.NewtonKrylov(),
        "Proximal()": en.Proximal(),
        "ADMM()": en.ADMM(),
    }


def fastest(problem: Problem) -> float:
    """The largest rate of the flow at its start, by power iteration; a little more for what comes later."""
    flow = flow_of(problem.energy, problem.clamp, solver=en.Euler(0.1))
    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in flow.start.items()}
    rate = 1.0
    with torch.no_grad():
        point = flow.start
        for _ in range(3):  # thresholds and hard sigmoids have no curvature at rest: look after some steps
            point, _, _ = en.Euler(0.05).advance(flow, point, (), None, 20)
            for _ in range(30):
                size = torch.stack([v.square().sum() for v in direction.values()]).sum().sqrt()
                direction = {n: v / size for n, v in direction.items()}
                direction = flow.forces.product(point, direction)
            rate = max(rate, float(torch.stack([v.square().sum() for v in direction.values()]).sum().sqrt()))
    return 1.05 * rate


def hopfield(name: str, sizes: tuple[int, ...], x: Tensor, target: Tensor, config: Config) -> Problem:
    """A layered Hopfield network after 300 steps of equilibrium propagation, with the input clamped."""
    torch.manual_seed(config.seed)
    model = en.models.LayeredHopfield(sizes).double()
    solver = en.BlockDescent(momentum=True)
    rule = en.EquilibriumPropagation(
        model, en.SquaredError("y"), beta=0.1, solver=solver, free_steps=25, nudged_steps=15
    )
    learn(rule, config, x=x, target=target)
    return Problem(name, model, {"x": x[: config.batch]})


def predictive(sizes: tuple[int, ...], x: Tensor, target: Tensor, config: Config) -> Problem:
    """A predictive coding network that has learnt a little, with input and label clamped."""
    torch.manual_seed(config.seed)
    model = en.models.PredictiveCoding(sizes).double()
    learn(en.FixedPrediction(model, en.SquaredError("y")), config, x=x, target=target)
    return Problem("predictive coding", model, {"x": x[: config.batch], "y": target[: config.batch]})


def competitive(atoms: int, x: Tensor, config: Config) -> Problem:
    """Sparse coding of digits by unit vectors drawn from the digits, in the potentials of LCA."""
    sparsity = 0.1
    generator = torch.Generator().manual_seed(config.seed)
    code, image = en.Real(atoms, link=en.SoftThreshold(sparsity)), en.Real(x.shape[1])
    decoder = en.terms.Reconstruction("a", "x", a=code, x=image)
    with torch.no_grad():
        some = x[torch.randperm(len(x), generator=generator)[:atoms]]
        noise = 0.5 * torch.randn(some.shape, generator=generator, dtype=x.dtype)
        decoder.weight = torch.nn.Parameter(functional.normalize(some - some.mean(0) + noise, dim=1).T)
    energy = decoder + en.terms.Sparsity(sparsity, a=code)
    return Problem(
        "locally competitive", energy, {"x": functional.normalize(x[: config.batch] - x.mean(0), dim=1)}
    )


def learn(rule: en.LearningRule, config: Config, **examples: Tensor) -> None:
    """Some steps of Adam."""
    optimiser = torch.optim.Adam(rule.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(config.seed)
    size = len(next(iter(examples.values())))
    for _ in range(3 if config.smoke else 300):
        some = torch.randint(size, (50,), generator=generator)
        optimiser.zero_grad()
        rule(**{name: value[some] for name, value in examples.items()}).backward()
        optimiser.step()


@contextmanager
def counted() -> Iterator[list[float]]:
    """Counts the multiplications in the matrix products of all forces that are evaluated meanwhile."""
    work = [0.0]
    plain = TracedForces._run

    def run(self: TracedForces, kernel: Any, *points: Any) -> Any:
        work[0] += kernel.work * len(next(iter(points[0].values())))
        return plain(self, kernel, *points)

    with mock.patch.object(TracedForces, "_run", run):
        yield work


@dataclass(frozen=True)
class Row:
    """How one minimiser did on one problem."""

    solver: str
    settled: float
    steps: float
    evaluations: float
    seconds: float
    energy: float
    curve: tuple[list[int], list[float]]


def measure(problem: Problem, name: str, solver: en.Solver, config: Config) -> Row | str:
    """Work and time of a minimiser; or why it does not apply."""
    settings: dict[str, Any] = {
        "clamp": problem.clamp,
        "solver": solver,
        "until": en.Stationary(atol=config.tolerance),
        "max_steps": 20 if config.smoke else config.max_steps,
    }

    def settle(**more: Any) -> en.Solution:
        return en.settle(problem.energy, **{**settings, **more})

    try:
        settle(max_steps=2)
        with counted() as work:
            solution = settle()
    except en.SettlingError as error:
        return str(error)
    times = []
    for _ in range(1 if config.smoke else config.rounds):
        start = time.process_time()
        settle()
        times.append(time.process_time() - start)
    full = flow_of(problem.energy, problem.clamp, solver=solver)
    every = max(1, int(solution.steps.max()) // 40)
    path = settle(record="residual", record_every=every).trajectory.amax(1).tolist()
    return Row(
        name,
        float((solution.status == en.Status.CONVERGED).double().mean()),
        float(solution.steps.double().mean()),
        work[0] / (full.forces.work * config.batch),
        statistics.median(times),
        float(solution.energy.mean()),
        ([every * i for i in range(len(path))], path),
    )


def table(rows: list[Row]) -> list[str]:
    """Markdown, the quickest first."""
    lines = [
        "| minimiser | settled | steps | force evaluations | ms | mean energy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.solver}` | {row.settled:.0%} | {row.steps:.1f} | {row.evaluations:.1f} "
        f"| {1e3 * row.seconds:.1f} | {row.energy:.6f} |"
        for row in sorted(rows, key=lambda r: (r.settled < 1, r.seconds))
    ]
    return lines


def draw(found: dict[str, list[Row]], path: Path) -> None:
    """The largest residual of the batch against time."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axes, (problem, rows) in zip(panels.flat, found.items(), strict=False):
        for number, row in enumerate(rows):
            steps, residual = row.curve
            scale = 1e3 * row.seconds / max(steps[-1], 1)
            style = ("-", "--", ":")[number // 4 % 3]
            axes.semilogy(
                [s * scale for s in steps],
                residual,
                style,
                label=row.solver.split("(")[0] + ("+" if "True" in row.solver else ""),
            )
        axes.set(
            title=problem, xlabel="time (ms)", ylabel="largest residual", xscale="symlog", ylim=(1e-7, 10)
        )
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Run every minimiser on every problem."""
    torch.set_num_threads(1)
    digits = data.load("digits").train
    x, target = digits.x.double(), functional.one_hot(digits.label, 10).double()
    wide, deep = (8, (64, 8, 8, 10)) if config.smoke else (256, (64, 128, 128, 128, 128, 10))
    problems = [
        hopfield("layered Hopfield, shallow", (64, wide, 10), x, target, config),
        hopfield("layered Hopfield, deep", deep, x, target, config),
        competitive(16 if config.smoke else 128, x, config),
        predictive(deep, x, target, config),
    ]
    lines = [
        "# Which minimiser",
        "",
        f"Made by `python experiments/minimisers/run.py`; batch {config.batch}, float64, "
        f"until the residual of every sample is {config.tolerance:g}; CPU time, median of {config.rounds}.",
        "",
        *circumstances(),
        "",
    ]
    found: dict[str, list[Row]] = {}
    for problem in problems:
        rows = [measure(problem, name, solver, config) for name, solver in solvers(problem).items()]
        found[problem.name] = [row for row in rows if isinstance(row, Row)]
        sizes = ", ".join(f"{n} {'x'.join(map(str, v.shape))}" for n, v in problem.energy.variables.items())
        lines += [f"## {problem.name}", "", f"Variables: {sizes}.", "", *table(found[problem.name]), ""]
        print("\n".join(lines[-len(found[problem.name]) - 7 :]))
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))
    draw(found, config.out / "residuals.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
