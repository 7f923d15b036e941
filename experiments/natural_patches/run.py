"""Atoms of natural images, and their sparsity, learned by sampling codes and by their best guess.

    python experiments/natural_patches/run.py           # scikit-learn's two photographs, some minutes
    python experiments/natural_patches/run.py --smoke   # few and small patches

It leaves results.md and five pictures beside this file, or in --out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

import energynet as en
from energynet import data, plot
from energynet.analysis import Gabor, gabor_fit
from energynet.provenance import circumstances

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """What is run."""

    size: int = 12
    """Side of a patch, in pixels."""

    atoms: int = 196
    """Size of the dictionary."""

    updates: int = 3200
    """Steps of learning of the first model, twice those of the last."""

    map_updates: int = 400
    """Steps of learning of the two models of Laplace's prior, which are for the sparsity alone."""

    batch: int = 128
    """Patches of a step."""

    variance: float = 0.4
    """Of the noise, in units of the mean variance of pixels; given, but for the last row of the table."""

    dt: float = 0.02
    """Step of Langevin dynamics."""

    folder: Path | None = None
    """A folder of images; None: the two that ship with scikit-learn."""

    seed: int = 0
    """Of patches, dictionaries and noise."""

    smoke: bool = False
    """Few and small patches."""

    out: Path = HERE
    """Where the results go."""


@dataclass
class Run:
    """A model while it learns."""

    name: str
    model: en.models.SpikeSlabCoding | en.models.SparseCoding
    rule: en.LearningRule
    updates: int
    seconds: float = 0.0
    sparsity: list[tuple[float, float]] = field(default_factory=list)
    active: list[tuple[float, float]] = field(default_factory=list)


def patches_of(config: Config) -> tuple[Tensor, Tensor]:
    """Whitened patches to learn from and to judge by: those with contrast, their means taken away."""
    train, test = data.split_images(data.natural_images(config.folder))
    whiten = data.spectral(train)
    generator = torch.Generator().manual_seed(config.seed)
    found = []
    for images, count in ((train, 100_000), (test, 5_000)):
        cut = data.patches(
            [whiten(image) for image in images], config.size, count, border=8, generator=generator
        )
        # a half of the flower's picture is out of focus, and empty once whitened
        cut = cut[cut.var(1) > 0.1]
        found.append(cut - cut.mean(1, keepdim=True))
    scale = found[0].std()
    return found[0] / scale, found[1] / scale


def codes_of(run: Run, state: en.State) -> Tensor:
    """The codes of a state, whatever the model calls what it moves."""
    model = run.model
    return model.codes(state["u"]) if isinstance(model, en.models.SpikeSlabCoding) else state["a"]


