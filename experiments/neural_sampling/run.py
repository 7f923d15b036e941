"""Does noise in the dynamics of inference sample the posterior? Against quadrature, and a long run of HMC.

    python experiments/neural_sampling/run.py           # a minute
    python experiments/neural_sampling/run.py --smoke

It leaves results.md and two pictures beside this file, or in --out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from scipy.integrate import quad
from torch import Tensor
from torch.nn.functional import normalize

import energynet as en
from energynet import plot
from energynet.provenance import circumstances

HERE = Path(__file__).parent
X, SIGMA, RATE, THRESHOLD = 0.6, 0.5, 2.0, 0.4663215697
F64 = torch.float64
STEPS = (0.08, 0.04, 0.02, 0.01, 0.005)


@dataclass(frozen=True)
class Config:
    """What is run."""

    chains: int = 4000
    """Independent chains in one dimension."""

    time: float = 30.0
    """That each runs, in units of the time constant; a fifth is burn-in."""

    units: int = 16
    """Codes in many dimensions."""

    smoke: bool = False
    """Few chains."""

    out: Path = HERE
    """Where the results go."""


class StraightThrough(en.Energy):
    """Spike and slab with the force that forgets the derivative of the threshold."""

    def __init__(self, model: en.models.SpikeSlabCoding) -> None:
        super().__init__(**model.variables)
        self.model = model

    def energy(self, x: Tensor, u: Tensor) -> Tensor:
        """The right energy."""
        return self.model.energy(x=x, u=u)

    def force(self, state: en.State, wrt: Any) -> en.State:
        """The wrong force."""
        error = state["x"] - self.model.codes(state["u"]) @ self.model.weight.mT
        return {"u": error @ self.model.weight / SIGMA**2 - RATE * state["u"].sign()}


def one_dimension() -> tuple[en.models.SparseCoding, en.models.SpikeSlabCoding]:
    """The two models of one input and one atom."""
    laplace = en.models.SparseCoding(1, 1, RATE, variance=SIGMA**2, link=False).double()
    spike_slab = en.models.SpikeSlabCoding(1, 1, RATE, THRESHOLD, variance=SIGMA**2).double()
    for model in (laplace, spike_slab):
        model.weight.data.fill_(1.0)
    return laplace, spike_slab


def likelihood(code: float) -> float:
    """Of a code, but for a factor."""
    return math.exp(-((X - code) ** 2) / (2 * SIGMA**2))


def slab(power: int) -> float:
    """The integral of s^power over Laplace's law times the likelihood."""

    def density(s: float) -> float:
        return s**power * 0.5 * RATE * math.exp(-RATE * abs(s)) * likelihood(s)

    return quad(density, -9, 0, epsabs=1e-13)[0] + quad(density, 0, 9, epsabs=1e-13)[0]


def exact() -> dict[str, list[float]]:
    """Mean, variance and probability of zero, by quadrature."""
    active = math.exp(-RATE * THRESHOLD)
    spike = (1 - active) * likelihood(0.0)
    total = spike + active * slab(0)
    mean = active * slab(1) / total

    def wrong(u: float) -> float:
        code = max(abs(u) - THRESHOLD, 0.0)
        return math.exp((X * u - 0.5 * code**2) / SIGMA**2 - RATE * abs(u))

    def moment(power: int) -> float:
        def density(u: float) -> float:
            return (math.copysign(1, u) * max(abs(u) - THRESHOLD, 0.0)) ** power * wrong(u)

        pieces = ((-9, -THRESHOLD), (-THRESHOLD, 0), (0, THRESHOLD), (THRESHOLD, 9))
        return sum(quad(density, a, b)[0] for a, b in pieces)

    inside = quad(wrong, -THRESHOLD, 0)[0] + quad(wrong, 0, THRESHOLD)[0]
    first = moment(1) / moment(0)
    return {
        "Laplace": [slab(1) / slab(0), slab(2) / slab(0) - (slab(1) / slab(0)) ** 2, 0.0],
        "spike and slab": [mean, active * slab(2) / total - mean**2, spike / total],
        "straight through": [first, moment(2) / moment(0) - first**2, inside / moment(0)],
    }


