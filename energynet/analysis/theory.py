"""The mean-field theory of the Hopfield network of the Hebb rule, at T = 0."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

CRITICAL_LOAD = 0.137905566
"""Patterns per unit above which the Hebb rule recalls nothing at T = 0 (Amit et al. 1985)."""


def _excess(y: float, load: float) -> float:
    return math.erf(y) - y * (math.sqrt(2 * load) + 2 / math.sqrt(math.pi) * math.exp(-y * y))


def mean_field_overlap(load: float) -> float:
    """The overlap of a recalled pattern with the stored one, for infinitely many units.

    With y = m / sqrt(2 alpha r), the replica-symmetric equations at T = 0 are one,
    erf(y) = y (sqrt(2 alpha) + 2 / sqrt(pi) exp(-y^2)), and m = erf(y) at its largest root (Amit, Gutfreund
    and Sompolinsky 1985, Phys. Rev. Lett. 55:1530; 1987, Ann. Phys. 173:30).

    Parameters
    ----------
    load
        alpha, random patterns per unit; positive.

    Returns
    -------
    float
        m, from 0.967 to 1; 0 above the critical load.
    """
    if not 0 < load < math.inf:
        raise ValueError(f"mean_field_overlap: load must be a positive number, got {load!r}")
    last = 1 / math.sqrt(2 * load)  # above, y sqrt(2 alpha) > 1 >= erf(y)
    grid = np.linspace(last, 0.5, 4000) if last > 0.5 else np.array([])
    for high, low in pairwise(grid):
        if _excess(low, load) >= 0:
            root = brentq(lambda y: _excess(float(y), load), low, high)
            return math.erf(float(root))  # type: ignore[arg-type]
    return 0.0
