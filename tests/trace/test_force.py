"""Traced forces and energies against plain autograd, for energies written in many styles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

import energynet as en
from helpers.functional import Functional, autograd_force

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.T


def parametrized() -> nn.Module:
    return parametrize.register_parametrization(nn.Linear(4, 4, bias=False), "weight", Symmetric())


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def in_place(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    value = s * x
    value += 1
    value.mul_(2).tanh_()
    return value.square().sum(1)


def piecewise(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    inner = torch.where(s > x, s.square(), s * x)
    return inner.sum(1) + s.clamp(-0.5, 0.5).sum(1) + functional.relu(s - x).square().sum(1) + s.abs().sum(1)


def reshaped(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    square = s.view(-1, 2, 2)
    return (square @ square.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(1) + (
        square.permute(0, 2, 1).reshape(-1, 4) * x
    ).sum(1)


def constants(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    return (s * torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=s.dtype)).tanh().sum(1) + s @ torch.ones_like(x[0])


def stacked(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    both = torch.cat([s, x], 1)
    left, right = both.chunk(2, 1)
    return torch.stack([left * right, s.roll(1, 1)], 1).square().sum((1, 2))


def dotted(e: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    return torch.bmm(s.unsqueeze(1), x.unsqueeze(2)).flatten() + (s @ e.W @ s.unsqueeze(2)).flatten(1)[:, 0]


STYLES: dict[str, Callable[..., Tensor]] = {
    "einsum": lambda e, x, s: torch.einsum("bi,ij,bj->b", s, e.W, x) + torch.einsum("bi,bi->b", s, s),
    "matmul": lambda e, x, s: (s.tanh() * (x @ e.W)).sum(-1) + ((s @ e.W.T).sigmoid() @ e.W).sum(1),
    "linear": lambda e, x, s: functional.mse_loss(e.layer(x), s, reduction="none").sum(1),
    "sequential": lambda e, x, s: (e.tied(s) - x).square().sum(1),
    "parametrized": lambda e, x, s: -0.5 * (s * e.symmetric(s)).sum(1) + s.pow(4).sum(1),
    "convolution": lambda e, x, s: e.conv(s.view(-1, 1, 2, 2)).tanh().flatten(1).sum(1) * x[:, 0],
    "logsumexp": lambda e, x, s: 0.5 * s.square().sum(1) - torch.logsumexp(s @ e.W, 1),
    "softmax": lambda e, x, s: (torch.softmax(s, 1) * x).sum(1) + functional.log_softmax(s, 1)[:, 0],
    "powers": lambda e, x, s: (s**2 + s**3 - 2**s + (s.square() + 1) ** 0.5 + s**1 + s**0).sum(1),
    "division": lambda e, x, s: (s.square() / 3 + s / (1 + x.square()) + 1 / (1 + s.square()) - 3 / (2 + s.cos())).sum(1),
    "norms": lambda e, x, s: (s - x).norm(dim=1) + functional.cosine_similarity(s, x, dim=1),
    "layer norm": lambda e, x, s: (functional.layer_norm(s, (4,)) * x).sum(1),
    "gelu": lambda e, x, s: (functional.gelu(s) + functional.softplus(s) + functional.elu(s)).sum(1),
    "minimum": lambda e, x, s: torch.minimum(s, x).sum(1) + s.max(1).values + s.cumsum(1).sum(1),
    "indexing": lambda e, x, s: s[:, [0, 2, 2]].square().sum(1) + s[:, 1:].prod(1) + s[..., -1] * x[..., 0],
    "no free variable": lambda e, x, s: x.square().sum(1) + 0 * s.sum(1),
    "linear only": lambda e, x, s: s.sum(1) - 3.0,
    "buffer": lambda e, x, s: ((s - e.mask * x).square() * e.mask).sum(1),
    "in place": in_place,
    "piecewise": piecewise,
    "reshaped": reshaped,
    "constants": constants,
    "stacked": stacked,
    "dotted": dotted,
}  # fmt: skip


def build(function: Callable[..., Tensor], dtype: torch.dtype) -> en.Energy:
    torch.manual_seed(0)
    tensors = {
        "W": torch.randn(4, 4), "layer": nn.Linear(4, 4), "conv": nn.Conv2d(1, 3, 2, padding=1),
        "tied": tied(), "symmetric": parametrized(),
    }  # fmt: skip
    energy = Functional(function, tensors, x=en.Real(4), s=en.Real(4))
    energy.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))
    return energy.to(dtype)


def near(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE[expected.dtype] * (1 + scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("style", STYLES)
def test_one_trace_gives_force_and_energy_of_every_batch(style: str, dtype: torch.dtype) -> None:
    energy = build(STYLES[style], dtype)
    traces = 0
    for size in (3, 1, 7, 20):
        state = {n: torch.randn(size, 4, dtype=dtype) for n in ("x", "s")}
        held = energy.condition(x=state["x"])
        near(held.force({"s": state["s"]}, ["s"])["s"], autograd_force(energy, state, ["s"])["s"])
        solution = en.settle(held, {"s": state["s"]}, solver=en.Euler(1e-3), max_steps=0)
        near(solution.energy, energy.energy(**state).detach())
        programs = energy.__dict__["_programs"]
        assert len(programs) == (traces or len(programs))
        traces = len(programs)
    both = autograd_force(energy, state, ["x", "s"])
    for name, value in energy.condition().force(state, ["x", "s"]).items():
        near(value, both[name])


def test_buffers_and_parameters_may_change_after_a_trace() -> None:
    energy = build(STYLES["buffer"], torch.float64)
    state = {n: torch.randn(3, 4, dtype=torch.float64) for n in ("x", "s")}
    for mask in (torch.zeros(4), torch.tensor([0.5, 2.0, -1.0, 0.0])):
        energy.mask.copy_(mask)  # type: ignore[union-attr, operator]
        found = energy.condition(x=state["x"]).force({"s": state["s"]}, ["s"])["s"]
        near(found, autograd_force(energy, state, ["s"])["s"])
        assert found.abs().sum() == 0 or mask.any()


UNARY = {
    "neg": lambda a: -a, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "square": torch.square, "sin": torch.sin,
    "relu": torch.relu, "half": lambda a: a / 2, "shift": lambda a: 1.5 - a, "softmax": lambda a: a.softmax(1),
    "flip": lambda a: a.flip(1), "scale": lambda a: -3 * a, "cube": lambda a: a.tanh() ** 3,
    "clamp": lambda a: a.clamp(-0.7, 0.9), "reciprocal": lambda a: 1 / (2 + a.square()),
    "turn": lambda a: a.view(-1, 2, 2).transpose(1, 2).reshape(-1, 4),
    "centre": lambda a: a - a.mean(1, keepdim=True), "logsumexp": lambda a: a.logsumexp(1, keepdim=True) + a,
}  # fmt: skip
BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b.square()), "where": lambda a, b: torch.where(a > b, a, b.tanh()),
    "maximum": torch.maximum, "alpha": lambda a, b: torch.add(a, b, alpha=-2),
    "row": lambda a, b: a * (b * a).sum(1, keepdim=True),
}  # fmt: skip
expressions = st.recursive(
    st.sampled_from(["x", "s", "t", "one", "bias"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([*UNARY, "W", "V"]), inner),
        st.tuples(st.sampled_from([*BINARY]), inner, inner),
    ),
    max_leaves=6,
)


def evaluate(tree: object, e: en.Energy, state: dict[str, Tensor]) -> Tensor:
    if isinstance(tree, str):
        if tree == "one":
            return torch.ones_like(state["s"])
        return e.bias.expand_as(state["s"]) if tree == "bias" else state[tree]
    assert isinstance(tree, tuple)
    name, *inner = tree
    values = [evaluate(item, e, state) for item in inner]
    if name in ("W", "V"):
        return values[0] @ (e.W if name == "W" else e.W.T)
    return (UNARY[name] if len(values) == 1 else BINARY[name])(*values)


@settings(max_examples=40)
@given(expressions, st.sampled_from([1, 2, 5, 7]))
def test_any_expression_has_the_force_of_autograd(tree: object, size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {"W": torch.randn(4, 4, generator=generator), "bias": torch.randn(4, generator=generator)}
    energy = Functional(
        lambda e, **state: (evaluate(tree, e, state) + 0.1 * state["s"].square()).sum(1), tensors,
        x=en.Real(4), s=en.Real(4), t=en.Real(4),
    ).double()  # fmt: skip
    state = {n: torch.randn(size, 4, dtype=torch.float64, generator=generator) for n in ("x", "s", "t")}
    expected = autograd_force(energy, state, ["s", "t"])
    held = energy.condition(x=state["x"])
    rest = {n: state[n] for n in ("s", "t")}
    for name, value in held.force(rest, ["s", "t"]).items():
        near(value, expected[name])
    near(en.settle(held, rest, solver=en.Euler(0.1), max_steps=0).energy, energy.energy(**state).detach())
