"""Differences of gradients: equal to the plain difference, and more exact for states that are close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.rules.base import Phase
from energynet.rules.contrast import contrast
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

STYLES: dict[str, Callable[..., Tensor]] = {
    "bilinear": lambda e, x, h, y: -(h * (x @ e.V)).sum(1) - (y * (h @ e.U)).sum(1) - h @ e.b,
    "einsum": lambda e, x, h, y: torch.einsum("bi,ij,bj->b", h, e.U, y) + (h * e.b).square().sum(1),
    "activated": lambda e, x, h, y: -(h.tanh() * (x @ e.V)).sum(1) - (y * (h.sigmoid() @ e.U)).sum(1),
    "prediction": lambda e, x, h, y: 0.5 * (h - (x @ e.V + e.b).tanh()).square().sum(1)
    + 0.5 * (y - e.layer(h.tanh())).square().sum(1),
    "three factors": lambda e, x, h, y: torch.einsum("bi,bi,bj,ij->b", h, h, y, e.U),
    "normalised": lambda e, x, h, y: -torch.logsumexp(h @ e.U, 1) + (h * e.b).sum(1) / (1 + y.square().sum(1)),
    "reconstruction": lambda e, x, h, y: 0.5 * (x - h @ e.V.T).square().sum(1) + (y @ e.U.T).relu().sum(1),
    "sizes": lambda e, x, h, y: (h @ e.U * y).sum(1) * y.shape[0] / (1 + y.shape[0]),
    "tied": lambda e, x, h, y: ((h @ e.U).tanh() @ e.U.T * h).sum(1),
    "unused": lambda e, x, h, y: (x @ e.V).square().sum(1) + h.sum(1),
}  # fmt: skip


def build(style: str, dtype: torch.dtype) -> en.Energy:
    torch.manual_seed(0)
    tensors = {
        "V": torch.randn(6, 5), "U": torch.randn(5, 3), "b": torch.randn(5), "layer": nn.Linear(5, 3),
    }  # fmt: skip
    return Functional(STYLES[style], tensors, x=en.Real(6), h=en.Real(5), y=en.Real(3)).to(dtype)


def solution_at(energy: en.Energy, state: dict[str, Tensor]) -> en.Solution:
    free = {name: value for name, value in state.items() if name != "x"}
    solution = en.settle(energy, free, clamp={"x": state["x"]}, max_steps=0, solver=en.Euler(0.1))
    assert solution.state["x"] is state["x"]
    return solution


def pair(distance: float, dtype: torch.dtype, batch: int = 8) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": 6, "h": 5, "y": 3}
    middle = {n: torch.randn(batch, k, generator=generator, dtype=torch.float64) for n, k in shapes.items()}
    shift = {n: torch.randn(batch, k, generator=generator, dtype=torch.float64) for n, k in shapes.items()}
    states = []
    for sign in (1, -1):
        state = {n: (middle[n] + sign * distance * shift[n]).to(dtype) for n in ("h", "y")}
        states.append({"x": middle["x"].to(dtype), **state})
    states[1]["x"] = states[0]["x"]  # the very tensor, as in two phases of one batch
    return states[0], states[1]


def plain(energy: en.Energy, state: dict[str, Tensor], weight: Tensor | float) -> dict[str, Tensor]:
    """The gradient of the mean weighted energy by autograd."""
    energy.zero_grad()
    with torch.enable_grad():
        (weight * energy.energy(**state)).mean().backward()
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in energy.named_parameters()
    }


@pytest.mark.parametrize("weight", ["number", "samples"])
@pytest.mark.parametrize("style", STYLES)
def test_it_is_the_difference_of_two_gradients(style: str, weight: str) -> None:
    energy = build(style, torch.float64)
    plus, minus = pair(0.5, torch.float64)
    each = torch.linspace(-1, 2, 8, dtype=torch.float64) if weight == "samples" else 2.5
    phases = [
        Phase(each, energy, solution_at(energy, plus)),
        Phase(-each, energy, solution_at(energy, minus)),
    ]
    found = contrast(phases)
    first, second = plain(energy, plus, each), plain(energy, minus, each)
    assert set(found) == set(first)
    for name in found:
        assert torch.allclose(found[name], first[name] - second[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("style", ["bilinear", "activated", "prediction", "einsum", "reconstruction"])
def test_it_keeps_digits_that_subtraction_loses(style: str) -> None:
    """Against the exact difference at the same float32 states, computed in float64."""
    energy, exact = build(style, torch.float32), build(style, torch.float64)
    plus, minus = pair(1e-4, torch.float32)
    found = contrast(
        [Phase(1.0, energy, solution_at(energy, plus)), Phase(-1.0, energy, solution_at(energy, minus))]
    )
    first, second = plain(energy, plus, 1.0), plain(energy, minus, 1.0)
    one, other = (plain(exact, {n: v.double() for n, v in s.items()}, 1.0) for s in (plus, minus))
    ours = theirs = size = 0.0
    for name in found:
        expected = one[name] - other[name]
        size += float(expected.square().sum())
        ours += float((found[name].double() - expected).square().sum())
        theirs += float((first[name] - second[name] - expected).square().sum())
    assert ours < theirs / 4  # twice as near, in the norm
    assert ours < 1e-6 * size


def test_phases_of_any_weights_sum_up() -> None:
    energy = build("prediction", torch.float64)
    states = [*pair(0.5, torch.float64), pair(1.0, torch.float64)[0]]
    weights = [0.5, 1.5, -0.25]
    found = contrast([Phase(w, energy, solution_at(energy, s)) for w, s in zip(weights, states, strict=True)])
    expected = [plain(energy, s, w) for w, s in zip(weights, states, strict=True)]
    for name in found:
        assert torch.allclose(found[name], sum(e[name] for e in expected), rtol=1e-11)  # type: ignore[arg-type]


def test_frozen_parameters_are_left_out_and_may_thaw() -> None:
    energy = build("bilinear", torch.float64)
    plus, minus = pair(0.5, torch.float64)
    phases = [Phase(1.0, energy, solution_at(energy, plus)), Phase(-1.0, energy, solution_at(energy, minus))]
    names = set(contrast(phases))
    weight = energy.get_parameter("V")
    weight.requires_grad_(False)
    assert set(contrast(phases)) == names - {"V"}
    weight.requires_grad_(True)
    assert set(contrast(phases)) == names


def test_phases_of_two_energies_are_refused() -> None:
    first, second = build("bilinear", torch.float64), build("bilinear", torch.float64)
    plus, minus = pair(0.5, torch.float64)
    with pytest.raises(ValueError, match="one energy"):
        contrast(
            [Phase(1.0, first, solution_at(first, plus)), Phase(-1.0, second, solution_at(second, minus))]
        )
