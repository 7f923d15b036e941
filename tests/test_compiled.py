"""Compiled steps are the plain ones: same numbers, nothing compiled twice, and a way out where it cannot be.

All but one test hand the recorded graph to torch's front end and run it as it is, which leaves out the
compiler of machine code and most of the time.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.samplers.noise import normal, uniform
from energynet.terms import Leak
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

F64 = torch.float64


class Tiny(en.Energy):
    """An energy as a user writes it: one method; h and y have no closed forms, and y has a box."""

    def __init__(self) -> None:
        super().__init__(x=en.Real(3), h=en.Real(4, tau=2.0), y=en.Unit(2))
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def energy(self, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        leak = 0.5 * h.square().sum(-1) + 0.5 * y.square().sum(-1)
        return leak - (h.tanh() * self.first(x)).sum(-1) - (y * self.second(h.tanh())).sum(-1)


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny().double()


def data(batch: int = 6, size: int = 3) -> Tensor:
    """Inputs of very different sizes, so that samples settle at different times."""
    generator = torch.Generator().manual_seed(batch)
    return (
        torch.randn(batch, size, dtype=F64, generator=generator)
        * torch.logspace(-2, 1, batch, dtype=F64)[:, None]
    )


class Log:
    """What torch was asked to compile, and what it has compiled."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.graphs: list[torch.fx.GraphModule] = []

    def __len__(self) -> int:
        return len(self.graphs)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Log:
    """The log of compilations, by a back end that runs graphs as they are."""
    log, original = Log(), torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        log.graphs.append(graph)
        return graph.forward

    def compile_(function: Any, **options: Any) -> Any:
        log.asked.append(options)
        return original(function, **{**options, "backend": backend})

    monkeypatch.setattr(torch, "compile", compile_)
    return log


def assert_same(one: en.Solution, other: en.Solution) -> None:
    assert torch.equal(one.steps, other.steps)
    assert torch.equal(one.status, other.status)
    for name, value in one.state.items():
        torch.testing.assert_close(other.state[name], value, rtol=1e-9, atol=1e-9)


def both(energy: en.Energy, *state: Any, **options: Any) -> en.Solution:
    """Settle with and without compiling, which must agree; the compiled solution."""
    plain = en.settle(energy, *state, **options)
    found = en.settle(energy, *state, **options, compile=True)
    assert_same(plain, found)
    return found


SOLVERS: dict[str, en.Solver] = {
    "euler": en.Euler(0.3),
    "block": en.BlockDescent(),
    "momentum": en.BlockDescent(momentum=True),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_compiled_steps_are_the_plain_ones(compiled: Log, solver: str) -> None:
    """On an energy that only writes `energy`, for batches that shrink as samples settle."""
    model = tiny()
    found = both(model, clamp={"x": data()}, solver=SOLVERS[solver])
    assert len(set(found.steps.tolist())) > 1
    for batch in (1, 11):
        both(model, clamp={"x": data(batch)}, solver=SOLVERS[solver])
    assert len(compiled) == 1
    assert compiled.asked == [{"fullgraph": True}]


def test_with_the_compiler_of_machine_code() -> None:
    """The only test that pays for inductor."""
    before = copy.deepcopy(torch._dynamo.config.get_config_copy())  # type: ignore[attr-defined]
    model = tiny()
    found = both(model, clamp={"x": data()}, solver=en.BlockDescent())
    assert len(set(found.steps.tolist())) > 1
    assert torch._dynamo.config.get_config_copy() == before  # type: ignore[attr-defined]
    assert not torch._dynamo.utils.counters["graph_break"]


def test_potentials_partial_clamps_and_trajectories(compiled: Log) -> None:
    model = en.models.LayeredHopfield([3, 4, 2], "sigmoid").double()
    target = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"solver": en.Euler(0.3), "record": "state", "record_every": 3}
    for column in (0, 1):  # which entries are held is a value
        mask = torch.arange(2) == column
        clamp = {"x": data(), "y": en.Partial(target, mask)}
        plain, found = (en.settle(model, clamp=clamp, **options, compile=c) for c in (False, True))
        assert_same(plain, found)
        assert torch.equal(found.state["y"][:, column], target[:, column])
        for name, values in plain.trajectory.items():
            torch.testing.assert_close(found.trajectory[name], values, rtol=1e-9, atol=1e-9)
    assert len(compiled) == 1


def test_values_change_without_compiling_again(compiled: Log) -> None:
    model = tiny()
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    for seed in range(4):
        x = data().roll(seed, 0) + seed
        target = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))
        state = {"h": torch.full((6, 4), float(seed), dtype=F64)}
        # a solver of equal settings is the same solver
        both(model, state, clamp={"x": x}, solver=en.BlockDescent(momentum=True))
        model.zero_grad()
        en.EquilibriumPropagation(model, en.SquaredError("y"), 0.01)(x=x, target=target).backward()
        optimiser.step()
        if seed == 2:
            model.load_state_dict(tiny(7).state_dict())
    assert len(compiled) == 1


