"""Terms against their formulas, for variables of any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import energynet as en
from energynet.terms import Bilinear, Field, Leak
from helpers.functional import autograd_force, traced_force

F64 = torch.float64
SHAPES = [(), (3,), (2, 3), (1, 2, 2)]


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(4, *shape, dtype=F64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("target", SHAPES, ids=str)
@pytest.mark.parametrize("source", SHAPES, ids=str)
def test_bilinear_is_minus_target_weight_source(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    term = Bilinear("a", "b", a=en.Real(*source), b=en.Unit(*target)).double()
    state = {"a": draw(*source), "b": draw(*target)}
    rows = {name: value.reshape(4, -1) for name, value in state.items()}
    assert term.weight.shape == (rows["b"].shape[1], rows["a"].shape[1])
    expected = -torch.einsum("bi,ij,bj->b", rows["b"], term.weight, rows["a"])
    assert torch.allclose(term(state), expected)
    force = traced_force(term, state, ["a", "b"])
    assert torch.allclose(force["a"].reshape(4, -1), rows["b"] @ term.weight)
    assert torch.allclose(force["b"].reshape(4, -1), rows["a"] @ term.weight.T)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_field_is_minus_the_product_with_the_bias(shape: tuple[int, ...]) -> None:
    term = Field(s=en.Real(*shape)).double()
    assert not term.bias.any()
    with torch.no_grad():
        term.bias.copy_(draw(*shape)[0])
    s = draw(*shape)
    expected = -torch.stack([(one * term.bias).sum() for one in s])
    assert torch.allclose(term({"s": s}), expected)
    assert torch.allclose(traced_force(term, {"s": s}, ["s"])["s"], term.bias.detach().expand_as(s))


@pytest.mark.parametrize("link", [None, en.Sigmoid(), en.Tanh()], ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_leak_pulls_by_the_inverse_of_the_link(shape: tuple[int, ...], link: Any) -> None:
    variable = en.Unit(*shape, link=link) if isinstance(link, en.Sigmoid) else en.Real(*shape, link=link)
    term, s = Leak(s=variable), 0.9 * draw(*shape) + 0.01
    expected = {None: s, en.Sigmoid(): torch.log(s / (1 - s)), en.Tanh(): torch.atanh(s)}[link]
    for force in (autograd_force(term, {"s": s}, ["s"]), traced_force(term, {"s": s}, ["s"])):
        shift = force["s"] + expected  # an integral may differ by a linear function, here by none
        assert float(shift.abs().max()) < 1e-12
    if link is None:
        assert torch.allclose(term({"s": s}), 0.5 * s.reshape(4, -1).square().sum(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_unit_under_a_field_settles_at_its_activation(shape: tuple[int, ...]) -> None:
    for variable, activation in (
        (en.Unit(*shape), lambda u: u.clamp(0, 1)),
        (en.Unit(*shape, link=en.Sigmoid()), torch.sigmoid),
        (en.NonNegative(*shape), torch.relu),
        (en.Interval(*shape, low=-1, high=1, link=en.Tanh()), torch.tanh),
    ):
        energy = (Leak(s=variable) + Bilinear("x", "s", x=en.Real(2), s=variable)).double()
        x = 3 * torch.randn(5, 2, dtype=F64)
        weight = next(energy.parameters()).detach()
        found = en.settle(energy, clamp={"x": x}, throw=True).state["s"]
        assert torch.allclose(found.reshape(5, -1), activation(x @ weight.T), atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bilinear("a", "a", a=en.Real(2)),
        lambda: Bilinear("a", "b", a=en.Real(2)),
        lambda: Bilinear("a", "b", a=en.Real(2), c=en.Real(2)),
        Field,
        lambda: Field(a=en.Real(2), b=en.Real(2)),
        lambda: Leak(a=en.Real(2), b=en.Real(2)),
        lambda: Leak(s=en.Bit(2)),  # type: ignore[arg-type]
    ],
    ids=["self", "missing", "other", "no field", "two fields", "two leaks", "discrete"],
)
def test_bad_declarations_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Bilinear|Field|Leak"):
        make()
