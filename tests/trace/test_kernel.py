"""Partial evaluation: what is known is computed once, and selections of samples inherit it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.energy import forces
from energynet.trace import Environment, Kernel, Program, Spec, parameters_of
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

PRODUCT = re.compile(r"\b(?:addmm_?|mm|bmm|mv|matmul|convolution)\b")
SHAPES = {"x": (4,), "h": (5,), "y": (3,)}


def chain(e: en.Energy, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Products: x @ V for the force on h; h @ U for that on y; y @ U.T for that on h."""
    leak = 0.5 * h.square().sum(1) + 0.5 * y.square().sum(1)
    return leak - (h * (x @ e.V)).sum(1) - (y * (h.tanh() @ e.U)).sum(1)


def gram(e: en.Energy, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """|x - h A|^2 / 2: with x given, the force needs A A' and A x' once, and h (A A') at every step."""
    return 0.5 * (x - h @ e.V.T).square().sum(1) + 0.5 * y.square().sum(1)


def build(function: Callable[..., Tensor]) -> en.Energy:
    torch.manual_seed(0)
    tensors = {"V": torch.randn(4, 5), "U": torch.randn(5, 3), "net": nn.Conv2d(1, 2, 2)}
    variables = {name: en.Real(*shape) for name, shape in SHAPES.items()}
    return Functional(function, tensors, **variables).double()


def kernel_of(energy: en.Energy, free: list[str], outputs: list[str] | None = None) -> Kernel:
    inputs = {n: Spec(SHAPES[n], torch.float64, torch.device("cpu")) for n in SHAPES}
    outputs = [f"force {name}" for name in free] if outputs is None else outputs
    return Program(energy, inputs).kernel("key", forces(energy, free), outputs, free)


def states(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(batch, *s, dtype=torch.float64, generator=generator) for n, s in SHAPES.items()}


def operators(kernel: Kernel) -> str:
    """The source with the names of operators in the place of what stands for them."""
    scope = kernel.run.__globals__  # type: ignore[attr-defined]
    return re.sub(r"\bk\d+\b", lambda found: str(scope[found.group()]), kernel.source)


@pytest.mark.parametrize(
    ("free", "products"), [(["h", "y"], 2), (["y"], 0), (["h"], 0), (["x", "h", "y"], 4)], ids=str
)
def test_products_with_clamped_variables_are_not_in_the_code(free: list[str], products: int) -> None:
    assert len(PRODUCT.findall(operators(kernel_of(build(chain), free)))) == products


def test_a_product_that_two_forces_read_is_computed_once() -> None:
    """The error of a prediction is in the force on both of its ends: h @ U once, and the error @ U.T."""

    def prediction(e: en.Energy, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        error = y - h.tanh() @ e.U
        return 0.5 * (error.square().sum(1) + (h - x @ e.V).square().sum(1) + y.square().sum(1))

    kernel = kernel_of(build(prediction), ["h", "y"])
    assert len(PRODUCT.findall(operators(kernel))) == 2


def test_the_energy_is_not_computed_with_the_force() -> None:
    """A scalar's value is dead once its gradient is taken: tanh once, and no sums over units."""
    source = operators(kernel_of(build(chain), ["h", "y"]))
    assert source.count("tanh(") == 1
    assert "sum" not in source
    assert "ones" not in source


def test_a_convolution_of_a_clamped_image_is_hoisted() -> None:
    def readout(e: en.Energy, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return -(e.net(x.view(-1, 1, 2, 2)).flatten(1).sum(1, keepdim=True) * h.tanh()).sum(1) + y.sum(1)

    assert "convolution" not in operators(kernel_of(build(readout), ["h"]))
    assert "convolution" in operators(kernel_of(build(readout), ["x", "h"]))


def test_one_output_alone_costs_only_itself() -> None:
    kernel = kernel_of(build(chain), ["h", "y"], ["force y"])
    assert len(PRODUCT.findall(operators(kernel))) == 1


@pytest.mark.parametrize("function", [chain, gram], ids=["chain", "gram"])
@pytest.mark.parametrize("free", [["h"], ["h", "y"], ["x", "h", "y"]], ids="-".join)
def test_taking_samples_equals_computing_for_them(function: Callable[..., Tensor], free: list[str]) -> None:
    energy, state = build(function), states(6)
    kernel = kernel_of(energy, free, [f"force {name}" for name in free] + ["energy"])
    known = {name: value for name, value in state.items() if name not in free}
    whole = Environment({**parameters_of(energy), **known}, 6)
    kernel.bind(whole)
    for index in ([3], [0, 5, 2], [1, 1, 1, 4, 4, 0, 2, 3], []):
        rows = torch.tensor(index, dtype=torch.int64)
        taken = {name: value[rows] for name, value in state.items()}
        once = Environment({**parameters_of(energy), **{name: taken[name] for name in known}}, len(index))
        arguments = [taken[name] for name in free]
        found = kernel.bind(whole.take(rows))(*arguments)
        expected = kernel.bind(once)(*arguments)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, rtol=1e-13, atol=1e-13)


def test_taking_from_what_was_taken() -> None:
    energy, state = build(chain), states(6)
    kernel = kernel_of(energy, ["h", "y"])
    whole = Environment({**parameters_of(energy), "x": state["x"]}, 6)
    first, second = torch.tensor([5, 3, 1, 0]), torch.tensor([2, 0])
    rows = first[second]
    found = kernel.bind(whole.take(first).take(second))(state["h"][rows], state["y"][rows])
    expected = kernel.bind(whole)(state["h"], state["y"])
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other[rows], rtol=1e-13)


def test_samples_that_share_a_product_among_themselves_are_told_apart() -> None:
    """A value with two batch dimensions cannot be selected by one: it is computed again."""

    def pairs(e: en.Energy, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return ((x @ x.T) * (h @ h.T)).diagonal() + y.sum(1)

    energy, state = build(pairs), states(4)
    kernel = kernel_of(energy, ["h"])
    rows = torch.tensor([2, 2, 0])
    whole = Environment({**parameters_of(energy), "x": state["x"], "y": state["y"]}, 4)
    kernel.bind(whole)
    (found,) = kernel.bind(whole.take(rows))(state["h"][rows])
    expected = -2 * state["x"][rows].square().sum(1, keepdim=True) * state["h"][rows]
    assert torch.allclose(found, expected)


def test_forces_do_not_alias_what_they_are_given() -> None:
    """A solver may keep a force while it changes the state in place."""
    energy, state = build(lambda e, x, h, y: (h * x[:, :1]).sum(1) + (y.square()).sum(1)), states(3)
    free = ["h", "y"]
    held = energy.condition(x=state["x"])
    for value in held.force({name: state[name] for name in free}, free).values():
        assert all(value.data_ptr() != other.data_ptr() for other in state.values())
