"""Seven neurons learn to write SCIENCE, notice a spelling mistake, learn a second word and relearn the first.

    python experiments/dybm_science/run.py           # some minutes of an idle core
    python experiments/dybm_science/run.py --smoke   # two letters, for some seconds

It leaves results.md and the figures beside this file, or in --out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
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
from energynet.models.traces import QUEUES
from energynet.provenance import circumstances

HERE = Path(__file__).parent
BLUE, VERMILION = "#0072B2", "#D55E00"
SHOWN = (0, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000)


@dataclass(frozen=True)
class Config:
    """What is run."""

    word: str = "SCIENCE"
    """The sequence: 5 columns for each letter, a neuron for each of 7 rows."""

    wrong: str = "SCIENSE"
    """The same with another letter."""

    short: str = "ICE"
    """What is learned in turn with its mirror image."""

    seeds: int = 3
    """Machines with delays and first weights of their own, for the default order of the queue."""

    others: int = 1
    """The same for the other orders."""

    limit: int = 150_000
    """Periods after which learning is given up."""

    turns: int = 80
    """The most turns of two sequences."""

    smoke: bool = False
    """A short word and few periods."""

    out: Path = HERE
    """Where the results go."""


@dataclass
class Lesson:
    """How a sequence was learned: the recall after so many periods, and when it was right."""

    model: en.models.DynamicBoltzmannMachine
    """Who learned it."""

    periods: int | None
    """Of the first recall without an error; None where there was none."""

    right: list[tuple[int, int]]
    """Periods, and columns that recall had right."""

    recalls: list[tuple[int, Tensor]]
    """Periods, and what was recalled, at some of them."""

    seconds: float = 0.0


def machine(seed: int, queue: str = "newest") -> en.models.DynamicBoltzmannMachine:
    """Seven neurons with random delays from 1 to 9, three traces of each kind, weights from N(0, 0.1^2)."""
    generator = torch.Generator().manual_seed(seed)
    delays = torch.randint(1, 10, (7, 7), generator=generator)
    return en.models.DynamicBoltzmannMachine(
        7, delays, (0.25, 0.5, 0.75), (0.25, 0.5, 0.75), queue=queue, generator=generator
    ).double()


def recalled(model: en.models.DynamicBoltzmannMachine, sequence: Tensor) -> Tensor:
    """What follows one showing of a sequence, from nothing; the model stays as it is."""
    return copy.deepcopy(model).reset().generate(len(sequence), cue=sequence, temperature=0)


def taught(
    model: en.models.DynamicBoltzmannMachine, sequence: Tensor, limit: int, every: int = 100
) -> Lesson:
    """Repeat a sequence until it is recalled without an error; recall is tried again and again."""
    lesson, done, start = Lesson(model, None, [], []), 0, time.process_time()
    while True:
        made = recalled(model, sequence)
        right = int((made == sequence).all(1).sum())
        lesson.right.append((done, right))
        if done in SHOWN or right == len(sequence):
            lesson.recalls.append((done, made))
        if right == len(sequence):
            lesson.periods = done
            break
        if done >= limit:
            break
        more = 10 if done < 100 else every
        model.learn(sequence.repeat(more, 1))
        done += more
    lesson.seconds = time.process_time() - start
    return lesson


def alternated(
    first: Tensor, second: Tensor, turns: int, limit: int, seed: int = 0
) -> tuple[list[Lesson], bool]:
    """Teach two sequences in turn, each until it is recalled, until the second no longer costs the first."""
    model, lessons = machine(seed), []
    for _ in range(turns):
        for sequence in (first, second):
            lessons.append(taught(model, sequence, limit, every=20))
            if lessons[-1].periods is None:
                return lessons, False
        if torch.equal(recalled(model, first), first):
            return lessons, True
    return lessons, False


def shown(periods: int | None, limit: int) -> str:
    """Periods as a cell of a table."""
    return f"not within {limit:,}" if periods is None else f"{periods:,}"


def lesson_rows(queue: str, seeds: int, sequence: Tensor, limit: int, lines: list[str]) -> list[Lesson]:
    """Teach machines with one order of the queue, and note how it went."""
    lessons = []
    for seed in range(seeds):
        lessons.append(taught(machine(seed, queue), sequence, limit))
        most = max(right for _, right in lessons[-1].right)
        lines.append(
            f"| {queue} | {seed} | {shown(lessons[-1].periods, limit)} | {most} of {len(sequence)} "
            f"| {lessons[-1].seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    return lessons


def mistake(
    speller: en.models.DynamicBoltzmannMachine, config: Config, sequence: Tensor, wrong: Tensor
) -> list[str]:
    """The surprise at each column of the word, of a misspelt one, and of the word again."""
    shows = torch.cat([sequence, wrong, sequence])
    surprise = -speller.reset().observe(sequence).log_likelihood(shows).detach()
    length = len(sequence)
    differs = (shows != sequence.repeat(3, 1)).any(1).nonzero().squeeze(1)
    draw_mistake(shows, surprise, differs, config.out / "mistake.png")
    usual = surprise[:length]
    return [
        f"- {config.word} as learned: {usual.mean():.4f} nats a column, at most {usual.max():.3f}",
        f"- {config.wrong}: the first column that differs is {int(differs[0]) - length}, with "
        f"{surprise[differs[0]]:.1f} nats; the largest is {surprise.max():.1f}, at column "
        f"{int(surprise.argmax()) - length}",
        f"- {config.word} after it: {surprise[2 * length :].max():.3f} nats at most",
    ]


def turn_rows(lessons: list[Lesson], both: bool, limit: int) -> list[str]:
    """The turns as rows of a table, and how they ended."""
    periods = [shown(lesson.periods, limit) for lesson in lessons]
    periods += [""] * (len(periods) % 2)
    rows = [f"| {1 + i // 2} | {periods[i]} | {periods[i + 1]} |" for i in range(0, len(periods), 2)]
    kept = "Then both are recalled, each after its cue." if both else "The word is not yet kept meanwhile."
    return [*rows, "", kept]


def draw_learning(sequence: Tensor, recalls: Sequence[tuple[int, Tensor]], path: Path) -> None:
    """What is recalled after more and more periods, above the word."""
    rows = [*((f"{periods:,} periods", made) for periods, made in recalls), ("the word", sequence)]
    figure, panels = plt.subplots(len(rows), 1, figsize=(6, 0.95 * len(rows)), layout="constrained")
    for axes, (name, columns) in zip(panels, rows, strict=True):
        axes.imshow(columns.t(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_mistake(shows: Tensor, surprise: Tensor, differs: Tensor, path: Path) -> None:
    """What is shown, and minus the log-likelihood of each column."""
    figure, (image, curve) = plt.subplots(
        2, 1, figsize=(9, 3.4), height_ratios=[1, 2], sharex=True, layout="constrained"
    )
    image.imshow(shows.t(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    image.set(yticks=[])
    first, last = int(differs[0]) - 0.5, int(differs[-1]) + 0.5
    for axes in (image, curve):
        axes.axvspan(first, last, color=VERMILION, alpha=0.2, lw=0)
        for word in range(1, 3):
            axes.axvline(word * len(shows) / 3 - 0.5, color="0.6", lw=0.9, ls=":")
    curve.bar(range(len(surprise)), surprise, width=0.8, color=BLUE)
    curve.set(xlabel="column", ylabel="-log P, nats", xlim=(-0.5, len(surprise) - 0.5))
    curve.annotate(
        "columns that differ",
        (last, float(surprise.max()) * 0.85),
        xytext=(6, 0),
        textcoords="offset points",
        color=VERMILION,
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_turns(periods: Sequence[int | None], path: Path) -> None:
    """Periods that each sequence needs in each turn."""
    figure, axes = plt.subplots(figsize=(5.5, 3), layout="constrained")
    kinds = (("the word", BLUE, "o-"), ("its mirror image", VERMILION, "s--"))
    for start, (name, colour, style) in enumerate(kinds):
        needed = [(turn, p) for turn, p in enumerate(periods[start::2], 1) if p is not None]
        axes.plot([turn for turn, _ in needed], [p for _, p in needed], style, color=colour, label=name)
    axes.set(xlabel="turn", ylabel="periods until it is recalled")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    """Learn, look for the mistake, take turns, compare the orders of the queue."""
    torch.set_num_threads(1)
    if config.smoke:
        config = Config("HI", "HE", "I", seeds=1, limit=200, turns=2, smoke=True, out=config.out)
    sequence, wrong = (data.spelt(word).double() for word in (config.word, config.wrong))
    config.out.mkdir(parents=True, exist_ok=True)
    lines = ["# Seven neurons and a word", "", "Made by `python experiments/dybm_science/run.py`.", ""]
    lines += [*circumstances(), "", "## Periods until recall, cued, is without an error", ""]
    lines += [
        "| weights in the queue | machine | periods | most columns right | CPU s |",
        "| --- | --- | --- | --- | --- |",
    ]
    table = len(lines)

    rows: list[str] = []
    speller = lesson_rows("newest", config.seeds, sequence, config.limit, rows)[0]
    draw_learning(sequence, speller.recalls, config.out / "learning.png")

    lines += ["", "## A spelling mistake", "", *mistake(speller.model, config, sequence, wrong)]
    short = data.spelt(config.short).double()
    turns, both = alternated(short, short.flip(0), config.turns, config.limit)
    draw_turns([lesson.periods for lesson in turns], config.out / "turns.png")
    lines += ["", f"## Periods in turn for {config.short} and its mirror image", ""]
    lines += ["| turn | word | mirror image |", "| --- | --- | --- |", *turn_rows(turns, both, config.limit)]
    print("\n".join(lines), flush=True)

    results = config.out / "results.md"
    for queue in QUEUES:
        if queue != "newest":
            lesson_rows(queue, config.others, sequence, config.limit, rows)
        results.write_text("\n".join([*lines[:table], *rows, *lines[table:], ""]))


if __name__ == "__main__":
    main(tyro.cli(Config))