def learn(run: Run, train: Tensor, config: Config) -> None:
    """Steps of Adam, for the atoms falling; atoms are brought back to unit norm after each."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    weight = run.model.weight
    others = [p for p in run.model.parameters() if p is not weight and p.requires_grad]
    optimiser = torch.optim.Adam([{"params": [weight], "lr": 0.02}, {"params": others, "lr": 0.02}])
    falling = [lambda update: 1 - 0.95 * update / run.updates, lambda _: 1.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, falling)
    began = time.process_time()
    for update in range(run.updates + 1):
        batch = train[torch.randint(len(train), (config.batch,), generator=generator)]
        if update % max(run.updates // 40, 1) == 0:
            phases = run.rule.phases(x=batch)
            codes = torch.stack([codes_of(run, phase.solution.state) for phase in phases])
            run.sparsity.append((update, float(run.model.penalty.strength)))
            run.active.append((update, 100 * float((codes != 0).double().mean())))
        if update == run.updates:
            break
        optimiser.zero_grad()
        run.rule(x=batch).backward()
        optimiser.step()
        schedule.step()
        run.model.project_()
    run.seconds = time.process_time() - began


def runs_of(config: Config) -> list[Run]:
    """Spike and slab and Laplace's prior by sampling, Laplace's by the best guess, and learned noise."""
    pixels = config.size**2
    sampled = {
        "sampler": en.Langevin(config.dt),
        "steps": 10 if config.smoke else 40,
        "burn_in": 10 if config.smoke else 40,
    }

    def seeded(make: Callable[[], en.Energy]) -> en.Energy:
        torch.manual_seed(config.seed)
        return make()

    def spike_slab(noise: bool) -> en.models.SpikeSlabCoding:
        model = en.models.SpikeSlabCoding(
            pixels,
            config.atoms,
            1.0,
            1.4,
            variance=config.variance,
            learn_sparsity=True,
            learn_threshold=True,
            learn_variance=noise,
        )
        torch.manual_seed(config.seed)
        return model

    def laplace() -> en.models.SparseCoding:
        return en.models.SparseCoding(
            pixels, config.atoms, 1.0, variance=config.variance, learn_sparsity=True, link=False
        )

    runs = []
    for name, make, rule, updates in (
        ("spike and slab, sampled", lambda: spike_slab(False), None, config.updates),
        ("Laplace, sampled", laplace, None, config.map_updates),
        ("Laplace, best guess", laplace, en.MaximumAPosteriori, config.map_updates),
        ("spike and slab, sampled, noise learned", lambda: spike_slab(True), None, config.updates // 2),
    ):
        model = seeded(make)
        generator = torch.Generator().manual_seed(config.seed + 2)
        if rule is None:
            found: en.LearningRule = en.MonteCarloEM(model, **sampled, generator=generator)  # type: ignore[arg-type]
        else:
            found = rule(model, solver=en.Proximal(), max_steps=200, until=en.Stationary(atol=1e-3))
        runs.append(Run(name, model, found, updates))  # type: ignore[arg-type]
    return runs


def posterior_codes(run: Run, x: Tensor, config: Config) -> Tensor:
    """Codes of test patches, (times, patches, atoms): along a chain, or the best guess alone."""
    if isinstance(run.rule, en.MaximumAPosteriori):
        return run.rule.phases(x=x)[0].solution.state["a"][None]
    steps = 40 if config.smoke else 400
    chain = en.settle(
        run.model,
        clamp={"x": x},
        solver=en.Langevin(config.dt),
        max_steps=steps,
        record=lambda state: codes_of(run, state),
        record_every=10,
        generator=torch.Generator().manual_seed(config.seed + 3),
    ).trajectory
    return chain[len(chain) // 4 :].detach()


def explained(x: Tensor, rebuilt: Tensor) -> float:
    """The share of the sum of squares."""
    return 1 - float((x - rebuilt).square().sum() / x.square().sum())


def gabors(figures: Tensor) -> list[Gabor]:
    """A fit to each."""
    return [gabor_fit(figure) for figure in figures]


def draw_gabors(kinds: dict[str, list[Gabor]], learned: list[Gabor]) -> Figure:
    """How much of each atom is a Gabor function, and of which orientations and bandwidths these are."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    figure.suptitle("Gabor functions fitted to atoms")
    left, middle, right = figure.subplots(1, 3)
    edges = torch.linspace(0, 1, 21)
    for (name, fits), colour in zip(kinds.items(), (plot.BLUE, plot.VERMILION, plot.GREEN), strict=True):
        values = [fit.explained for fit in fits]
        left.hist(
            values, edges.tolist(), histtype="step", color=colour, linewidth=1.6, label=name, density=True
        )
    left.set_xlabel("share of an atom's variance explained")
    left.set_ylabel("density of atoms")
    left.legend(loc="upper center", frameon=False, fontsize="small")
    good = [fit for fit in learned if fit.explained > 0.7]
    middle.hist(
        [math.degrees(fit.orientation) for fit in good], bins=12, range=(0, 180), color=plot.BLUE, alpha=0.7
    )
    middle.set_xticks([0, 45, 90, 135, 180])
    middle.set_xlabel("direction of the wave (degrees)")
    middle.set_ylabel("atoms")
    middle.set_title(f"{len(good)} atoms explained by 70 % or more", fontsize="small")
    for kind, marker, colour in (("grating", "s", plot.ORANGE), ("local", "o", plot.BLUE)):
        # more than a wave and a half within two standard deviations: a grating
        some = [f for f in good if (f.bandwidth < 0.9) == (kind == "grating")]
        right.plot(
            [f.frequency for f in some],
            [f.length for f in some],
            marker,
            ms=4,
            color=colour,
            alpha=0.7,
            label=kind,
        )
    right.set_yscale("log")
    right.set_ylim(1.5, 120)
    right.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    right.set_yticks([], minor=True)
    right.set_title("near 0: edges", fontsize="small")
    right.set_xlabel("frequency (cycles a pixel)")
    right.set_ylabel("length of the envelope (pixels)")
    right.legend(loc="upper right", frameon=False, fontsize="small")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_sparsity(runs: list[Run]) -> Figure:
    """The sparsity and the share of codes that are not zero, while they are learned."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    figure.suptitle("Sparsity that is learned: from samples of codes, and from their best guess")
    left, right = figure.subplots(1, 2)
    colours = (plot.BLUE, plot.GREEN, plot.VERMILION)
    for run, colour, dash in zip(runs, colours, ("-", "--", "-."), strict=True):
        left.plot(*zip(*run.sparsity, strict=True), dash, color=colour, linewidth=1.8, label=run.name)
        right.plot(*zip(*run.active, strict=True), dash, color=colour, linewidth=1.8, label=run.name)
    left.set_yscale("log")
    left.set_ylabel("lambda")
    right.set_ylabel("codes that are not zero (%)")
    right.set_ylim(-3, 105)
    for axes in (left, right):
        axes.set_xlabel("update")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
    left.legend(loc="best", frameon=False)
    return figure


def main(config: Config) -> None:
    """Learn, measure, draw."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config(
            size=6, atoms=12, updates=4, map_updates=4, batch=8, smoke=True, out=config.out, seed=config.seed
        )
    train, test = patches_of(config)
    shape = (-1, config.size, config.size)
    runs = runs_of(config)
    start = runs[0].model.weight.detach().clone()
    seen = test[: 10 if config.smoke else 500]
    lines = [
        "# Atoms and sparsity of natural patches",
        "",
        "Made by `python experiments/natural_patches/run.py`.",
        "",
        *circumstances(),
        f"- {len(train)} whitened patches of {config.size} by {config.size} pixels to learn from, "
        f"{config.atoms} atoms, {config.batch} patches an update, noise variance {config.variance:g}",
        "",
        "| prior, codes | updates | CPU seconds | lambda | threshold | noise variance "
        "| codes not zero, test | variance explained, test |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    codes: dict[str, Tensor] = {}
    for run in runs:
        learn(run, train, config)
        found = posterior_codes(run, seen, config)
        codes[run.name] = found
        rebuilt = found.mean(0) @ run.model.weight.detach().mT
        threshold = (
            float(run.model.codes.threshold) if isinstance(run.model, en.models.SpikeSlabCoding) else 0
        )
        lines.append(
            f"| {run.name} | {run.updates} | {run.seconds:.0f} | {float(run.model.penalty.strength):.3g} "
            f"| {threshold:.3g} | {float(run.model.reconstruction.variance):.3g} "
            f"| {float((found != 0).double().mean()):.1%} | {explained(seen, rebuilt):.1%} |"
        )
        print(lines[-1], flush=True)
    best = runs[0]
    atoms = best.model.weight.detach().mT.reshape(shape)
    learned = gabors(atoms)
    kinds = {
        "learned": learned,
        "at the start": gabors(start.mT.reshape(shape)),
        "patches": gabors(test[: len(atoms)].reshape(shape)),
    }
    noisy = gabors(runs[3].model.weight.detach().mT.reshape(shape))
    lines += [
        "",
        "| pictures | Gabor: median share explained | middle half | above 70 % |",
        "| --- | --- | --- | --- |",
    ]
    for name, fits in {**kinds, "learned, noise too": noisy}.items():
        share = torch.tensor([fit.explained for fit in fits])
        low, middle, high = share.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        lines.append(
            f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {float((share > 0.7).float().mean()):.0%} |"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    order = sorted(range(len(atoms)), key=lambda n: -learned[n].explained)
    title = f"{len(atoms)} atoms of natural patches after {best.seconds:.0f} s, the most Gabor-like first"
    save = lambda figure, name: plot.save(figure, config.out / name)  # noqa: E731
    save(plot.mosaic(atoms[order], title), "atoms.png")
    save(draw_gabors(kinds, learned), "gabors.png")
    save(draw_sparsity(runs[:3]), "sparsity.png")
    save(
        plot.code_histogram({run.name: codes[run.name] for run in runs[:3]}, "Codes of test patches"),
        "codes.png",
    )
    some = seen[:8].reshape(shape)
    rebuilt = {
        run.name.replace(", ", ",\n"): (codes[run.name].mean(0)[:8] @ run.model.weight.detach().mT).reshape(
            shape
        )
        for run in runs[:3]
    }
    save(plot.reconstruction(some, rebuilt, "Test patches from the mean of their codes"), "rebuilt.png")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
