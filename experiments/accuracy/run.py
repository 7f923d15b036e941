"""How exact is every way to settle? Errors against closed forms, scipy, enumeration and quadrature.

    python experiments/accuracy/run.py            # all tables, about a minute
    python experiments/accuracy/run.py --smoke    # few chains and steps: does it still run?

It leaves results.md beside this file, or in --out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.integrate import quad, solve_ivp
from scipy.stats import chi2
from torch import Tensor, nn

import energynet as en
from energynet.provenance import circumstances
from energynet.testing.strategies import randomise, rescale
from energynet.variable import Continuous

HERE = Path(__file__).parent
F64 = torch.float64


@dataclass(frozen=True)
class Config:
    """What is run."""

    chains: int = 100_000
    """Independent chains of each sampler."""

    seed: int = 0
    """Of weights and chains."""

    smoke: bool = False
    """Few chains and steps."""

    out: Path = HERE
    """Where results.md goes."""


class Potential(en.Energy):
    """An energy of one real variable, unit by unit, from a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], variable: en.Variable) -> None:
        super().__init__(s=variable)
        self.function = function

    def energy(self, s: Tensor) -> Tensor:
        return self.function(s).sum(1)


class Machine(en.Energy):
    """E = -s.W s / 2 - b.s, a Boltzmann machine without hidden units."""

    def __init__(self, variable: en.Variable, seed: int) -> None:
        super().__init__(s=variable)
        generator = torch.Generator().manual_seed(seed)
        (n,) = variable.shape
        raw = torch.randn(n, n, generator=generator, dtype=F64) / n**0.5
        self.weight = nn.Parameter((raw + raw.T).fill_diagonal_(0.0))
        self.bias = nn.Parameter(0.3 * torch.randn(n, generator=generator, dtype=F64))

    def energy(self, s: Tensor) -> Tensor:
        return -0.5 * ((s @ self.weight) * s).sum(1) - s @ self.bias


def row(*cells: object) -> str:
    """A row of a Markdown table; numbers to three digits."""
    return "| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |"


def heading(*names: str) -> list[str]:
    """The first two rows of a Markdown table."""
    return [row(*names), row(*["---"] * len(names))]


# ---------------------------------------------------------------------------------------------- ODE solvers


def orders(_: Config) -> list[str]:
    """Errors at time 1 on problems with a closed form, and how fast they fall with the step."""
    start = torch.linspace(0.6, 1.0, 4, dtype=F64).unsqueeze(1)
    logistic = en.Unit(1, link=en.Sigmoid())
    u = start - 1
    problems: dict[str, tuple[en.Energy, Tensor, Tensor]] = {
        "ds/dt = -s": (Potential(lambda s: 0.5 * s.square(), en.Real(1)), start, start * math.exp(-1)),
        "ds/dt = -s^3": (
            Potential(lambda s: 0.25 * s.pow(4), en.Real(1)),
            start,
            start / (1 + 2 * start.square()).sqrt(),
        ),
        "du/dt = -sigmoid(u)": (Potential(lambda a: 0.5 * a.square(), logistic), u.sigmoid(), _fallen(u)),
    }
    lines = heading("flow", "solver", "error, dt = 1/32", "1/64", "1/128", "order")
    for title, (energy, s, expected) in problems.items():
        for kind in (en.Euler, en.Heun, en.RungeKutta4):
            errors = []
            for steps in (32, 64, 128):
                end = en.settle(energy, {"s": s}, solver=kind(1 / steps), max_steps=steps, until=en.Never())
                errors.append(float((end.state["s"] - expected).abs().max()))
            lines.append(row(title, kind.__name__, *errors, math.log2(errors[1] / errors[2])))
    lines += ["", *heading("flow", "rtol = atol of Adaptive", "error", "accepted steps")]
    for title, (energy, s, expected) in problems.items():
        for tolerance in (1e-4, 1e-7, 1e-10):
            solver = en.Adaptive(rtol=tolerance, atol=tolerance, time=1.0)
            end = en.settle(energy, {"s": s}, solver=solver, max_steps=5000)
            error = float((end.state["s"] - expected).abs().max())
            lines.append(row(title, tolerance, error, float(end.steps.double().mean())))
    return lines


def _fallen(u: Tensor) -> Tensor:
    """The value at time 1 of du/dt = -sigmoid(u), by bisection: d(u - exp(-u))/dt = -1."""
    goal = u - (-u).exp() - 1
    low, high = u - 2, u.clone()
    for _ in range(100):
        middle = 0.5 * (low + high)
        above = middle - (-middle).exp() > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low.sigmoid()


def network(activation: str, seed: int, coupling: float) -> en.models.LayeredHopfield:
    """A stiff layered network with one fixed point: couplings below the least curvature of its leaks."""
    torch.manual_seed(seed)
    model = en.models.LayeredHopfield([4, 8, 6, 5, 3], activation).double()
    randomise(model, torch.Generator().manual_seed(seed))
    rescale(model, coupling * (4.0 if activation == "sigmoid" else 1.0))
    for number, name in enumerate(model.fields):  # time constants that fall from 1 to a tenth
        variable = model.variables[name]
        assert isinstance(variable, Continuous)
        variable.tau = 10 ** (-number / 3)
    return model


