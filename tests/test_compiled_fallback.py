"""Where steps cannot be compiled there is one warning, and the same result."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.recorded import record
from energynet.samplers.noise import normal
from energynet.terms import Leak
from helpers.compilations import Log, assert_same, both, logged
from helpers.families import FAMILIES
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

F64 = torch.float64


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Log:
    return logged(monkeypatch)


def bowl() -> en.Energy:
    curvature = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64)
    return Functional(lambda e, s: 0.5 * (e.k * s.square()).sum(1), {"k": curvature}, s=en.Real(4))


def ones(batch: int = 3) -> dict[str, Tensor]:
    return {"s": torch.ones(batch, 4, dtype=F64)}


def caught(run: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return found


def test_an_energy_that_cannot_be_traced(compiled: Log) -> None:
    energy = Functional(
        lambda e, x, s: 0.5 * (s - x).square().sum(1) * (1.0 if x.sum().item() > -1e9 else 0.0),
        x=en.Real(2),
        s=en.Real(2),
    )
    x = torch.tensor([[1.0, -2.0]])

    def run() -> None:
        for _ in range(2):
            found = en.settle(energy, clamp={"x": x}, solver=en.Euler(0.5), compile=True)
            torch.testing.assert_close(found.state["s"], x, atol=1e-5, rtol=0)

    (warning,) = caught(run)
    assert warning.category is en.EagerFallback
    assert "Functional could not be traced" in str(warning.message)
    assert compiled.asked == []


class Walk(en.Sampler):
    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        s, velocity = state["s"], flow.velocity(state)
        moved = s + 0.1 * velocity["s"] + 0.3 * normal(tuple(s.shape), s, generator)
        return {"s": moved}, carry, flow.residual(state, velocity)


@pytest.mark.parametrize("first", [0, 2], ids=["at once", "later"])
def test_a_broken_compiler(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    tried = []

    def broken(function: Any, **options: Any) -> Any:
        def run(*inputs: Tensor) -> Any:
            tried.append(1)
            if len(tried) > first:
                raise RuntimeError("there is no g++ here")
            return function(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", broken)
    energy, found = bowl(), []

    def run() -> None:
        for compile_ in (True, True, False):
            options: dict[str, Any] = {"generator": torch.Generator().manual_seed(1), "compile": compile_}
            found.append(en.settle(energy, ones(), solver=Walk(), max_steps=35, **options))

    (warning,) = caught(run)
    assert warning.category is en.EagerFallback
    assert "Functional is settled by steps that could not be compiled" in str(warning.message)
    assert "RuntimeError: there is no g++ here" in str(warning.message)
    assert warning.filename == __file__
    assert len(tried) == first + 1
    for one in found[:2]:  # also the noise that had been drawn for the block
        assert_same(found[2], one)


def test_a_compiler_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first result is compared with the steps themselves."""

    def wrong(function: Any, **options: Any) -> Any:
        return lambda *inputs: [1.1 * value for value in function(*inputs)]

    monkeypatch.setattr(torch, "compile", wrong)
    energy = bowl()
    with pytest.warns(en.EagerFallback, match="lead elsewhere in 100% of the samples") as warned:
        for _ in range(2):
            both(energy, ones(), solver=en.Euler(0.1), max_steps=10)
    assert len(warned) == 1


class Peeking(en.Solver):
    """Reads a value within its step."""

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        rate = 0.5 if float(velocity["s"].abs().max()) > 1e-3 else 0.25
        return {"s": state["s"] + rate * velocity["s"]}, carry, flow.residual(state, velocity)


class Drawing(en.Sampler):
    """Draws past `samplers.noise`."""

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        noise = torch.randn(state["s"].shape, dtype=F64)
        return {"s": state["s"] + noise}, carry, flow.residual(state, flow.velocity(state))


class Growing(en.Solver):
    """Starts with an empty memory."""

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        return {"s": state["s"] + 0.2 * velocity["s"]}, {"last": state["s"]}, flow.residual(state, velocity)


class Keeping(en.Solver):
    """Has a tensor that nobody can tell when it changes."""

    def __init__(self) -> None:
        kept = torch.full((4,), 0.2, dtype=F64)
        self.rate = lambda: kept

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        new = {"s": state["s"] + self.rate() * velocity["s"]}
        return new, carry, flow.residual(state, velocity)


class Endless(en.Solver):
    """Takes a thousand times as many operators as others."""

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        s = state["s"]
        for _ in range(1600):
            s = s + 1e-4 * velocity["s"]
        return {"s": s}, carry, flow.residual(state, velocity)


