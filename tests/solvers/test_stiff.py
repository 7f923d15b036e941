"""Minimisers on stiff layered networks: the fixed point of a tight adaptive integration."""

from __future__ import annotations

import numpy as np
import pytest

import energynet as en
from helpers.stiff import Written, inputs, stiff

# Couplings of 0.95 of the least curvature of the leaks: rates are at most 1.95 over the fastest time constant,
# 1 / 100, in potentials too, for the slope of a link is at most 1 over that curvature.
LARGEST = 195.0


@pytest.mark.parametrize("activation", ["hardsigmoid", "sigmoid", "tanh"])
def test_minimisers_end_where_a_tight_integration_does(activation: str) -> None:
    model, x = stiff(activation), inputs(2)
    written = Written(model, x)

    def settled(solver: en.Solver, steps: int, atol: float = 1e-11) -> en.Solution:
        until = en.Stationary(atol=atol)
        return en.settle(model, clamp={"x": x}, solver=solver, max_steps=steps, until=until, throw=True)

    tight = settled(en.Adaptive(rtol=1e-9), 10_000, atol=1e-12)
    assert written.wrong(tight.state) < 1e-10
    expected = written.join(tight.state)
    minimisers = {
        "nesterov": (en.Momentum(1.3 / LARGEST), 2000),
        "heavy ball": (en.Momentum(1 / LARGEST, 0.95, nesterov=False), 2000),
        "fire": (en.FIRE(), 1000),
    }
    for name, (solver, steps) in minimisers.items():
        found = settled(solver, steps)
        assert np.abs(written.join(found.state) - expected).max() < 1e-8, name
