"""Traces are kept while they are right, and only then."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import energynet as en
from energynet.terms import Field, Leak

if TYPE_CHECKING:
    from collections.abc import Callable


def test_sums_that_differ_only_in_nesting_settle_alike() -> None:
    leak, first, second = Leak(s=en.Real(3)), Field(s=en.Real(3)), Field(s=en.Real(3))
    with torch.no_grad():
        first.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        second.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    expected = (first.bias + second.bias).detach().expand(2, 3)
    start = {"s": torch.zeros(2, 3)}
    for energy in ((leak + first) + second, leak + (first + second), 1.0 * (leak + first) + second):
        assert torch.allclose(en.settle(energy, start).state["s"], expected)


class Scale(en.Energy):
    """E = k |s|^2 / 2 - s.1 with k from an attribute of the caller's choice; stationary at s = 1 / k."""

    def __init__(self, read: Callable[[Scale], float]) -> None:
        super().__init__(s=en.Real(3))
        self.read = read

    def energy(self, s: Tensor) -> Tensor:
        return 0.5 * self.read(self) * s.square().sum(1) - s.sum(1)


def force_at_one(energy: en.Energy) -> float:
    """1 - k."""
    force = energy.condition().force({"s": torch.ones(2, 3)}, ["s"])["s"]
    assert torch.allclose(force, force[0, 0])
    return float(force[0, 0])


class Settings:
    k = 2.0

    def __init__(self) -> None:
        self.k = 2.0


@pytest.mark.parametrize("kind", ["number", "list", "dict", "object", "nested", "buffer", "tensor"])
def test_a_value_that_changes_after_a_trace_is_noticed(kind: str) -> None:
    readers: dict[str, Callable[[Any], float]] = {
        "number": lambda e: e.k,
        "list": lambda e: e.k[0],
        "dict": lambda e: e.k["k"],
        "object": lambda e: e.k.k,
        "nested": lambda e: e.k["a"][1].k,
        "buffer": lambda e: e.k,
        "tensor": lambda e: e.k,
    }
    energy: Any = Scale(readers[kind])
    settings = Settings()
    if kind == "buffer":
        energy.register_buffer("k", torch.tensor(2.0))
    else:
        energy.k = {
            "number": 2.0,
            "list": [2.0],
            "dict": {"k": 2.0},
            "object": settings,
            "nested": {"a": [0, settings]},
            "tensor": torch.tensor(2.0),
        }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", en.EagerFallback)  # a tensor that is no buffer cannot be traced
        assert force_at_one(energy) == -1.0
        if kind == "number":
            energy.k = 5.0
        elif kind == "list":
            energy.k[0] = 5.0
        elif kind == "dict":
            energy.k["k"] = 5.0
        elif kind in ("object", "nested"):
            settings.k = 5.0
        else:
            energy.k.fill_(5.0)
        assert force_at_one(energy) == -4.0


def test_attributes_that_follow_each_other_at_one_address_are_told_apart() -> None:
    energy: Any = Scale(lambda e: e.k[0])
    for number in (2.0, 3.0, 4.0, 5.0, 6.0):
        energy.k = (number,)
        assert force_at_one(energy) == 1 - number


def test_train_and_eval_mode_have_their_own_traces() -> None:
    energy = Scale(lambda e: 2.0 if e.training else 4.0)
    assert force_at_one(energy) == -1.0
    energy.eval()
    assert force_at_one(energy) == -3.0


class Branching(en.Energy):
    """E = |s - w x|^2 / 2, with a branch on a value that no trace can follow."""

    def __init__(self) -> None:
        super().__init__(x=en.Real(2), s=en.Real(2))
        self.w = nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def energy(self, x: Tensor, s: Tensor) -> Tensor:
        factor = 1.0 if x.sum().item() > -1e9 else 0.0
        return 0.5 * factor * (s - self.w * x).square().sum(1)


def test_an_energy_that_cannot_be_traced_is_settled_by_autograd_with_one_warning() -> None:
    energy, x = Branching(), torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            solution = en.settle(energy, clamp={"x": x})
            assert torch.allclose(solution.state["s"], 3 * x, atol=1e-4)
        rule = en.EquilibriumPropagation(energy, en.SquaredError("s"), beta=0.01)
        for _ in range(2):
            energy.zero_grad()
            rule(x=x, target=torch.zeros(2, 2)).backward()
    (warning,) = caught
    assert warning.category is en.EagerFallback
    assert "Branching could not be traced" in str(warning.message)
    assert energy.w.grad is not None
    assert torch.allclose(energy.w.grad, 3 * x.square().sum() / 2, rtol=1e-2)  # d/dw of mean |w x|^2 / 2


def test_a_failed_trace_is_not_tried_again() -> None:
    class Counting(Branching):
        def energy(self, x: Tensor, s: Tensor) -> Tensor:
            if isinstance(x, FakeTensor):
                attempts.append(1)
            return super().energy(x, s)

    attempts: list[int] = []
    energy = Counting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", en.EagerFallback)
        for _ in range(3):
            energy.condition(x=torch.ones(1, 2)).force({"s": torch.ones(1, 2)}, ["s"])
    assert len(attempts) == 1


class Untraceable(en.Energy):
    """A field on one layer, behind a branch on a value."""

    def __init__(self, y: en.Variable) -> None:
        super().__init__(y=y)

    def energy(self, y: Tensor) -> Tensor:
        return -y.sum(1) if y.sum().item() > -1e9 else y.sum(1)


@pytest.mark.filterwarnings("ignore::energynet.EagerFallback")
@pytest.mark.parametrize("scale", [1.0, 600.0])
def test_saturated_units_settle_without_a_trace_too(scale: float) -> None:
    """Potentials of hundreds are far beyond what the inverse of the sigmoid can give back."""
    torch.manual_seed(0)
    model = en.models.LayeredHopfield([3, 4, 2], "sigmoid").double()
    x = scale * torch.rand(5, 3, dtype=torch.float64)
    field = Field(y=model.variables["y"]).double()
    torch.nn.init.ones_(field.bias)
    options: dict[str, Any] = {"clamp": {"x": x}, "solver": en.Euler(dt=0.2), "throw": True}
    eager = en.settle(model + Untraceable(model.variables["y"]), **options)
    traced = en.settle(model + field, **options)
    for name in ("h1", "y"):
        assert torch.allclose(eager.point[name], traced.point[name], atol=1e-6)
