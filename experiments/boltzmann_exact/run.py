"""Exact learning of small machines, and how contrastive divergence departs from it.

    python experiments/boltzmann_exact/run.py
    python experiments/boltzmann_exact/run.py --smoke   # fewer samples, fewer repetitions

It leaves results.md, teacher.png and bias.png beside this file, or in --out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor

import energynet as en
from energynet.provenance import circumstances

HERE = Path(__file__).parent
F64 = torch.float64


@dataclass(frozen=True)
class Config:
    """What is run."""

    units: int = 8
    """Of the fully visible machine."""

    repetitions: int = 10
    """Data sets for each number of samples."""

    counts: tuple[int, ...] = (300, 1000, 3000, 10_000, 30_000, 100_000)
    """Numbers of samples."""

    sweeps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Values of k."""

    samples: int = 200_000
    """Chains for the measured gradient of each k."""

    smoke: bool = False
    """Fewer of all."""

    out: Path = HERE
    """Where the results go."""


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def teacher(units: int) -> en.models.BoltzmannMachine:
    """Couplings and fields from N(0, 1/units)."""
    machine = en.models.BoltzmannMachine(units, spins=True).double()
    raw = normal((units, units), 0) / units**0.5
    with torch.no_grad():
        machine.weight.copy_((raw + raw.t()) / 2**0.5)
        machine.weight.fill_diagonal_(0.0)
        machine.visible_bias.copy_(0.5 * normal((units,), 1))
    return machine


