"""A restricted Boltzmann machine of MNIST, judged by annealed importance sampling from both sides.

    python experiments/rbm_mnist/run.py --data-dir DIR   # MNIST's four files; or set ENERGYNET_DATA
    python experiments/rbm_mnist/run.py --smoke          # scikit-learn's 8x8 digits, few epochs

Checkpoints go to --run, from where a killed run goes on. It leaves results.md, likelihood.png, samples.png
and filters.png beside this file, or in --out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Config:
    """What is run."""

    hidden: int = 500
    """Hidden units."""

    epochs: int = 100
    """Passes over the training images."""

    batch: int = 100
    """Images in a batch, and persistent chains."""

    k: int = 1
    """Sweeps of the chains for each batch."""

    rate: float = 0.05
    """Of learning at first; it falls to 0 in a straight line."""

    centring: float = 0.01
    """How fast the offsets follow the means; 0 for no centring."""

    every: int = 5
    """Epochs between two checkpoints."""

    annealing: int = 10_000
    """Temperatures of the estimate of log Z, for the last checkpoint; for the others a tenth of them."""

    chains: int = 100
    """Chains of the estimate."""

    burn_in: int = 2000
    """Sweeps from the persistent chains to the samples that the annealing in reverse begins with."""

    data_dir: Path | None = None
    """The directory of MNIST's files; None: where ENERGYNET_DATA says."""

    run: Path = Path("runs/rbm_mnist")
    """Where checkpoints go."""

    smoke: bool = False
    """Small images, few epochs."""

    out: Path = HERE
    """Where the results go."""


def images(config: Config) -> tuple[Tensor, Tensor]:
    """Grey training images, and test images that are binarised once and for all."""
    found = data.load("digits") if config.smoke else data.load("mnist", config.data_dir)
    noise = torch.rand(found.test.x.shape, generator=torch.Generator().manual_seed(1))
    return found.train.x, (found.test.x > noise).float()


