"""Sequences drawn in code have the measures and the content that they should."""

from __future__ import annotations

import string

import pytest
import torch
from torch import Tensor

from energynet import data


def image(columns: Tensor) -> list[str]:
    return ["".join("#" if value else "." for value in row) for row in columns.t().tolist()]


def test_science_is_seven_letters_of_five_columns() -> None:
    science = data.spelt("SCIENCE")
    assert science.shape == (35, 7)
    assert set(science.flatten().tolist()) == {0.0, 1.0}
    for word, places in (("C", (1, 5)), ("E", (3, 6)), ("SCI", (0,))):
        for place in places:
            letters = data.spelt(word)
            assert torch.equal(science[5 * place : 5 * place + len(letters)], letters)


def test_letters_look_like_themselves() -> None:
    """By eye: an asymmetric letter tells rows from columns and both directions."""
    assert image(data.spelt("F")) == ["####.", "#....", "#....", "###..", "#....", "#....", "#...."]
    assert image(data.spelt("J")) == ["...#.", "...#.", "...#.", "...#.", "...#.", "#..#.", ".##.."]


def test_letters_are_all_there_and_differ() -> None:
    letters = data.spelt(string.ascii_uppercase).view(26, 35)
    assert len(letters.unique(dim=0)) == 26
    assert torch.equal(data.spelt("Science"), data.spelt("SCIENCE"))
    assert torch.equal(data.spelt(" "), torch.zeros(5, 7))
    assert data.spelt("").shape == (0, 7)


def test_unknown_letters_are_told() -> None:
    with pytest.raises(ValueError, match="expected letters from A to Z and spaces, got '!', '1'"):
        data.spelt("A1!")


def test_default_dtype(float64: torch.dtype) -> None:
    for made in (data.spelt("A"), data.evolution(), data.melody()):
        assert made.dtype == float64


def test_evolution_rises() -> None:
    columns = data.evolution()
    assert columns.shape == (60, 20)
    assert set(columns.flatten().tolist()) == {0.0, 1.0}
    figures = columns.view(5, 12, 20)
    tops = [int(figure.amax(0).nonzero()[0]) for figure in figures]
    assert tops == sorted(tops, reverse=True)  # row 0 is the top
    assert len(set(tops)) == 5
    assert bool((figures.amax(2)[:, -1] == 0).all())  # a gap after each
    assert bool((figures[:, :, 19].sum(1) > 0).all())  # all stand on the ground
    assert data.evolution(3, 10).shape == (30, 20)
    narrow = data.evolution(2, 8)
    assert bool((narrow[[7, 15]] == 0).all())  # where a stroke would reach into the gap
    assert data.evolution(1).shape == (12, 20)
    with pytest.raises(ValueError, match="expected a figure and 8 columns or more, got 0 and 12"):
        data.evolution(0)
    with pytest.raises(ValueError, match="got 2 and 7"):
        data.evolution(2, 7)


def test_melody_is_the_ode_to_joy() -> None:
    """Onsets, read back from the roll, against the tune in MIDI numbers and beats."""
    roll = data.melody()
    assert roll.shape == (128, len(data.PITCHES))
    assert bool((roll.sum(1) <= 1).all())
    before = torch.cat([torch.zeros(1, 5), roll[:-1]])
    onsets = ((roll > 0) & (before == 0)).nonzero()
    first = [64, 64, 65, 67, 67, 65, 64, 62, 60, 60, 62, 64, 64, 62, 62]
    second = [*first[:12], 62, 60, 60]
    assert [data.PITCHES[p] for p in onsets[:, 1].tolist()] == first + second
    starts = [float(b) for b in range(13)] + [13.5, 14.0]
    beats = [start + 16 * phrase for phrase in range(2) for start in starts]
    assert (onsets[:, 0] / 4).tolist() == beats
    assert float(roll.sum()) == 128 - 30  # every note but for its last tick