ACTIVATIONS = ("hardsigmoid", "sigmoid", "tanh")


def against_scipy(config: Config) -> list[str]:
    """The state of a layered network at time 2, against scipy's DOP853 on its own equations."""
    lines = heading("flow", "solver", "largest difference to scipy")
    for activation in ("sigmoid", "tanh"):
        model = network(activation, config.seed, 0.9)
        x = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
        expected = _scipy(model, x, 2.0)
        for solver, steps, until in (
            (en.RungeKutta4(2 / 400), 400, en.Never()),
            (en.Adaptive(rtol=1e-11, atol=1e-11, time=2.0), 5000, None),
        ):
            end = en.settle(model, clamp={"x": x}, solver=solver, max_steps=steps, until=until)
            found = torch.cat([end.point[n] for n in ("h1", "h2", "h3", "y")], 1).numpy()
            lines.append(
                row(f"mirror, {activation}", type(solver).__name__, float(np.abs(found - expected).max()))
            )
    return lines


def _scipy(model: en.models.LayeredHopfield, x: Tensor, time: float) -> np.ndarray:
    """du_l/dt = -u_l + W_l a_below + W_above' a_above + b_l, written in numpy."""
    weights = [c.weight.detach().numpy() for c in model.couplings.values()]  # type: ignore[union-attr]
    biases = [f.bias.detach().numpy() for f in model.fields.values()]  # type: ignore[union-attr]
    act = np.tanh if model.activation == "tanh" else (lambda u: 1 / (1 + np.exp(-u)))
    edges = np.cumsum([0, *(len(b) for b in biases)])

    def slope(_: float, u: np.ndarray, own: np.ndarray) -> np.ndarray:
        a = [own, *(act(u[i:j]) for i, j in itertools.pairwise(edges))]
        parts = []
        for layer, bias in enumerate(biases):
            field = weights[layer] @ a[layer] + bias
            if layer + 1 < len(biases):
                field = field + weights[layer + 1].T @ a[layer + 2]
            parts.append((field - u[edges[layer] : edges[layer + 1]]) / 10 ** (-layer / 3))
        return np.concatenate(parts)

    zero = np.zeros(edges[-1])
    ends = [
        solve_ivp(slope, (0, time), zero, args=(own,), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
        for own in x.numpy()
    ]
    return np.stack(ends)


# ----------------------------------------------------------------------------------------------- minimisers


def minimisers() -> dict[str, en.Solver]:
    """Every minimiser of smooth energies."""
    return {
        "Euler(0.1)": en.Euler(0.1),
        "BlockDescent()": en.BlockDescent(),
        "BlockDescent(momentum=True)": en.BlockDescent(momentum=True),
        "Momentum(0.06)": en.Momentum(0.06),
        "FIRE()": en.FIRE(),
        "Anderson()": en.Anderson(),
        "LBFGS()": en.LBFGS(),
        "NewtonKrylov()": en.NewtonKrylov(),
    }


def fixed_points(config: Config) -> list[str]:
    """The distance of each minimiser's end to that of a tight integration by Adaptive, and its steps."""
    lines = heading("minimiser", *ACTIVATIONS, *(f"steps, {a}" for a in ACTIVATIONS))
    x = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
    until = en.Stationary(atol=1e-11)
    models = {a: network(a, config.seed, 0.95) for a in ACTIVATIONS}
    truth = {
        a: en.settle(
            m, clamp={"x": x}, solver=en.Adaptive(1e-10, 1e-12), until=until, max_steps=100_000, throw=True
        )
        for a, m in models.items()
    }
    for name, solver in minimisers().items():
        distances, steps = [], []
        for activation, model in models.items():
            end = en.settle(model, clamp={"x": x}, solver=solver, until=until, max_steps=20_000)
            gap = max(float((end.state[n] - truth[activation].state[n]).abs().max()) for n in model.variables)
            distances.append(gap)
            steps.append(int(end.steps.max()))
        lines.append(row(f"`{name}`", *distances, *steps))
    return lines


# ------------------------------------------------------------------------------------------------- samplers


def discrete(config: Config) -> list[str]:
    """Random Boltzmann machines of 8 units against enumeration of their 256 states."""
    chains = 2000 if config.smoke else config.chains
    samplers = {
        'Gibbs(scan="systematic")': en.Gibbs(),
        'Gibbs(scan="random")': en.Gibbs(scan="random"),
        'Gibbs(scan="block")': en.Gibbs(scan="block"),
        "Glauber(temperature=1)": en.Glauber(temperature=1.0),
    }
    lines = heading(
        "sampler", "units", "chi-square", "degrees", "p-value", "total variation", "of exact draws"
    )
    for name, sampler in samplers.items():
        for variable in (en.Bit(8), en.Spin(8)):
            energy = Machine(variable, config.seed)
            exact = en.exact.distribution(energy).probabilities[0].detach().numpy()
            start = {
                "s": variable.initial(
                    chains, dtype=F64, device=torch.device("cpu"), generator=_generator(config)
                )
            }
            end = en.settle(
                energy,
                start,
                solver=sampler,
                max_steps=10 if config.smoke else 200,
                generator=_generator(config),
            )
            high = (end.state["s"] > 0).long().numpy()
            states = (en.exact.distribution(energy).states["s"] > 0).long().numpy()
            place = {tuple(s): i for i, s in enumerate(states.tolist())}
            counts = np.bincount([place[tuple(s)] for s in high.tolist()], minlength=256)
            statistic, degrees = _chi_square(counts, chains * exact)
            rng = np.random.default_rng(config.seed)
            fair = np.abs(rng.multinomial(chains, exact) / chains - exact).sum() / 2
            far = np.abs(counts / chains - exact).sum() / 2
            kind = type(variable).__name__
            p = float(chi2.sf(statistic, degrees))
            lines.append(row(f"`{name}`", kind, statistic, degrees, p, float(far), float(fair)))
    return lines


def _chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """The statistic and its degrees of freedom; states that are expected fewer than ten times are pooled."""
    rare = expected < 10
    seen, wanted = counts[~rare].astype(float), expected[~rare]
    if rare.any():
        seen, wanted = np.append(seen, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    return float(((seen - wanted) ** 2 / wanted).sum()), len(wanted) - 1


def _generator(config: Config) -> torch.Generator:
    return torch.Generator().manual_seed(config.seed)


def wells(s: Tensor) -> Tensor:
    """Two wells, the left one deeper; the curvature is at most 2.3, so that large steps are stable."""
    return 0.25 * s.square() + 2 * (-s.square()).exp() + 0.2 * s


def continuous(config: Config) -> list[str]:
    """The second moment in a tilted double well against quadrature, at several steps."""
    chains = 2000 if config.smoke else config.chains

    def density(s: float) -> float:
        return math.exp(-float(wells(torch.tensor(s))))

    total = quad(density, -15, 15)[0]
    exact = quad(lambda s: s * s * density(s), -15, 15)[0] / total
    lines = [
        f"Exact by quadrature: {exact:.5f}.",
        "",
        *heading("sampler", "second moment", "standard error", "bias"),
    ]
    samplers: dict[str, en.Solver] = {
        **{f"Langevin({dt})": en.Langevin(dt) for dt in (0.4, 0.2, 0.1)},
        **{f"Underdamped({dt}, 1.0)": en.Underdamped(dt, 1.0) for dt in (0.8, 0.4)},
        "MALA(0.4)": en.MALA(0.4),
        "HamiltonianMonteCarlo(0.6, 3)": en.HamiltonianMonteCarlo(0.6, 3),
    }
    energy = Potential(wells, en.Real(1))
    for name, sampler in samplers.items():
        steps = 20 if config.smoke else 400
        start = {"s": torch.randn(chains, 1, dtype=F64, generator=_generator(config))}
        end = en.settle(energy, start, solver=sampler, max_steps=steps, generator=_generator(config))
        square = end.state["s"].square()
        mean, error = float(square.mean()), float(square.std() / chains**0.5)
        lines.append(row(f"`{name}`", f"{mean:.5f}", error, f"{mean - exact:+.5f}"))
    return lines


def partition(config: Config) -> list[str]:
    """Annealed importance sampling of Boltzmann machines of 10 bits, forward and in reverse."""
    lines = heading("seed", "log Z by enumeration", "forward", "standard error", "reverse", "standard error")
    chains = 20 if config.smoke else 1000
    for seed in range(3):
        energy = Machine(en.Bit(10), seed)
        exact = en.exact.distribution(energy)
        generator = _generator(config)
        ais = en.AnnealedImportanceSampling(energy, steps=100, chains=chains)
        up = ais.estimate(generator=generator)
        drawn = torch.multinomial(
            exact.probabilities[0].detach(), chains, replacement=True, generator=generator
        )
        down = ais.reverse({"s": exact.states["s"][drawn]}, generator=generator)
        found = [f"{float(v):.4f}" for e in (up, down) for v in (e.log_partition, e.standard_error)]
        lines.append(row(seed, f"{float(exact.log_partition.detach()):.4f}", *found))
    return lines


def main(config: Config) -> None:
    """All tables."""
    torch.set_num_threads(1)
    sections: list[tuple[str, Callable[[Config], list[str]]]] = [
        ("Order of the ODE solvers", orders),
        ("ODE solvers against scipy", against_scipy),
        ("Minimisers on stiff layered networks", fixed_points),
        ("Discrete samplers against enumeration", discrete),
        ("Continuous samplers against quadrature", continuous),
        ("Log partition functions", partition),
    ]
    lines = [
        "# How exact",
        "",
        "Made by `python experiments/accuracy/run.py`, in float64.",
        "",
        *circumstances(),
        "",
    ]
    for title, make in sections:
        part = [f"## {title}", "", (make.__doc__ or "").strip(), "", *make(config), ""]
        print("\n".join(part))
        lines += part
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