def learned(data: Tensor, units: int) -> en.models.BoltzmannMachine:
    """The machine of the greatest likelihood, by the rule with both phases enumerated."""
    machine = en.models.BoltzmannMachine(units, spins=True).double()
    rule = en.MaximumLikelihood(machine)
    optimiser = torch.optim.LBFGS(
        rule.parameters(),
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = rule(v=data)
        loss.backward()
        return loss

    optimiser.step(closure)
    return machine


def parameters(machine: en.models.BoltzmannMachine) -> Tensor:
    """Couplings, each once, and fields."""
    upper = torch.triu_indices(*machine.weight.shape, offset=1)
    return torch.cat([machine.coupling.matrix()[upper[0], upper[1]], machine.visible_bias]).detach()


def expected(machine: en.models.BoltzmannMachine, count: int) -> float:
    """The root mean square error that the inverse Fisher information gives for many samples."""
    law = en.exact.distribution(machine)
    s = law.states["v"]
    upper = torch.triu_indices(s.shape[1], s.shape[1], offset=1)
    features = torch.cat([s[:, upper[0]] * s[:, upper[1]], s], 1)
    p = law.probabilities[0].detach()
    centred = features - p @ features
    fisher = centred.t() @ (p.unsqueeze(1) * centred)
    return math.sqrt(float(torch.linalg.inv(fisher).diagonal().mean()) / count)


def recovery(config: Config) -> list[tuple[int, list[float], float]]:
    """Errors of the learned parameters for each number of samples, and what theory expects."""
    truth = teacher(config.units)
    law = en.exact.distribution(truth)
    rows = []
    for count in config.counts:
        errors = []
        for seed in range(config.repetitions):
            generator = torch.Generator().manual_seed(1000 * seed + count)
            picks = torch.multinomial(
                law.probabilities[0].detach(), count, replacement=True, generator=generator
            )
            found = learned(law.states["v"][picks], config.units)
            errors.append(float((parameters(found) - parameters(truth)).square().mean().sqrt()))
        rows.append((count, errors, expected(truth, count)))
        print(rows[-1], flush=True)
    return rows


@dataclass(frozen=True)
class Bias:
    """What contrastive divergence makes of the gradient of a small restricted machine."""

    k: int
    exact: float  # relative error of its expectation, from transition matrices
    measured: float  # of one estimate, from many chains
    angle: float  # degrees between the expectation and the exact gradient


def restricted() -> en.models.RestrictedBoltzmannMachine:
    """A machine of 6 and 4 units with strong couplings, which mixes slowly."""
    machine = en.models.RestrictedBoltzmannMachine(6, 4).double()
    with torch.no_grad():
        for seed, p in enumerate(machine.parameters()):
            p.copy_((2.0 if p.ndim == 2 else 0.5) * normal(tuple(p.shape), 10 + seed))
    return machine


def departures(config: Config) -> list[Bias]:
    """The bias for each k."""
    machine = restricted()
    law = en.exact.distribution(machine)
    v, h = torch.unique(law.states["v"], dim=0), torch.unique(law.states["h"], dim=0)
    joint = machine.energy(v=v.repeat_interleave(len(h), 0), h=h.repeat(len(v), 1)).neg().detach()
    joint = joint.reshape(len(v), len(h))
    sweep = joint.softmax(1) @ joint.softmax(0).t()
    data = torch.zeros(len(v), dtype=F64)
    data[[3, 12, 48, 51]] = 0.25
    free = machine.free_energy(v)

    def gradient(weights: Tensor) -> Tensor:
        slopes = torch.autograd.grad((weights * free).sum(), list(machine.parameters()), retain_graph=True)
        return torch.cat([slope.flatten() for slope in slopes])

    exact = gradient(data - joint.logsumexp(1).softmax(0))
    found = []
    for k in config.sweeps:
        mean = gradient(data - data @ torch.linalg.matrix_power(sweep, k))
        rule = en.ContrastiveDivergence(machine, k=k, generator=torch.Generator().manual_seed(k))
        rule.zero_grad()
        rule(v=v[[3, 12, 48, 51]].repeat(config.samples // 4, 1)).backward()
        estimate = torch.cat([p.grad.flatten() for p in machine.parameters() if p.grad is not None])
        cosine = float(mean @ exact / (mean.norm() * exact.norm()))
        found.append(
            Bias(
                k,
                float((mean - exact).norm() / exact.norm()),
                float((estimate - exact).norm() / exact.norm()),
                math.degrees(math.acos(min(1.0, cosine))),
            )
        )
    return found


def draw_recovery(rows: list[tuple[int, list[float], float]], path: Path) -> None:
    """Errors against samples, on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    counts = [count for count, _, _ in rows]
    for count, errors, _ in rows:
        axes.plot([count] * len(errors), errors, ".", color="C0", alpha=0.5, ms=5)
    axes.plot([], [], ".", color="C0", label="one data set each")
    means = [math.sqrt(sum(e * e for e in errors) / len(errors)) for _, errors, _ in rows]
    axes.plot(counts, means, "o-", color="C0", mfc="w", label="root mean square")
    axes.plot(counts, [theory for _, _, theory in rows], "k--", lw=1, label="inverse Fisher information")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="samples of the teacher",
        ylabel="rms error of couplings and fields",
    )
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_bias(found: list[Bias], config: Config, path: Path) -> None:
    """Relative errors against k."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    k = [one.k for one in found]
    axes.plot(k, [one.exact for one in found], "o-", label="of its expectation, by transition matrices")
    axes.plot(
        k, [one.measured for one in found], "x", ms=8, label=f"of one estimate, {config.samples:,} chains"
    )
    axes.set(
        xscale="log", yscale="log", xlabel="k, sweeps from the data", ylabel="relative error of the gradient"
    )
    axes.set_xticks(k, [str(one) for one in k])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Recover a teacher; follow the bias."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(
            units=4, repetitions=2, counts=(100, 1000), sweeps=(1, 4), samples=2000, out=config.out
        )
    rows, found = recovery(config), departures(config)
    config.out.mkdir(parents=True, exist_ok=True)
    draw_recovery(rows, config.out / "teacher.png")
    draw_bias(found, config, config.out / "bias.png")
    lines = [
        "# Exact learning, and what contrastive divergence makes of it",
        "",
        "Made by `python experiments/boltzmann_exact/run.py`.",
        "",
        *circumstances(),
        "",
        f"A teacher of {config.units} spins, all visible, {config.repetitions} data sets for each row; both "
        "phases enumerated.",
        "",
        "| samples | rms error | +- | expected | rms error * sqrt(samples) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for count, errors, theory in rows:
        mean = math.sqrt(sum(e * e for e in errors) / len(errors))
        spread = float(torch.tensor(errors).std()) / math.sqrt(len(errors))
        lines.append(
            f"| {count} | {mean:.4f} | {spread:.4f} | {theory:.4f} | {mean * math.sqrt(count):.2f} |"
        )
    lines += [
        "",
        "A restricted machine of 6 and 4 units with couplings from N(0, 2^2), four data.",
        "",
        "| k | relative error of the expected gradient | of one estimate | angle, degrees |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {one.k} | {one.exact:.4f} | {one.measured:.4f} | {one.angle:.2f} |" for one in found]
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
