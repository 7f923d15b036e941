"""Small problems whose distribution is known: bars and stripes, shifted patterns, Ising spins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from energynet import exact
from energynet.data.dataset import Split
from energynet.terms import Coupling
from energynet.variable import Spin

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def bars_and_stripes(side: int) -> Float[Tensor, "patterns pixels"]:
    """All images of whole columns, or of whole rows (MacKay 2003, section 43.4).

    Parameters
    ----------
    side
        Pixels of a side, from 1 to 16.

    Returns
    -------
    Tensor
        Each image once, 0 and 1, ``(2 * 2**side - 2, side * side)``: the empty and the full one are both.

    Raises
    ------
    ValueError
        If the side is out of range.
    """
    if not 1 <= side <= 16:
        raise ValueError(f"bars_and_stripes: expected a side from 1 to 16, got {side}")
    numbers = torch.arange(2**side).unsqueeze(1)
    lines = ((numbers >> torch.arange(side)) & 1).to(torch.get_default_dtype())
    columns = lines.unsqueeze(1).expand(-1, side, -1)
    return torch.cat([columns, columns.transpose(1, 2)[1:-1]]).flatten(1)


def shifter(n: int, samples: int, *, on: float = 0.3, generator: torch.Generator | None = None) -> Split:
    """Pairs of patterns, the second the first shifted by one place or not (Hinton and Sejnowski 1986).

    Which way, no pair of units tells: it takes hidden units that see three.

    Parameters
    ----------
    n
        Units of a pattern, at least 3; it is a ring.
    samples
        How many pairs.
    on
        The probability that a unit is on, 0.3 by default, as in the paper.
    generator
        Of the patterns and the shifts.

    Returns
    -------
    Split
        ``x``: both patterns, ``(samples, 2 n)``. ``label``: 0 for a shift to the left, 1 for none, 2 for one
        to the right.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    if n < 3 or samples < 0 or not 0 < on < 1:
        raise ValueError(
            f"shifter: expected 3 units or more, a number of samples and 0 < on < 1, got {n}, {samples}, {on}"
        )
    first = (torch.rand(samples, n, generator=generator) < on).float()
    label = torch.randint(0, 3, (samples,), generator=generator)
    source = (torch.arange(n) - (label - 1).unsqueeze(1)) % n
    return Split(torch.cat([first, first.gather(1, source)], 1), label)


def ising(rows: int, columns: int, coupling: float = 1.0, *, ring: bool = True) -> Coupling:
    """The Ising model of a grid, E = -J sum of s s' over neighbours, as an energy of ``s``.

    Parameters
    ----------
    rows, columns
        Of the grid; ``s`` is flat, row by row.
    coupling
        J, 1 by default.
    ring
        Whether the grid closes to a torus, the default; along a side of 1 or 2 it does not, for these
        neighbours are neighbours already.

    Returns
    -------
    Coupling
        Its weight is J between neighbours.

    Raises
    ------
    ValueError
        If a side is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"ising: expected positive sides, got {rows} and {columns}")
    place = torch.arange(rows * columns).view(rows, columns)
    pairs = [(place[:-1], place[1:]), (place[:, :-1], place[:, 1:])]
    if ring and rows > 2:
        pairs.append((place[-1], place[0]))
    if ring and columns > 2:
        pairs.append((place[:, -1], place[:, 0]))
    energy = Coupling(s=Spin(rows * columns))
    with torch.no_grad():
        for one, other in pairs:
            energy.weight[one.flatten(), other.flatten()] = coupling
            energy.weight[other.flatten(), one.flatten()] = coupling
    return energy


def ising_samples(
    rows: int,
    columns: int,
    samples: int,
    *,
    beta: float = 0.4,
    ring: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "samples units"]:
    """Independent samples of the Ising model of a small grid, drawn from all of its states.

    Parameters
    ----------
    rows, columns
        Of the grid, at most 20 spins.
    samples
        How many.
    beta
        J over the temperature, 0.4 by default, near the critical 0.4407 of the large grid.
    ring
        As for `ising`.
    generator
        Of the draws.

    Returns
    -------
    Tensor
        -1 and 1, ``(samples, rows * columns)``.

    Raises
    ------
    SettlingError
        If there are too many states.
    ValueError
        If beta is not finite.
    """
    if not math.isfinite(beta):
        raise ValueError(f"ising_samples: expected a finite beta, got {beta}")
    found = exact.distribution(ising(rows, columns, beta, ring=ring).double())
    chosen = torch.multinomial(found.probabilities[0], samples, replacement=True, generator=generator)
    return found.states["s"][chosen].to(torch.get_default_dtype())
