"""A deep Boltzmann machine against its first layer alone, on MNIST.

    python experiments/deep_boltzmann/run.py --data-dir DIR   # MNIST's four files; or set ENERGYNET_DATA
    python experiments/deep_boltzmann/run.py --smoke          # scikit-learn's 8x8 digits, few epochs

Both learn by persistent contrastive divergence for the same number of epochs, at the same rates, from several
seeds. With --first the first layer learns alone for a while, and the second one is put on a copy of it. It
leaves results.md, likelihood.png and samples.png beside this file, or in --out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor

import energynet as en
from energynet import data
from energynet.models import DeepBoltzmannMachine
from energynet.provenance import circumstances

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """What is run."""

    hidden: tuple[int, ...] = (100, 100)
    """Hidden layers of the deep machine; the other one has the first of them."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of first parameters, batches, noise and chains; both machines learn from each."""

    first: int = 0
    """Passes over the training images of the first layer alone, before there is a second one; 0: none."""

    epochs: int = 100
    """Passes of either machine, after those."""

    batch: int = 100
    """Images in a batch, and persistent chains."""

    k: int = 1
    """Sweeps of the chains for each batch."""

    rate: float = 0.1
    """Of learning; over the ``epochs`` it falls to 0 in a straight line, before them it does not."""

    centring: float = 0.01
    """How fast the offsets follow the means."""

    mean_field: int = 5
    """Sweeps of the mean field for each batch."""

    every: int = 20
    """Epochs between two estimates."""

    annealing: int = 10_000
    """Temperatures of the last estimate of log Z; of the others a tenth of them."""

    chains: int = 100
    """Chains of the estimate."""

    posterior: int = 100
    """Test images whose sum over hidden states is annealed, too, to see how loose the bound is."""

    data_dir: Path | None = None
    """The directory of MNIST's files; None: where ENERGYNET_DATA says."""

    smoke: bool = False
    """Small images, few epochs."""

    out: Path = HERE
    """Where the results go."""


@dataclass
class Run:
    """A machine on its way.

    Attributes
    ----------
    found
        Epoch, seconds of CPU time, mean log-likelihood of test images, its standard error over them, log Z
        and its standard error.
    """

    name: str
    seed: int
    model: DeepBoltzmannMachine
    rule: en.ContrastiveDivergence
    noise: torch.Generator
    epoch: int = 0
    seconds: float = 0.0
    found: list[tuple[float, ...]] = field(default_factory=list)


def images(config: Config) -> tuple[Tensor, Tensor]:
    """Grey training images, and test images that are binarised once and for all."""
    found = data.load("digits") if config.smoke else data.load("mnist", config.data_dir)
    noise = torch.rand(found.test.x.shape, generator=torch.Generator().manual_seed(1))
    return found.train.x, (found.test.x > noise).float()


def chance(seed: int, what: int) -> torch.Generator:
    """The random numbers of one seed for one purpose."""
    return torch.Generator().manual_seed(1000 * seed + what)


