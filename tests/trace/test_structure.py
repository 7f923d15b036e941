"""Couplings, blocks and curvatures found in a trace, against what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.flow import GradientFlow, MirrorFlow
from energynet.forces import TracedForces
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable


def flow(energy: en.Energy, batch: int = 3, **clamp: Tensor) -> GradientFlow:
    torch.manual_seed(0)
    state = {
        n: torch.rand(batch, *v.shape, dtype=torch.float64)
        for n, v in energy.variables.items()
        if n not in clamp
    }
    return GradientFlow(energy.double(), clamp, state)


def blocks(energy: en.Energy, **clamp: Tensor) -> list[set[str]]:
    return [set(block.names) for block in flow(energy, **clamp).forces.blocks]


def x(size: int = 4) -> Tensor:
    return torch.randn(3, size, dtype=torch.float64)


@pytest.mark.parametrize("hidden", [1, 2, 3, 4])
def test_a_chain_has_even_and_odd_layers(hidden: int) -> None:
    model = en.models.LayeredHopfield([4] * (hidden + 2))
    names = [*(f"h{i + 1}" for i in range(hidden)), "y"]
    assert blocks(model, x=x()) == [set(names[::2]), set(names[1::2])]
    assert blocks(model) == [{"x", *names[1::2]}, set(names[::2])]


def test_a_skip_connection_separates_what_it_couples() -> None:
    model = en.models.LayeredHopfield([4, 4, 4, 4], skips=[("h1", "y")])  # h1 - h2 - y is a triangle
    assert blocks(model, x=x()) == [{"h1"}, {"h2"}, {"y"}]
    model = en.models.LayeredHopfield([4, 4, 4, 4], skips=[("x", "h2")])  # the input's side stays a chain
    assert blocks(model, x=x()) == [{"h1", "y"}, {"h2"}]


def grid(e: Any, **s: Tensor) -> Tensor:
    """Nine vectors on a grid, each coupled to its four neighbours."""
    total = sum(0.5 * v.square().sum(1) for v in s.values())
    for row in range(3):
        for column in range(3):
            for other in ((row + 1, column), (row, column + 1)):
                if max(other) < 3:
                    total = total - 0.1 * (s[f"v{row}{column}"] * s["v{}{}".format(*other)]).sum(1)
    assert isinstance(total, Tensor)
    return total


def test_a_grid_has_the_two_colours_of_a_chessboard() -> None:
    names = [(row, column) for row in range(3) for column in range(3)]
    energy = Functional(grid, **{f"v{r}{c}": en.Real(2) for r, c in names})
    colours = [{f"v{r}{c}" for r, c in names if (r + c) % 2 == parity} for parity in (0, 1)]
    assert blocks(energy) == colours


KINDS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "quadratic": (lambda e, s, t: (1.5 * s.square() - 2 * s * t).sum(1), "exact"),
    "weighted": (lambda e, s, t: (e.scale * s.square() - s * t).sum(1), "exact"),
    "given the other": (lambda e, s, t: (t.square() * s.square() - s).sum(1), "exact"),
    "linear": (lambda e, s, t: (s * t).sum(1), "exact"),
    "concave": (lambda e, s, t: (-s.square() + s * t).sum(1), "exact"),
    "difference": (lambda e, s, t: 0.5 * (s - t).square().sum(1), "exact"),
    "quartic": (lambda e, s, t: (s.pow(4) - s * t).sum(1), "separable"),
    "saturating": (lambda e, s, t: (0.5 * s.square() - s.tanh() * t).sum(1), "separable"),
    "self coupled": (lambda e, s, t: 0.5 * (s @ e.W).square().sum(1) - (s * t).sum(1), "coupled"),
    "normalised": (lambda e, s, t: s.square().sum(1) - torch.logsumexp(s, 1) + t.sum(1), "coupled"),
    "shifted": (lambda e, s, t: (s * s.roll(1, 1)).sum(1) + s.square().sum(1) + t.sum(1), "coupled"),
    "flipped": (lambda e, s, t: (s * s.flip(1)).sum(1) + t.sum(1), "coupled"),
    "squared norm": (lambda e, s, t: s.square().sum(1).square() + t.sum(1), "coupled"),
}  # fmt: skip


def energy_of(kind: str) -> en.Energy:
    generator = torch.Generator().manual_seed(4)
    tensors = {"W": torch.randn(4, 4, generator=generator), "scale": torch.rand(4, generator=generator) + 0.5}
    return Functional(KINDS[kind][0], tensors, s=en.Real(4), t=en.Real(4)).double()


@pytest.mark.parametrize("kind", KINDS)
def test_curvatures_are_the_diagonal_of_the_hessian(kind: str) -> None:
    """And what is called separable has no other entries: by autograd's Hessian, sample by sample."""
    energy = energy_of(kind)
    point = flow(energy, t=x())
    (block,) = point.forces.blocks
    (found,) = [group for group in ("exact", "separable", "coupled") if getattr(block, group)]
    assert found == KINDS[kind][1]
    s = point.start["s"]
    rows = [
        torch.autograd.functional.hessian(
            lambda one, i=i: energy.energy(
                s=one.unsqueeze(0), t=point.conditioned.clamp["t"][i : i + 1]
            ).sum(),
            s[i],
        )
        for i in range(3)
    ]
    hessian = torch.stack(rows)  # type: ignore[arg-type]
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    if found == "coupled":
        assert not torch.allclose(hessian, torch.diag_embed(diagonal), atol=1e-9)
        return
    assert torch.allclose(hessian, torch.diag_embed(diagonal), atol=1e-12)
    assert isinstance(point.forces, TracedForces)
    if found == "exact":
        (exact,) = point.forces.exact(0)
        curvature = exact.value
        assert exact.convex == bool((diagonal > 0).all())
    else:
        (curvature,) = point.forces.separable(0, point.start)
    assert torch.allclose(torch.as_tensor(curvature, dtype=torch.float64).expand(3, 4), diagonal, atol=1e-10)


def test_the_field_of_an_exact_variable_is_its_force_at_zero() -> None:
    energy = energy_of("weighted")
    point = flow(energy, t=x())
    (field,) = point.forces.block(0, point.start)
    assert torch.allclose(field, point.conditioned.clamp["t"])


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_linked_layer_is_exact_in_its_potential(activation: str) -> None:
    model = en.models.LayeredHopfield([4, 4, 2], activation=activation).double()
    point = MirrorFlow(model, {"x": x()})
    assert [(block.exact, block.separable, block.coupled) for block in point.forces.blocks] == [
        (("h1",), (), ()),
        (("y",), (), ()),
    ]
    found = [curvature for i in range(2) for curvature in point.forces.exact(i)]
    assert [(curvature.value, curvature.convex) for curvature in found] == [(1.0, True), (1.0, True)]


def test_without_a_trace_of_its_curvature_a_variable_takes_gradient_steps() -> None:
    """Torch cannot trace the second derivative of abs; the minimum of |s| + s^2 - 3s is 1 all the same."""
    energy = Functional(lambda e, s: (s.abs() + s.square() - 3 * s).sum(1), s=en.Real(4)).double()
    assert flow(energy).forces.blocks[0].coupled == ("s",)
    solution = en.settle(energy, {"s": torch.randn(5, 4, dtype=torch.float64)})
    assert torch.allclose(solution.state["s"], torch.ones(5, 4, dtype=torch.float64))