def test_what_is_not_a_value_is_compiled_anew(compiled: Log) -> None:
    model, x = tiny(), data()
    for number, solver in enumerate((en.Euler(0.3), en.Euler(0.2), en.Heun(0.3)), 1):
        both(model, clamp={"x": x}, solver=solver, max_steps=40)
        assert len(compiled) == number
    y = torch.full((6, 2), 0.5, dtype=F64)
    both(model, clamp={"x": x, "y": y}, solver=en.Euler(0.3), max_steps=40)
    assert len(compiled) == 4
    both(copy.deepcopy(model).float(), clamp={"x": x.float()}, solver=en.Euler(0.3), max_steps=5)
    assert len(compiled) == 5


def test_an_energy_with_another_shape_is_right(compiled: Log) -> None:
    """A variable without a declared shape takes that of its data: E = |s|^2 / 2 - s.f, minimal at s = f."""
    f = data(4, 3)
    energy = Leak(s=en.Real(3)) + Functional(lambda e, s, f: -(s * f).sum(1), s=en.Real(3), f=en.Real(3))
    other = Leak(s=en.Real(5)) + Functional(lambda e, s, f: -(s * f).sum(1), s=en.Real(5), f=en.Real(5))
    for one, field in ((energy, f), (other, data(4, 5))):
        found = en.settle(one, clamp={"f": field}, solver=en.Euler(0.5), compile=True)
        torch.testing.assert_close(found.state["s"], field, atol=1e-8, rtol=0)
    assert len(compiled) == 2


def test_many_energies_share_no_limit(compiled: Log) -> None:
    """Torch stops compiling a function after 8 times; each block is a function of its own."""
    for seed in range(10):
        both(tiny(seed), clamp={"x": data()}, solver=en.Euler(0.3), max_steps=5)
    assert len(compiled) == 10


class Curved(en.Energy):
    """E = k s^2 / 2 - f s with a curvature k per unit that may be of either sign, in a box."""

    def __init__(self, k: Tensor) -> None:
        super().__init__(f=en.Real(2), s=en.Unit(2))
        self.k = nn.Parameter(k)

    def energy(self, f: Tensor, s: Tensor) -> Tensor:
        return (0.5 * self.k * s.square() - f * s).sum(1)


def test_a_curvature_that_changes_its_sign_is_another_block(compiled: Log) -> None:
    """Which formula gives the minimum depends on the sign, so it is no value like others."""
    energy = Curved(torch.tensor([2.0, 4.0], dtype=F64))
    f = torch.tensor([[1.0, 1.0], [-1.0, 0.4]], dtype=F64)
    convex = [[0.5, 0.25], [0.0, 0.1]]  # f / k, clipped
    concave = [[1.0, 1.0], [0.0, 0.0]]  # E(1) - E(0) = k / 2 - f, here -3/2 and -2, then 1/2 and -1/5 + ...
    for k, expected in (([2.0, 4.0], convex), ([-1.0, -1.0], None), ([2.0, 4.0], convex)):
        with torch.no_grad():
            energy.k.copy_(torch.tensor(k, dtype=F64))
        found = both(energy, clamp={"f": f})
        if expected is None:
            gain = f - torch.tensor(k, dtype=F64) / 2
            assert torch.equal(found.state["s"], (gain > 0).double())
        else:
            torch.testing.assert_close(found.state["s"], torch.tensor(expected, dtype=F64))
    assert len(compiled) == 2
    del concave


class Walk(en.Sampler):
    """Noise of both kinds, a carry of counts, and a temperature."""

    def init(self, flow: Any, state: Any) -> Any:
        return {"kept": torch.zeros(flow.batch, dtype=torch.int64), "first": (state["s"],)}

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        velocity, s = flow.velocity(state), state["s"]
        moved = s + 0.1 * velocity["s"] + (0.2 * temperature) ** 0.5 * normal(tuple(s.shape), s, generator)
        keep = uniform((s.shape[0],), s, generator) < 0.7
        new = {"s": torch.where(keep[:, None], moved, s)}
        return new, {"kept": carry["kept"] + keep, "first": carry["first"]}, flow.residual(state, velocity)

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        return {"kept": carry["kept"]}


class Bowl(en.Energy):
    def __init__(self) -> None:
        super().__init__(s=en.Real(4))
        self.k = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64))

    def energy(self, s: Tensor) -> Tensor:
        return 0.5 * (self.k * s.square()).sum(1)


