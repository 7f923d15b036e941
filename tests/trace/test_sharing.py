"""Sums within sums: a prediction error and the force on what is predicted."""

from __future__ import annotations

import torch

import energynet as en
from helpers.functional import Functional, autograd_force, traced_force


def test_an_error_with_a_constant_is_shared_with_its_sign() -> None:
    """The force on y is minus the error e = y - W tanh(h) - 1.5, and a drive; that on h is e through W."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    energy = Functional(
        lambda e, h, y, c: (
            0.5 * (y - h.tanh() @ e.W - 1.5).square().sum(1) + (y * c).sum(1) + 0.5 * h.square().sum(1)
        ),
        {"W": draw(3, 2)},
        h=en.Real(3),
        y=en.Real(2),
        c=en.Real(2),
    )
    state = {"h": draw(4, 3), "y": draw(4, 2), "c": draw(4, 2)}
    found = traced_force(energy, state, ["h", "y"])
    for name, value in autograd_force(energy, state, ["h", "y"]).items():
        torch.testing.assert_close(found[name], value, rtol=1e-13, atol=1e-13)
    flow = en.GradientFlow(energy, {"c": state["c"]}, {n: state[n] for n in "hy"})
    kernel = flow.forces.dynamics.force  # type: ignore[attr-defined]
    assert kernel._nested  # the force on y holds the error
    assert kernel.source.replace("mm_(", "mm(").count("mm(") == 2  # forwards and back