def machine(config: Config, grey: Tensor) -> en.models.RestrictedBoltzmannMachine:
    """A machine with weights from N(0, 0.01^2), whose visible biases are the log odds of the means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = en.models.RestrictedBoltzmannMachine(grey.shape[1], config.hidden)
    with torch.no_grad():
        model.visible_bias.copy_(grey.mean(0).clamp(0.01, 0.99).logit())
    return model


def checkpoint(config: Config, epoch: int) -> Path:
    """Where the state after an epoch is."""
    return config.run / f"epoch{epoch:04d}.pt"


def train(config: Config, grey: Tensor) -> None:
    """Persistent contrastive divergence; goes on from the last checkpoint."""
    config.run.mkdir(parents=True, exist_ok=True)
    noise = torch.Generator().manual_seed(2)
    rule = en.ContrastiveDivergence(
        machine(config, grey), k=config.k, persistent=True, centring=config.centring, generator=noise
    )
    optimiser = torch.optim.SGD(rule.parameters(), config.rate)
    batches = len(grey) // config.batch
    done, seconds = 0, 0.0
    made = sorted(config.run.glob("epoch*.pt"))
    if made:
        kept = torch.load(made[-1], weights_only=True)
        rule.load_state_dict(kept["rule"])
        noise.set_state(kept["noise"])
        done, seconds = kept["epoch"], kept["seconds"]
    for epoch in range(done, config.epochs):
        start = time.process_time()
        order = torch.randperm(len(grey), generator=noise)[: batches * config.batch]
        for number, index in enumerate(order.split(config.batch)):
            left = 1 - (epoch * batches + number) / (config.epochs * batches)
            optimiser.param_groups[0]["lr"] = config.rate * left
            chosen = grey[index]
            v = (chosen > torch.rand(chosen.shape, generator=noise)).float()
            optimiser.zero_grad()
            rule(v=v).backward()
            optimiser.step()
        seconds += time.process_time() - start
        print(f"epoch {epoch + 1}, {seconds:.0f} s of CPU time", flush=True)
        if (epoch + 1) % config.every == 0 or epoch + 1 == config.epochs:
            state = {
                "rule": rule.state_dict(), "noise": noise.get_state(), "epoch": epoch + 1, "seconds": seconds,
            }  # fmt: skip
            path = checkpoint(config, epoch + 1)
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)  # whole or not at all


@dataclass(frozen=True)
class Judged:
    """What a checkpoint is worth, in nats for each image."""

    epoch: int
    seconds: float
    train: float
    test: float
    spread: float  # standard error over test images
    forward: tuple[float, float]  # log Z and its standard error
    reverse: tuple[float, float]


def judged(config: Config, path: Path, grey: Tensor, test: Tensor, steps: int) -> tuple[Judged, Tensor]:
    """The likelihood of a checkpoint, and its samples."""
    kept = torch.load(path, weights_only=True)
    model = machine(config, grey)
    model.load_state_dict(
        {n.removeprefix("energy."): v for n, v in kept["rule"].items() if n.startswith("energy.")}
    )
    noise = torch.Generator().manual_seed(3)
    annealing = en.AnnealedImportanceSampling(
        model, base=model.base_rates(grey), steps=steps, chains=config.chains, summed=("h",)
    )
    chains = {name: kept["rule"][f"chains.{name}"] for name in ("v", "h")}
    count = config.chains // len(chains["v"]) + 1
    chains = {name: value.repeat(count, 1)[: config.chains] for name, value in chains.items()}
    samples = en.settle(
        model, chains, solver=en.Gibbs(scan="block"), max_steps=config.burn_in, generator=noise
    ).state
    with torch.no_grad():
        below = annealing.estimate(generator=noise)
        above = annealing.reverse(samples, generator=noise)
        binary = (grey > torch.rand(grey.shape, generator=noise)).float()[: len(test)]
        free = {name: -model.free_energy(v) for name, v in (("train", binary), ("test", test))}
        shown = model.field("v", samples).sigmoid()
    log_z = float(below.log_partition)
    found = Judged(
        kept["epoch"],
        kept["seconds"],
        float(free["train"].mean()) - log_z,
        float(free["test"].mean()) - log_z,
        float(free["test"].std()) / len(test) ** 0.5,
        (log_z, float(below.standard_error)),
        (float(above.log_partition), float(above.standard_error)),
    )
    print(found, flush=True)
    return found, shown


def tiles(pictures: Tensor, path: Path, *, signed: bool, columns: int = 10, rows: int = 10) -> None:
    """Pictures side by side, light on dark, or red and blue about zero."""
    side = round(pictures.shape[1] ** 0.5)
    rows = min(rows, len(pictures) // columns)
    grid = torch.full((rows * (side + 1) + 1, columns * (side + 1) + 1), float("nan"))
    for number, picture in enumerate(pictures[: rows * columns]):
        top, left = (1 + (side + 1) * n for n in divmod(number, columns))
        grid[top : top + side, left : left + side] = picture.reshape(side, side)
    limit = float(pictures[: rows * columns].abs().quantile(0.995)) if signed else 1.0
    colours = mpl.colormaps["RdBu_r" if signed else "gray"].with_extremes(bad="0.6")
    figure, axes = plt.subplots(figsize=(0.62 * columns + 1.1 * signed, 0.62 * rows), layout="constrained")
    drawn = axes.imshow(grid, cmap=colours, vmin=-limit if signed else 0.0, vmax=limit)
    axes.set_axis_off()
    if signed:
        figure.colorbar(drawn, shrink=0.6, label="weight")
    figure.savefig(path, dpi=85 if signed else 110)
    plt.close(figure)


def curve(found: list[Judged], path: Path) -> None:
    """Likelihood against epochs, with the bracket of the two ways of annealing."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    epochs = [one.epoch for one in found]
    lower = [one.test - (one.reverse[0] - one.forward[0]) for one in found]
    upper = [one.test for one in found]
    low, high = (
        [min(pair) for pair in zip(lower, upper, strict=True)],
        [max(p) for p in zip(lower, upper, strict=True)],
    )
    axes.fill_between(
        epochs, low, high, alpha=0.3, color="C0", lw=0, label="between forward and reverse annealing"
    )
    axes.plot(epochs, upper, "o-", ms=3, color="C0", label="test images, forward")
    axes.plot(epochs, [one.train for one in found], "s--", ms=3, color="C1", label="training images, forward")
    axes.axhline(-86.34, color="0.3", lw=1, ls=":")
    axes.annotate(
        "-86.34, published, CD-25", (epochs[0], -86.34), xytext=(0, 3), textcoords="offset points", fontsize=8
    )
    axes.set(xlabel="epoch", ylabel="log-likelihood, nats per image")
    if len(found) > 2:
        axes.set_ylim(max(min(upper[1:]) - 5, -200), max(-82.0, max(upper) + 3))
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Train, then judge every checkpoint."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(
            hidden=20, epochs=4, every=2, annealing=100, chains=20, burn_in=20, smoke=True,
            out=config.out, run=config.out / "run",
        )  # fmt: skip
    grey, test = images(config)
    train(config, grey)
    paths = sorted(config.run.glob("epoch*.pt"))
    steps = [max(2, config.annealing // 10)] * (len(paths) - 1) + [config.annealing]
    both = [judged(config, p, grey, test, n) for p, n in zip(paths, steps, strict=True)]
    found, samples = [one for one, _ in both], both[-1][1]
    kept = torch.load(paths[-1], weights_only=True)
    config.out.mkdir(parents=True, exist_ok=True)
    tiles(samples[:100], config.out / "samples.png", signed=False)
    tiles(kept["rule"]["energy.coupling.weight"], config.out / "filters.png", signed=True, columns=8, rows=6)
    curve(found, config.out / "likelihood.png")
    lines = [
        "# A restricted Boltzmann machine of handwritten digits",
        "",
        "Made by `python experiments/rbm_mnist/run.py`.",
        "",
        *circumstances(),
        f"- {grey.shape[1]} visible, {config.hidden} hidden units; {config.epochs} epochs, PCD-{config.k}, "
        f"batches of {config.batch}, rate {config.rate} falling to 0, centring {config.centring}",
        f"- log Z from {config.chains} chains over {config.annealing} temperatures in the last row, over "
        f"{steps[0]} in the others; in reverse from {config.burn_in} sweeps after the persistent chains",
        "",
        "| epoch | CPU time, s | train | test | +- (images) | log Z forward | +- | log Z in reverse | +- |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.epoch} | {one.seconds:.0f} | {one.train:.2f} | {one.test:.2f} | {one.spread:.2f} "
        f"| {one.forward[0]:.2f} | {one.forward[1]:.2f} | {one.reverse[0]:.2f} | {one.reverse[1]:.2f} |"
        for one in found
    ]
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