@pytest.mark.parametrize(
    ("solver", "reason"),
    [
        (Peeking(), "DataDependent|data-dependent|item"),
        (Drawing(), "draws random numbers of its own"),
        (Growing(), "Growing returns another carry than it takes"),
        (Keeping(), r"a tensor of shape \(4,\) that comes from neither"),
        (Endless(), "a step of Endless takes .* takes minutes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_solver_that_cannot_be_compiled(
    compiled: Log, monkeypatch: pytest.MonkeyPatch, solver: en.Solver, reason: str
) -> None:
    energy, found, tried = bowl(), [], []

    def counted(*args: Any) -> Any:
        tried.append(1)
        return record(*args)

    monkeypatch.setattr("energynet.compiled.record", counted)

    def run(**options: Any) -> None:
        torch.manual_seed(0)
        found.append(en.settle(energy, ones(), solver=solver, max_steps=7, **options))

    with pytest.warns(en.EagerFallback, match=reason) as warned:
        run(compile=True)
        run(compile=True)
    assert len(warned) == len(tried) == 1
    run()
    assert_same(found[2], found[0])
    assert_same(found[2], found[1])
    assert compiled.asked == []


def test_a_step_that_depends_on_the_size_of_the_batch_is_compiled_for_some(compiled: Log) -> None:
    class Sized(en.Solver):
        def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
            velocity = flow.velocity(state)
            rate = 1.0 / (2 + len(state["s"]))
            return {"s": state["s"] + rate * velocity["s"]}, carry, flow.residual(state, velocity)

    energy = bowl()
    with pytest.warns(en.EagerFallback, match=r"depend on the size of the batch.*3 sizes") as warned:
        for batch in (2, 3, 4, 5, 6, 3):
            both(energy, ones(batch), solver=Sized(), max_steps=5)
    assert len(warned) == 1
    assert len(compiled) == 3


class Tables(en.Solver):
    """Reads a table of its own, and a literal."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        rate = self.table * torch.tensor(0.5, dtype=F64)
        return {"s": state["s"] + rate * velocity["s"]}, carry, flow.residual(state, velocity)


def test_a_table_of_the_solver_may_change(compiled: Log) -> None:
    table = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    energy, solver = bowl(), Tables(table)
    first = both(energy, ones(), solver=solver, max_steps=5)
    table.mul_(0.5)
    second = both(energy, ones(), solver=solver, max_steps=5)
    assert not torch.allclose(first.state["s"], second.state["s"])


class Magnitude(en.ProximalTerm):
    """E = strength |s|, with a strength that is learnt."""

    def __init__(self, **variable: Any) -> None:
        super().__init__(**variable)
        (self.variable,) = variable
        self.link = None
        self.strength = nn.Parameter(torch.tensor(0.5, dtype=F64))

    def energy(self, **state: Tensor) -> Tensor:
        return self.strength * state[self.variable].abs().sum(1)

    def slope(self, value: Tensor) -> Tensor:
        return self.strength * value.sign()

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value.sign() * (value.abs() - self.strength * step).clamp(min=0.0)


def test_a_parameter_that_a_step_reads_from_a_term_may_change(compiled: Log) -> None:
    """|s|^2 / 2 + k |s| - f.s is least at the soft threshold of f by k."""
    term = Magnitude(s=en.Real(3))
    field = Functional(lambda e, s, f: -(s * f).sum(1), s=en.Real(3), f=en.Real(3))
    energy = Leak(s=en.Real(3)) + term + field
    f = torch.tensor([[3.0, -2.0, 0.4]], dtype=F64)
    for strength in (0.5, 1.0):
        term.strength = nn.Parameter(torch.tensor(strength, dtype=F64))
        found = both(energy, clamp={"f": f}, solver=en.Proximal())
        torch.testing.assert_close(
            found.state["s"], f.sign() * (f.abs() - strength).clamp(min=0), atol=1e-9, rtol=0
        )
    assert len(compiled) == 1


def test_couplings_that_are_looked_at_are_not_compiled(compiled: Log) -> None:
    """A Boltzmann machine's units follow each other in an order that its weights decide."""
    problem = FAMILIES["Ising spins"]()
    start = {"s": torch.ones(3, 5, dtype=F64)}
    with pytest.warns(en.EagerFallback, match="comes from neither") as warned:
        for seed in (0, 1):
            both(problem.energy, start, solver=en.Gibbs(), max_steps=12, seed=seed)
    assert len(warned) == 1


def test_gradients_through_steps_are_not_cut(compiled: Log) -> None:
    energy = bowl()
    flow = en.Euler(0.1).flow(energy, {}, ones(), differentiable=True)
    with pytest.warns(en.EagerFallback, match="no_grad"):
        found = en.settle.__globals__["relax"](flow, solver=en.Euler(0.1), max_steps=5, compile=True)
    assert found.state["s"].requires_grad
