"""Several machines learn a short word and its mirror image in turn.

    python experiments/dybm_science/relearning.py    # half a minute of an idle core

It leaves relearning.md and relearning.png beside this file, or in --out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from run import alternated, shown

from energynet import data
from energynet.provenance import circumstances

HERE = Path(__file__).parent
MARKERS = "os^Dv"


@dataclass(frozen=True)
class Config:
    """What is run."""

    word: str = "ICE"
    """The word."""

    machines: int = 5
    """With delays and first weights of their own."""

    turns: int = 20
    """The most turns."""

    limit: int = 20_000
    """Periods of a turn after which learning is given up."""

    out: Path = HERE
    """Where the results go."""


def main(config: Config) -> None:
    """Take turns with each machine."""
    torch.set_num_threads(1)
    word = data.spelt(config.word).double()
    head = [
        "# Learning again what was forgotten",
        "",
        "Made by `python experiments/dybm_science/relearning.py`.",
        "",
    ]
    head += [*circumstances(), "", f"Periods until {config.word}, or its mirror image, is recalled.", ""]
    head += ["| machine | word: first | second | last | mirror image: first | second | last |"]
    head += ["| --- | --- | --- | --- | --- | --- | --- |"]
    rows, curves = [], []
    for seed in range(config.machines):
        lessons, _ = alternated(word, word.flip(0), config.turns, config.limit, seed)
        periods = [lesson.periods for lesson in lessons]
        cells = [
            shown(p, config.limit)
            for kind in (0, 1)
            for p in [*periods[kind::2], 0][:2] + periods[kind::2][-1:]
        ]
        rows.append(f"| {seed} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
        curves.append(periods)
    (config.out / "relearning.md").write_text("\n".join([*head, *rows, ""]))

    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for axes, kind, name in zip(panels, (0, 1), ("the word", "its mirror image"), strict=True):
        for number, periods in enumerate(curves):
            known = [p for p in periods[kind::2] if p is not None]
            axes.plot(
                range(1, len(known) + 1), known, MARKERS[number % 5] + "-", ms=4, lw=0.9, label=f"{number}"
            )
        axes.set(title=name, xlabel="turn", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        *panels[1].get_legend_handles_labels(), title="machine", frameon=False, loc="outside right center"
    )
    panels[0].set_ylabel("periods until it is recalled")
    figure.savefig(config.out / "relearning.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Config))