def started(config: Config, grey: Tensor, hidden: tuple[int, ...], seed: int) -> Run:
    """A machine whose visible biases are the log odds of the means, and its rule."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DeepBoltzmannMachine([grey.shape[1], *hidden])
    with torch.no_grad():
        model.fields["v"].bias.copy_(grey.mean(0).clamp(0.01, 0.99).logit())  # type: ignore[union-attr]
    return Run(named(model), seed, model, learner(config, model, seed), chance(seed, 3))


def named(model: DeepBoltzmannMachine) -> str:
    """The sizes of its layers."""
    return "-".join(str(variable.shape[0]) for variable in model.variables.values())


def learner(config: Config, model: DeepBoltzmannMachine, seed: int) -> en.ContrastiveDivergence:
    """The rule of both machines; with one hidden layer its clamped phase is exact."""
    return en.ContrastiveDivergence(
        model,
        k=config.k,
        persistent=True,
        centring=config.centring,
        clamped=en.MeanField(model),
        clamped_steps=config.mean_field,
        generator=chance(seed, 2),
    )


def grown(config: Config, alone: Run) -> Run:
    """A copy with further layers, whose couplings are so small that the law of the others hardly changes."""
    below = alone.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(alone.seed)
        model = DeepBoltzmannMachine([below.variables["v"].shape[0], *config.hidden])
    model.load_state_dict(below.state_dict(), strict=False)
    noise = chance(alone.seed, 3)
    rule = learner(config, model, alone.seed)
    chains = alone.rule.chains.get()
    for name in model.hidden[1:]:
        chains[name] = torch.bernoulli(
            torch.full((len(chains["v"]), *model.variables[name].shape), 0.5), generator=noise
        )
    rule.chains.put({name: chains[name].clone() for name in model.variables})
    return Run(named(model), alone.seed, model, rule, noise, alone.epoch, alone.seconds, list(alone.found))


def train(config: Config, run: Run, until: int, grey: Tensor, test: Tensor) -> None:
    """Epochs until one, with an estimate every few of them."""
    noise, total = run.noise, config.first + config.epochs
    optimiser = torch.optim.SGD(run.rule.parameters(), config.rate)
    batches = len(grey) // config.batch
    while run.epoch < until:
        start = time.process_time()
        order = torch.randperm(len(grey), generator=noise)[: batches * config.batch]
        for number, index in enumerate(order.split(config.batch)):
            left = (total - run.epoch - number / batches) / config.epochs
            optimiser.param_groups[0]["lr"] = config.rate * min(1.0, left)
            chosen = grey[index]
            optimiser.zero_grad()
            run.rule(v=(chosen > torch.rand(chosen.shape, generator=noise)).float()).backward()
            optimiser.step()
        run.seconds += time.process_time() - start
        run.epoch += 1
        last = run.epoch == total
        if last or run.epoch % config.every == 0:
            steps = config.annealing if last else max(2, config.annealing // 10)
            found = run.model.log_partition(
                "ais",
                base=run.model.base_rates(grey),
                steps=steps,
                chains=config.chains,
                generator=chance(run.seed, 4),
            )
            bound = run.model.log_likelihood(test, "bound", partition=found)
            numbers = (
                bound.mean(),
                bound.std() / len(test) ** 0.5,
                found.log_partition,
                found.standard_error,
            )
            run.found.append((run.epoch, run.seconds, *map(float, numbers)))
            print(run.name, run.seed, run.found[-1], flush=True)


def looseness(config: Config, run: Run, test: Tensor) -> tuple[float, float]:
    """How far the bound is below the annealed sum over hidden states: mean and standard error over images."""
    some = test[: config.posterior]
    found = en.AnnealedImportanceSampling(
        run.model, steps=max(2, config.annealing // 20), chains=10, summed=run.model.hidden[::2]
    ).estimate({"v": some}, generator=chance(run.seed, 5))
    gap = found.log_partition + run.model.infer(some).energy.detach()
    return float(gap.mean()), float(gap.std() / len(some) ** 0.5)


def samples(run: Run, count: int, sweeps: int) -> Tensor:
    """Probabilities of pixels, after sweeps that begin at the persistent chains."""
    start = {name: value[:count] for name, value in run.rule.chains.get().items()}
    noise = chance(run.seed, 6)
    solver = en.Gibbs(scan="block")
    state = en.settle(run.model, start, solver=solver, max_steps=sweeps, generator=noise).state
    flow = solver.flow(run.model, {}, state)
    with torch.no_grad():
        return flow.gaps(["v"], flow.start)["v"].sigmoid()


def pictures(shown: dict[str, Tensor], path: Path) -> None:
    """Samples of each machine, in a row each of ten by four."""
    figure, axes = plt.subplots(1, len(shown), figsize=(5.2 * len(shown), 2.4), layout="constrained")
    for axis, (name, images) in zip(axes, shown.items(), strict=True):
        side = round(images.shape[1] ** 0.5)
        columns = 10
        grid = torch.ones(len(images) // columns * (side + 1) + 1, columns * (side + 1) + 1)
        for number, image in enumerate(images):
            top, left = (1 + (side + 1) * n for n in divmod(number, columns))
            grid[top : top + side, left : left + side] = image.reshape(side, side)
        axis.imshow(grid, cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curves(runs: list[Run], path: Path) -> None:
    """Log-likelihood against epochs, a colour for each machine and a line for each seed."""
    figure, axes = plt.subplots(figsize=(6.0, 3.8), layout="constrained")
    names = list(dict.fromkeys(run.name for run in runs))
    for run in runs:
        epoch, _, mean, error, _, log_z_error = map(list, zip(*run.found, strict=True))
        spread = [(a**2 + b**2) ** 0.5 for a, b in zip(error, log_z_error, strict=True)]
        label = run.name if run.seed == runs[0].seed else None
        colour = f"C{names.index(run.name)}"
        axes.errorbar(epoch, mean, yerr=spread, color=colour, marker="o", ms=3, capsize=2, label=label)
    axes.set(xlabel="epoch", ylabel="lower bound of log-likelihood,\nnats per test image")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Train both machines from each seed, then compare."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(
            hidden=(12, 8),
            seeds=(0, 1),
            first=1,
            epochs=2,
            every=1,
            annealing=50,
            chains=10,
            posterior=5,
            smoke=True,
            out=config.out,
        )
    made = circumstances()  # before there are new files
    grey, test = images(config)
    runs, loose = [], []
    for seed in config.seeds:
        alone = started(config, grey, config.hidden[:1], seed)
        train(config, alone, config.first, grey, test)
        deep = grown(config, alone) if config.first else started(config, grey, config.hidden, seed)
        for run in (deep, alone):
            train(config, run, config.first + config.epochs, grey, test)
            runs.append(run)
        loose.append(looseness(config, deep, test))
    config.out.mkdir(parents=True, exist_ok=True)
    sweeps = 2 if config.smoke else 1000
    pictures({run.name: samples(run, 40, sweeps) for run in runs[:2]}, config.out / "samples.png")
    curves(runs, config.out / "likelihood.png")
    numbers = " ".join(map(str, config.hidden))
    lines = [
        "# A deep machine against its first layer",
        "",
        f"Made by `python experiments/deep_boltzmann/run.py --hidden {numbers} "
        f"--seeds {' '.join(map(str, config.seeds))} --first {config.first} --epochs {config.epochs} "
        f"--every {config.every}{' --smoke' if config.smoke else ''}`.",
        "",
        *made,
        f"- {config.first} epochs of the first layer alone at a rate of {config.rate}, then {config.epochs} "
        "of each machine with the rate falling to 0",
        f"- PCD-{config.k}, batches of {config.batch}, centring {config.centring}, mean field of "
        f"{config.mean_field} sweeps",
        f"- log Z from {config.chains} chains over {config.annealing} temperatures in the last row of each "
        f"machine, over {max(2, config.annealing // 10)} in the others",
        f"- the bound of {runs[0].name} is below the annealed sum over hidden states ({config.posterior} "
        f"test images) by {', '.join(f'{gap:.2f} +- {error:.2f}' for gap, error in loose)} nats, by seed; "
        "that of one hidden layer is exact",
        "",
        "| machine | seed | epoch | CPU time, s | test, nats per image | +- (images) | log Z | +- |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        for epoch, seconds, mean, error, log_z, log_z_error in run.found:
            lines.append(
                f"| {run.name} | {run.seed} | {epoch:.0f} | {seconds:.0f} | {mean:.2f} | {error:.2f} "
                f"| {log_z:.2f} | {log_z_error:.2f} |"
            )
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