def chain(energy: en.Energy, name: str, dt: float, config: Config, codes: Any, heat: float = 1.0) -> Tensor:
    """Codes (times, chains) of Langevin dynamics, the burn-in left out."""
    steps = round(config.time / dt)
    every = max(round(0.1 / dt), 1)
    trajectory = en.settle(
        energy,
        clamp={"x": torch.full((config.chains, 1), X, dtype=F64)},
        solver=en.Langevin(dt, temperature=heat),
        max_steps=steps,
        record=lambda state: codes(state[name])[:, 0],
        record_every=every,
        generator=torch.Generator().manual_seed(0),
    ).trajectory
    return trajectory[len(trajectory) // 5 :].detach()


def measured(codes: Tensor) -> list[tuple[float, float]]:
    """Mean, variance and share of zero, with the standard errors that independent chains show."""
    mean = codes.mean()
    each = [codes.mean(0), (codes - mean).square().mean(0), (codes == 0).double().mean(0)]
    return [(float(v.mean()), float(v.std()) / len(v) ** 0.5) for v in each]


def compared(config: Config) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
    """Mean, deviation and probability of zero of each unit, by Langevin and by a long run of HMC."""
    torch.manual_seed(0)
    units = config.units
    model = en.models.SpikeSlabCoding(units // 2, units, 1.5, 0.5, variance=0.1).double()
    with torch.no_grad():
        model.weight.copy_(normalize(torch.randn(units // 2, units, dtype=F64), dim=0))
    code = torch.zeros(units, dtype=F64)
    code[[1, 2, 3]] = torch.tensor([1.5, -1.0, 0.8], dtype=F64)
    x = (model.weight @ code).detach()
    chains = 20 if config.smoke else 500
    clamp = {"x": x.expand(chains, -1)}

    def run(solver: en.Sampler, steps: int, every: int) -> tuple[Tensor, float]:
        solution = en.settle(
            model,
            {"u": torch.randn(chains, units, generator=torch.Generator().manual_seed(1), dtype=F64)},
            clamp=clamp,
            solver=solver,
            max_steps=steps,
            record=lambda state: model.codes(state["u"]),
            record_every=every,
            generator=torch.Generator().manual_seed(2),
        )
        found = solution.trajectory.detach()
        rate = solution.statistics.get("acceptance")
        return found[len(found) // 4 :], math.nan if rate is None else float(rate.mean())

    def moments(codes: Tensor) -> dict[str, Tensor]:
        flat = codes.flatten(0, 1)
        return {"mean": flat.mean(0), "deviation": flat.std(0), "P(zero)": (flat == 0).double().mean(0)}

    few = config.smoke
    long, rate = run(en.HamiltonianMonteCarlo(0.12, 10), 40 if few else 2000, 5)
    reference = moments(long)
    half = chains // 2
    noise = moments(long[:, :half]), moments(long[:, half:])
    lines = [
        f"HMC: {chains} chains of {40 if few else 2000} steps of 10 leapfrogs, {rate:.0%} accepted; the "
        "two halves of its chains differ as the second row says.",
        "",
        "| | mean | deviation | P(zero) |",
        "| --- | --- | --- | --- |",
    ]

    def row(name: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> str:
        cells = [f"{float((one[k] - other[k]).square().mean().sqrt()):.4f}" for k in one]
        return f"| {name} | {' | '.join(cells)} |"

    sizes = [f"{float(value.square().mean().sqrt()):.4f}" for value in reference.values()]
    lines += [f"| HMC itself | {' | '.join(sizes)} |", row("HMC, half against half", *noise)]
    found = {}
    for dt in (0.02, 0.01, 0.005):
        codes, _ = run(en.Langevin(dt), 40 if few else round(40 / dt), max(round(0.1 / dt), 1))
        found = moments(codes)
        lines.append(row(f"Langevin, dt = {dt:g}", found, reference))
    return lines, reference, found


def settled() -> list[str]:
    """Without noise: dynamics of inference, by how far each ends from the conditions of the lasso."""
    torch.manual_seed(0)
    model = en.models.SparseCoding(64, 128, 0.3).double()
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1), dtype=F64)
    step = 1 / model.lipschitz()
    lines = [
        "| dynamics | published as | solver | steps, median | conditions violated by | duality gap |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, published, shown, solver in (
        ("mirror flow of potentials", "LCA, Rozell et al. 2008", "Euler(1 / L)", en.Euler(step)),
        ("the same, with momentum", "", "Momentum(1 / L, None)", en.Momentum(step, None)),
        (
            "proximal gradient",
            "ISTA, Daubechies et al. 2004",
            "Proximal(False)",
            en.Proximal(accelerate=False),
        ),
        ("accelerated", "FISTA, Beck and Teboulle 2009", "Proximal()", en.Proximal()),
        ("splitting", "ADMM, Boyd et al. 2011", "ADMM()", en.ADMM()),
        ("coordinate descent", "Friedman et al. 2010", "CoordinateDescent()", en.CoordinateDescent()),
    ):
        solution = model.infer(x, solver=solver, max_steps=100_000)
        code, weight = solution.state["a"], model.weight.detach()
        slope = (x - code @ weight.mT) @ weight
        # at an active code the slope is lambda times its sign, elsewhere within lambda of zero
        broken = torch.where(code != 0, (slope - 0.3 * code.sign()).abs(), (slope.abs() - 0.3).clamp(min=0))
        gap = solution.statistics["duality_gap"]
        numbers = f"{int(solution.steps.median())} | {float(broken.max()):.0e} | {float(gap.max()):.0e}"
        lines.append(f"| {name} | {published} | `{shown}` | {numbers} |")
    return lines


def draw(
    biases: dict[str, list[tuple[float, float, float]]], hmc: dict[str, Tensor], langevin: dict[str, Tensor]
) -> Figure:
    """Bias over the step; moments of one sampler over those of another."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    figure.suptitle("Langevin dynamics as a sampler of sparse codes")
    left, right = figure.subplots(1, 2)
    colours = (plot.BLUE, plot.GREEN, plot.VERMILION, plot.PURPLE)
    for (name, values), colour, marker in zip(biases.items(), colours, "os^D", strict=True):
        steps = [v[0] for v in values]
        left.errorbar(
            steps,
            [abs(v[1]) for v in values],
            [v[2] for v in values],
            color=colour,
            fmt=marker,
            ms=5,
            label=name,
        )
    left.plot(STEPS, STEPS, color="0.4", linewidth=0.9, linestyle=":", label="in proportion to dt")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks(STEPS, [f"{step:g}" for step in STEPS])
    left.set_xticks([], minor=True)
    left.set_xlabel("dt, in units of the time constant")
    left.set_ylabel("distance from the exact value")
    left.set_ylim(bottom=5e-4)
    left.legend(loc="best", frameon=False, fontsize="small")
    for (name, values), colour, marker in zip(hmc.items(), colours, "os^", strict=False):
        right.plot(values, langevin[name], marker, color=colour, ms=5, alpha=0.8, label=name)
    low, high = right.get_xlim()
    right.plot([low, high], [low, high], color="0.4", linewidth=0.9, linestyle=":")
    right.set_xlabel("a long run of Hamiltonian Monte Carlo")
    right.set_ylabel("Langevin dynamics, dt = 0.005")
    right.legend(loc="upper left", frameon=False, fontsize="small", title=f"{len(values)} units")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
    return figure


def main(config: Config) -> None:
    """Sample, compare, draw."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(chains=20, time=2.0, units=4, smoke=True, out=config.out)
    laplace, spike_slab = one_dimension()
    truth = exact()
    subjects: dict[str, tuple[en.Energy, str, Any]] = {
        "Laplace": (laplace, "a", lambda a: a),
        "spike and slab": (spike_slab, "u", spike_slab.codes),
        "straight through": (StraightThrough(spike_slab), "u", spike_slab.codes),
    }
    right = truth["spike and slab"]
    lines = [
        "# Noise in the dynamics of inference",
        "",
        "Made by `python experiments/neural_sampling/run.py`.",
        "",
        *circumstances(),
        "",
        f"## One code: x = {X:g}, sigma = {SIGMA:g}, lambda = {RATE:g}, threshold {THRESHOLD:.4f}",
        "",
        "| law | mean | variance | P(zero) |",
        "| --- | --- | --- | --- |",
    ]
    for name, (mean, variance, zero) in truth.items():
        kind = "of its own potential" if name == "straight through" else "posterior"
        lines.append(f"| {name}: {kind}, quadrature | {mean:.4f} | {variance:.4f} | {zero:.4f} |")
    biases: dict[str, list[tuple[float, float, float]]] = {
        "Laplace: mean": [],
        "Laplace: variance": [],
        "spike and slab: P(zero)": [],
        "straight through: P(zero)": [],
    }
    last = torch.zeros(0)
    for name, (energy, variable, codes) in subjects.items():
        for dt in STEPS:
            found = chain(energy, variable, dt, config, codes)
            cells = measured(found)
            lines.append(
                f"| {name}, Langevin dt = {dt:g} | "
                + " | ".join(f"{v:.4f} +- {e:.4f}" for v, e in cells)
                + " |"
            )
            if name == "Laplace":
                for label, (value, error), target in zip(
                    ("mean", "variance"), cells, truth[name], strict=False
                ):
                    biases[f"Laplace: {label}"].append((dt, value - target, error))
            else:
                biases[f"{name}: P(zero)"].append((dt, cells[2][0] - right[2], cells[2][1]))
        if name == "spike and slab":
            last = found
    lines += [
        "",
        f"## Colder: at T = 0 the best guess, {X - RATE * SIGMA**2:g} for Laplace's prior, else 0",
        "",
        "| T | Laplace: mean | deviation | spike and slab: mean | P(zero) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for heat in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001):
        plain = measured(chain(laplace, "a", 0.01, config, lambda a: a, heat))
        sparse = measured(chain(spike_slab, "u", 0.01, config, spike_slab.codes, heat))
        shown = plain[0][0], plain[1][0] ** 0.5, sparse[0][0], sparse[2][0]
        lines.append(f"| {heat:g} | {' | '.join(f'{value:.4f}' for value in shown)} |")
    rows, hmc, langevin = compared(config)
    lines += ["", f"## {config.units} codes: root mean square differences of the units' moments", "", *rows]
    lines += ["", "## Without noise: 32 samples of 64 inputs, 128 atoms, lambda 0.3, float64", "", *settled()]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    grid = torch.linspace(-1.5, 2.5, 401, dtype=F64)
    active = math.exp(-RATE * THRESHOLD)
    total = (1 - active) * likelihood(0.0) + active * slab(0)
    density = torch.tensor(
        [active * 0.5 * RATE * math.exp(-RATE * abs(s)) * likelihood(s) for s in grid.tolist()]
    )
    figure = plot.posterior(
        last,
        "A spike-and-slab code while it is sampled, and its posterior",
        law=(grid, density / total),
        zero=right[2],
    )
    plot.save(figure, config.out / "posterior.png")
    plot.save(draw(biases, hmc, langevin), config.out / "bias.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
