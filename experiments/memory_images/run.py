"""Handwritten digits from their upper half, by five memories, with the energy along the way.

    python experiments/memory_images/run.py --data-dir DIR   # MNIST's four files; or set ENERGYNET_DATA
    python experiments/memory_images/run.py --smoke          # scikit-learn's 8x8 digits, few of them

It leaves results.md and recall.png beside this file, or in --out.
"""

from __future__ import annotations

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

    count: int = 100
    """Images to store, the first of each digit alike."""

    shown: int = 6
    """Images in the figure."""

    data_dir: Path | None = None
    """The directory of MNIST's files; None: where ENERGYNET_DATA says."""

    smoke: bool = False
    """Small images, few of them."""

    out: Path = HERE
    """Where the results go."""


def images(config: Config) -> Tensor:
    """Grey images in [0, 1], (count, side, side), the digits in turn."""
    train = (data.load("digits") if config.smoke else data.load("mnist", config.data_dir)).train
    each = (10 if config.smoke else config.count) // 10
    chosen = torch.stack([train.x[train.label == digit][:each] for digit in range(10)], 1).flatten(0, 1)
    side = round(chosen[0].numel() ** 0.5)
    return chosen.reshape(-1, side, side).float()


def recalled(spins: Tensor, known: Tensor) -> dict[str, en.Solution]:
    """What each memory makes of images whose unknown part is black, the known part held."""
    cues = torch.where(known, spins, -1.0)
    clamp = {"s": en.Partial(cues, known)}
    generator = torch.Generator().manual_seed(0)
    units, few = spins.shape[1], spins[:10]
    found = {}
    for name, stored, rule in (
        ("Hebb, 10 stored", few, "hebb"),
        ("Storkey, 10 stored", few, "storkey"),
        (f"pseudo-inverse, {len(spins)} stored", spins, "pseudoinverse"),
    ):
        model = en.models.Hopfield(units).double().store(stored, rule=rule)
        found[name] = model.recall(cues, clamp=clamp, record="energy", generator=generator)
    dense = en.models.DenseAssociativeMemory(spins, interaction="exponential")
    found[f"exponential, {len(spins)} stored"] = dense.recall(
        cues, clamp=clamp, record="energy", generator=generator
    )
    modern = en.models.ModernHopfield(spins, beta=0.05)
    found[f"modern, {len(spins)} stored"] = modern.recall(cues, clamp=clamp, record="energy")
    return found


def draw(spins: Tensor, known: Tensor, found: dict[str, en.Solution], config: Config, path: Path) -> None:
    """A row for each memory: what it recalls, then its energies."""
    side, shown = round(spins.shape[1] ** 0.5), min(config.shown, len(spins))
    rows: list[tuple[str, Tensor, en.Solution | None]] = [
        ("stored", spins, None),
        ("cue", torch.where(known, spins, -1.0), None),
        *((name, solution.state["s"], solution) for name, solution in found.items()),
    ]
    figure, panels = plt.subplots(
        len(rows),
        shown + 1,
        figsize=(1.25 * shown + 3.2, 1.3 * len(rows)),
        width_ratios=[1] * shown + [2.2],
        layout="constrained",
    )
    for (name, pictures, solution), axes in zip(rows, panels, strict=True):
        for number in range(shown):
            picture = pictures[number].reshape(side, side)
            axes[number].imshow(picture, cmap="gray", vmin=-1, vmax=1)
            axes[number].set(xticks=[], yticks=[])
        axes[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=9)
        if solution is None:
            axes[-1].set_axis_off()
            continue
        path_of = solution.trajectory[:, :shown]
        last = int(solution.steps[:shown].max()) + 1
        axes[-1].plot(path_of[:last], ".-", lw=1, ms=4)
        axes[-1].tick_params(labelsize=7)
        axes[-1].set_ylabel("energy", fontsize=8)
    panels[-1][-1].set_xlabel("sweeps, or updates of all units", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Store, cut, recall."""
    torch.set_num_threads(1)
    grey = images(config)
    spins = torch.where(grey > 0.5, 1.0, -1.0).double().flatten(1)
    known = (torch.arange(grey.shape[1]) < grey.shape[1] // 2).repeat_interleave(grey.shape[2])
    found = recalled(spins, known)
    lines = [
        "# Digits from their upper half",
        "",
        "Made by `python experiments/memory_images/run.py`.",
        "",
        *circumstances(),
        "",
        "| memory | cues | wrong units in the lower half | recalled exactly | largest rise of the energy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, solution in found.items():
        stored = 10 if ", 10 " in name else len(spins)
        ends = solution.state["s"][:stored].sign()
        wrong = (ends != spins[:stored])[:, ~known].double().mean()
        exact = (ends == spins[:stored]).all(1).double().mean()
        rise = (
            float(solution.trajectory.diff(dim=0).clamp(min=0).max()) if len(solution.trajectory) > 1 else 0
        )
        lines.append(f"| {name} | {stored} | {wrong:.1%} | {exact:.0%} | {rise:.1g} |")
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.md").write_text("\n".join([*lines, ""]))
    draw(spins, known, found, config, config.out / "recall.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
