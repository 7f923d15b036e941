"""Sequences of binary columns: words in a small type, a walk through evolution, a melody. All drawn here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Seven rows of a letter from the top. Most are four columns wide and leave the fifth as a gap.
_TYPE = {
    "A": ".##.. #..#. #..#. ####. #..#. #..#. #..#.",
    "B": "###.. #..#. #..#. ###.. #..#. #..#. ###..",
    "C": ".###. #.... #.... #.... #.... #.... .###.",
    "D": "###.. #..#. #..#. #..#. #..#. #..#. ###..",
    "E": "####. #.... #.... ###.. #.... #.... ####.",
    "F": "####. #.... #.... ###.. #.... #.... #....",
    "G": ".###. #.... #.... #.##. #..#. #..#. .###.",
    "H": "#..#. #..#. #..#. ####. #..#. #..#. #..#.",
    "I": "###.. .#... .#... .#... .#... .#... ###..",
    "J": "...#. ...#. ...#. ...#. ...#. #..#. .##..",
    "K": "#..#. #..#. #.#.. ##... #.#.. #..#. #..#.",
    "L": "#.... #.... #.... #.... #.... #.... ####.",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "N": "#..#. ##.#. ##.#. #.##. #.##. #..#. #..#.",
    "O": ".##.. #..#. #..#. #..#. #..#. #..#. .##..",
    "P": "###.. #..#. #..#. ###.. #.... #.... #....",
    "Q": ".##.. #..#. #..#. #..#. #..#. #.##. .###.",
    "R": "###.. #..#. #..#. ###.. #.#.. #..#. #..#.",
    "S": ".###. #.... #.... .##.. ...#. ...#. ###..",
    "T": "####. .##.. .##.. .##.. .##.. .##.. .##..",
    "U": "#..#. #..#. #..#. #..#. #..#. #..#. .##..",
    "V": "#...# #...# #...# .#.#. .#.#. ..#.. ..#..",
    "W": "#...# #...# #...# #.#.# #.#.# ##.## #...#",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
    "Z": "####. ...#. ..#.. .##.. .#... #.... ####.",
    " ": "..... ..... ..... ..... ..... ..... .....",
}

# The Ode to Joy (Beethoven 1824), as diatonic steps from C and lengths in beats.
_ODE = "E1 E1 F1 G1 G1 F1 E1 D1 C1 C1 D1 E1 E1.5 D.5 D2 E1 E1 F1 G1 G1 F1 E1 D1 C1 C1 D1 E1 D1.5 C.5 C2"
_TICKS = 4  # of a beat

PITCHES = (60, 62, 64, 65, 67)
"""The notes of `melody` as MIDI numbers, C to G, in the order of its columns."""


def spelt(word: str) -> Float[Tensor, "columns 7"]:
    """A word as an image that is read column by column.

    ``spelt("SCIENCE")`` has the measures of the sequence of Osogami and Otsuka (2015), 35 columns of 7 rows,
    in letters of this project's own.

    Parameters
    ----------
    word
        Letters from A to Z, in either case, and spaces.

    Returns
    -------
    Tensor
        0 and 1, ``(5 * letters, 7)``: a row for each column of the image, its top row first.

    Raises
    ------
    ValueError
        If there is no such letter.
    """
    unknown = sorted(set(word.upper()) - set(_TYPE))
    if unknown:
        raise ValueError(
            f"spelt: expected letters from A to Z and spaces, got {', '.join(map(repr, unknown))}"
        )
    rows = [
        [letter == "#" for row in zip(*_TYPE[c].split(), strict=True) for letter in row] for c in word.upper()
    ]
    return torch.tensor(rows, dtype=torch.get_default_dtype()).view(5 * len(word), 7)


def evolution(figures: int = 5, width: int = 12) -> Float[Tensor, "columns 20"]:
    """Silhouettes from one that walks on its knuckles to one that stands upright, side by side.

    After the image 'human evolution' of Osogami and Otsuka (2015), but drawn by formula: legs, trunk, arm and
    head are strokes whose angles and lengths change from figure to figure.

    Parameters
    ----------
    figures
        How many, 5 by default.
    width
        Columns of each, 12 by default, with the gap.

    Returns
    -------
    Tensor
        0 and 1, ``(figures * width, 20)``: a row for each column of the image, its top row first.

    Raises
    ------
    ValueError
        If there is no figure, or it has less than 8 columns.
    """
    if figures < 1 or width < 8:
        raise ValueError(f"evolution: expected a figure and 8 columns or more, got {figures} and {width}")
    steps = torch.linspace(0, 1, figures).tolist() if figures > 1 else [1.0]
    image = torch.cat([_figure(step, width) for step in steps], 1)
    return image.t().to(torch.get_default_dtype()).contiguous()


def melody() -> Float[Tensor, "ticks 5"]:
    """The first two phrases of the Ode to Joy, eight bars, as a piano roll.

    Four ticks are a beat, and the last tick of a note is silent, so that repeated notes are heard.

    Returns
    -------
    Tensor
        0 and 1, ``(128, 5)``: for each tick which of `PITCHES` sounds.
    """
    rows: list[list[float]] = []
    for note in _ODE.split():
        sounds = [float(name == note[0]) for name in "CDEFG"]
        length = round(float(note[1:]) * _TICKS)
        rows += [sounds] * (length - 1) + [[0.0] * len(PITCHES)]
    return torch.tensor(rows, dtype=torch.get_default_dtype())


def _figure(step: float, width: int) -> Tensor:
    """One figure, ``(20, width)``, from crouching at 0 to upright at 1."""

    def between(first: float, last: float) -> float:
        return first + step * (last - first)

    def towards(start: tuple[float, float], angle: float, length: float) -> tuple[float, float]:
        """From a point, so many degrees forward from straight up."""
        turn = math.radians(angle)
        return start[0] + length * math.sin(turn), start[1] - length * math.cos(turn)

    scale = width / 12
    hip = (between(3.0, 5.0) * scale, between(14.0, 11.5))
    knee = (hip[0] + between(1.6, 0.6) * scale, between(16.5, 15.5))
    foot = (hip[0] + between(0.2, 0.0) * scale, 19.0)
    toe = (foot[0] + 1.6 * scale, 19.0)
    shoulder = towards(hip, between(50, 0), between(5.5, 6.5))
    head = towards(shoulder, between(60, 5), between(2.0, 2.8))
    hand = (shoulder[0] + between(1.0, 1.2) * scale, between(18.6, 11.5))
    strokes = [(hip, knee), (knee, foot), (foot, toe), (hip, shoulder), (shoulder, head), (shoulder, hand)]
    thick = [0.75, 0.7, 0.6, 1.1, 0.7, 0.55]
    down, across = torch.meshgrid(torch.arange(20.0), torch.arange(float(width)), indexing="ij")
    image = (across - head[0]).square() + (down - head[1]).square() <= between(1.5, 1.7) ** 2
    for (start, end), half in zip(strokes, thick, strict=True):
        image |= _near(across, down, start, end) <= half
    image[:, -1] = False
    return image


def _near(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """The distance of points from a stroke."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    share = ((x - start[0]) * along_x + (y - start[1]) * along_y) / (along_x**2 + along_y**2)
    share = share.clamp(0, 1)
    return ((x - start[0] - share * along_x).square() + (y - start[1] - share * along_y).square()).sqrt()
