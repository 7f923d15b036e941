"""Names that the nudge would confuse."""

from __future__ import annotations

import pytest

import energynet as en


def test_the_output_is_not_called_like_the_strength() -> None:
    with pytest.raises(ValueError, match="'nudge'"):
        en.EquilibriumPropagation(en.terms.Leak(nudge=en.Real(2)), en.SquaredError("nudge"), 0.1)