@pytest.mark.parametrize("own", [True, False], ids=["generator", "global"])
def test_one_seed_gives_the_same_noise(compiled: Log, own: bool) -> None:
    """33 steps: six blocks of five, and three plain ones that go on with the same generator."""
    energy = Bowl()

    def run(batch: int, *, compile: bool) -> tuple[en.Solution, Tensor]:
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6) if own else None
        start = {"s": torch.ones(batch, 4, dtype=F64)}
        solver = Walk(temperature=0.5)
        found = en.settle(energy, start, solver=solver, max_steps=33, generator=generator, compile=compile)
        return found, torch.rand(3, generator=generator)

    for batch in (6, 1, 3):
        (plain, after), (found, later) = run(batch, compile=False), run(batch, compile=True)
        assert_same(plain, found)
        assert torch.equal(plain.statistics["kept"], found.statistics["kept"])
        assert 0 < int(found.statistics["kept"].sum()) < 33 * batch
        assert torch.equal(after, later)  # no number more or less has been drawn
    assert len(compiled) == 1


def test_the_rules_take_compiled_steps(compiled: Log) -> None:
    x = data().abs()
    target = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(1))

    def gradients(make: Callable[..., en.LearningRule], **inputs: Tensor) -> list[Tensor]:
        found = []
        for compile_ in (False, True):
            model = tiny()
            make(model, solver=en.BlockDescent(momentum=True), compile=compile_)(**inputs).backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        return found

    def propagation(model: en.Energy, **options: Any) -> en.LearningRule:
        return en.EquilibriumPropagation(model, en.SquaredError("y"), 0.05, **options)

    plain, found = gradients(propagation, x=x, target=target)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)
    assert len(compiled) == 1  # for three phases
    plain, found = gradients(en.ContrastiveHebbian, x=x, y=target)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)
    assert len(compiled) == 3  # the clamped phase has other free variables


def caught(run: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return found


def test_an_energy_that_cannot_be_traced_warns_once(compiled: Log) -> None:
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


def test_a_broken_compiler_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def broken(function: Any, **options: Any) -> Any:
        def run(*inputs: Tensor) -> Any:
            tried.append(1)
            raise RuntimeError("there is no g++ here")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    energy = Bowl()
    start = {"s": torch.ones(3, 4, dtype=F64)}
    found = []

    def run() -> None:
        for compile_ in (True, True, False):
            generator = torch.Generator().manual_seed(1)
            options: dict[str, Any] = {"max_steps": 12, "generator": generator, "compile": compile_}
            found.append(en.settle(energy, start, solver=Walk(), **options))

    (warning,) = caught(run)
    assert warning.category is en.EagerFallback
    assert "Bowl is settled by steps that could not be compiled" in str(warning.message)
    assert "there is no g++ here" in str(warning.message)
    assert warning.filename == __file__
    assert len(tried) == 1
    for one in found[:2]:  # also the noise that had been drawn for the block
        assert_same(found[2], one)


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


@pytest.mark.parametrize(
    ("solver", "reason"),
    [
        (Peeking(), "GuardOnDataDependentSymNode|item|data-dependent"),
        (Drawing(), "draws random numbers of its own"),
        (Growing(), "Growing returns another carry than it takes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_solver_that_cannot_be_compiled_warns_once(compiled: Log, solver: en.Solver, reason: str) -> None:
    energy = Bowl()
    start = {"s": torch.ones(3, 4, dtype=F64)}
    with pytest.warns(en.EagerFallback, match=reason) as found:
        for _ in range(2):
            torch.manual_seed(0)
            kept = en.settle(energy, start, solver=solver, max_steps=7, compile=True)
    assert len(found) == 1
    torch.manual_seed(0)
    assert_same(en.settle(energy, start, solver=solver, max_steps=7), kept)
    assert compiled.asked == []


def test_a_step_that_depends_on_the_size_of_the_batch_is_compiled_for_some(compiled: Log) -> None:
    class Sized(en.Solver):
        def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
            velocity = flow.velocity(state)
            rate = 1.0 / (2 + len(state["s"]))
            return {"s": state["s"] + rate * velocity["s"]}, carry, flow.residual(state, velocity)

    energy = Bowl()
    with pytest.warns(en.EagerFallback, match=r"depend on the size of the batch.*3 sizes") as found:
        for batch in (2, 3, 4, 5, 6, 3):
            both(energy, {"s": torch.ones(batch, 4, dtype=F64)}, solver=Sized(), max_steps=10)
    assert len(found) == 1
    assert len(compiled) == 3


def test_a_term_with_parameters_beside_its_energy(compiled: Log) -> None:
    """What a step reads from a term itself, here the parameter of a proximal map, is an input as well."""

    class Learnt(en.ProximalTerm):
        """E = |strength| |s|."""

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

    term = Learnt(s=en.Real(3))
    energy = Leak(s=en.Real(3)) + term
    start = {"s": torch.tensor([[3.0, -2.0, 1.0]], dtype=F64)}
    residuals = []
    for strength in (0.5, 4.0):
        with torch.no_grad():
            term.strength.fill_(strength)
        found = both(energy, start, solver=en.Euler(0.1), max_steps=100, until=en.Stationary(atol=0.11))
        residuals.append(int(found.steps))
    assert residuals[0] != residuals[1]
    assert len(compiled) == 1
