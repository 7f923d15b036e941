"""Settling: stopping, independence of the samples, recording, statuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.terms import Leak
from helpers.functional import Functional

F64 = torch.float64


class Well(en.Energy):
    """E = rate |s - 1|^2 / 2 with a rate for each sample; with no bound below where the rate is negative."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__(rate=en.Real(1), s=en.Real(2))
        self.register_buffer("one", torch.ones((), dtype=dtype))

    def energy(self, rate: Tensor, s: Tensor) -> Tensor:
        return 0.5 * (rate * (s - self.one).square()).sum(1)


def rates(*values: float) -> dict[str, Tensor]:
    return {"rate": torch.tensor(values, dtype=F64).unsqueeze(1)}


def steps_of_euler(rate: float, dt: float, atol: float) -> int:
    """First multiple of 5 where the velocity before the last step, rate (1 - rate dt)^(n - 1), is small."""
    n = 5
    while abs(rate * (1 - rate * dt) ** (n - 1)) > atol:
        n += 5
    return n


def test_every_sample_stops_where_the_closed_form_says() -> None:
    values = (1.0, 3.0, 0.25, 10.0)
    solution = en.settle(Well(), clamp=rates(*values), solver=en.Euler(0.1), until=en.Stationary(atol=1e-6))
    assert (solution.status == en.Status.CONVERGED).all()
    assert solution.steps.tolist() == [steps_of_euler(rate, 0.1, 1e-6) for rate in values]
    expected = [1 - (1 - 0.1 * rate) ** int(n) for rate, n in zip(values, solution.steps, strict=True)]
    assert torch.allclose(solution.state["s"][:, 0], torch.tensor(expected, dtype=F64), rtol=1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_tolerances_are_absolute_and_relative_to_the_largest_value(relative: bool) -> None:
    """At the end |velocity| <= rtol max |s|: scaling the problem scales the tolerance with it."""
    until = en.Stationary(rtol=1e-3) if relative else en.Stationary(atol=1e-3)
    steps = []
    for scale in (1.0, 1e4):
        energy = Functional(
            lambda e, s, scale=scale: 0.5 * (s - scale).square().sum(1), s=en.Real(2)
        ).double()
        start = {"s": torch.zeros(1, 2, dtype=F64)}
        solution = en.settle(energy, start, solver=en.Euler(0.1), until=until)
        steps.append(int(solution.steps))
    assert (steps[0] == steps[1]) is relative


def test_both_tolerances_add_up() -> None:
    """max |s| is 1: 5e-3 + 5e-3 stops where 1e-2 does, give or take a look."""
    both = en.settle(Well(), clamp=rates(1.0), solver=en.Euler(0.1), until=en.Stationary(5e-3, 5e-3))
    one = en.settle(Well(), clamp=rates(1.0), solver=en.Euler(0.1), until=en.Stationary(1e-2))
    assert int(both.steps) == int(one.steps)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_bad_tolerances_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="rtol"):
        en.Stationary(rtol=bad)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 13])
@pytest.mark.parametrize("solver", [en.Euler(0.1), en.Heun(0.1), en.RungeKutta4(0.1)])
def test_never_stops_after_exactly_max_steps(steps: int, solver: en.Solver) -> None:
    solution = en.settle(Well(), clamp=rates(1.0, 2.0), solver=solver, max_steps=steps, until=en.Never())
    assert solution.steps.tolist() == [steps, steps]
    assert solution.status.tolist() == [en.Status.MAX_STEPS] * 2
    factor = {"Euler": lambda z: 1 - z, "Heun": lambda z: 1 - z + z**2 / 2}.get(
        type(solver).__name__, lambda z: 1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24
    )
    expected = [1 - factor(0.1 * rate) ** steps for rate in (1.0, 2.0)]
    assert torch.allclose(solution.state["s"][:, 0], torch.tensor(expected, dtype=F64), rtol=1e-12)


def test_a_batch_may_converge_run_out_and_diverge() -> None:
    values = (2.0, 1e-3, -100.0, 5.0, 30.0)  # dt = 0.1: the last two of the diverging are beyond 2 / dt
    solution = en.settle(Well(), clamp=rates(*values), solver=en.Euler(0.1), max_steps=400)
    kinds = [en.Status(int(status)).name for status in solution.status]
    assert kinds == ["CONVERGED", "MAX_STEPS", "DIVERGED", "CONVERGED", "MAX_STEPS"]
    assert solution.steps[1] == 400
    assert solution.steps[2] < 400
    assert torch.allclose(solution.state["s"][[0, 3]], torch.ones(2, 2, dtype=F64))
    assert float(solution.state["s"][4].abs().max()) > 1e10
    longer = en.settle(Well(), clamp=rates(*values), solver=en.Euler(0.1), max_steps=2000)
    assert longer.status.tolist()[4] == en.Status.DIVERGED


def test_throw_says_where_when_and_what_to_do() -> None:
    with pytest.raises(
        en.SettlingError, match=r"1 of 3 samples, first in sample 2 by step \d+.* s .*smaller dt"
    ):
        en.settle(Well(), clamp=rates(1.0, 2.0, -100.0), solver=en.Euler(0.1), max_steps=900, throw=True)
    with pytest.raises(en.SettlingError, match=r"in 30 steps in 1 of 2 samples.*max_steps"):
        en.settle(Well(), clamp=rates(10.0, 1e-3), solver=en.Euler(0.1), max_steps=30, throw=True)
    en.settle(Well(), clamp=rates(1.0, 2.0), solver=en.Euler(0.1), throw=True)


def network(activation: str = "hardsigmoid", seed: int = 0) -> tuple[en.models.LayeredHopfield, Tensor]:
    torch.manual_seed(seed)
    model = en.models.LayeredHopfield([5, 8, 6, 3], activation=activation).double()
    for part in model.couplings.values():
        part.weight.data.mul_(6.0 if activation == "sigmoid" else 1.5)  # type: ignore[union-attr, operator]
    return model, 2 * torch.randn(8, 5, dtype=F64)


SOLVERS = {
    "euler": en.Euler(0.3),
    "heun": en.Heun(0.3),
    "rk4": en.RungeKutta4(0.5),
    "block": en.BlockDescent(),
    "momentum": en.BlockDescent(momentum=True),
}


@pytest.mark.parametrize("activation", ["hardsigmoid", "sigmoid", "tanh"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_do_not_know_of_each_other(solver: str, activation: str) -> None:
    """The batch, dropped sample by sample as they settle, ends where each sample ends alone."""
    model, x = network(activation)
    until = en.Stationary(atol=1e-6)
    together = en.settle(model, clamp={"x": x}, solver=SOLVERS[solver], until=until)
    assert len(set(together.steps.tolist())) > 1
    for i in range(len(x)):
        alone = en.settle(model, clamp={"x": x[i : i + 1]}, solver=SOLVERS[solver], until=until)
        assert int(alone.steps) == int(together.steps[i])
        assert int(alone.status) == int(together.status[i])
        for name, value in alone.state.items():
            assert torch.allclose(value[0], together.state[name][i], atol=1e-10)
    assert float(together.residual.max()) < 1e-5


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("solver", SOLVERS)
def test_recording_changes_nothing_and_shows_what_happened(solver: str, every: int) -> None:
    model, x = network()
    plain = en.settle(model, clamp={"x": x}, solver=SOLVERS[solver])
    seen = en.settle(
        model, clamp={"x": x}, solver=SOLVERS[solver], record="state", record_every=every, max_steps=1000
    )
    for name in plain.state:
        assert torch.equal(plain.state[name], seen.state[name])
    assert torch.equal(plain.steps, seen.steps)
    times = 1 + int(seen.steps.max()) // every
    assert seen.trajectory["y"].shape == (times, 8, 3)
    for time in (1, times - 1):
        short = en.settle(model, clamp={"x": x}, solver=SOLVERS[solver], max_steps=time * every)
        for name in ("h1", "h2", "y"):
            assert torch.allclose(seen.trajectory[name][time], short.state[name], atol=1e-12)


def test_what_is_recorded() -> None:
    model, x = network()
    clamp = {"x": x}
    states = en.settle(model, clamp=clamp, solver=SOLVERS["euler"], record="state", max_steps=7).trajectory
    energies = torch.stack([model({n: v[t] for n, v in states.items()}).detach() for t in range(8)])

    def recorded(record: Any) -> Any:
        return en.settle(model, clamp=clamp, solver=SOLVERS["euler"], record=record, max_steps=7).trajectory

    assert torch.allclose(recorded("energy"), energies)
    assert torch.allclose(recorded(lambda state: state["y"].mean(1)), states["y"].mean(2))
    both = recorded({"y": lambda state: state["y"], "first": lambda state: state["h1"][:, 0]})
    assert torch.equal(both["y"], states["y"])
    assert torch.equal(both["first"], states["h1"][:, :, 0])
    assert recorded("residual").shape == (8, 8)
    assert recorded(None) is None
    with pytest.raises(ValueError, match="got 'heat'"):
        recorded("heat")


def test_a_warm_start_goes_on() -> None:
    model, x = network()
    half = en.settle(model, clamp={"x": x}, solver=SOLVERS["euler"], max_steps=20, until=en.Never())
    rest = en.settle(
        model, half.state, clamp={"x": x}, solver=SOLVERS["euler"], max_steps=20, until=en.Never()
    )
    whole = en.settle(model, clamp={"x": x}, solver=SOLVERS["euler"], max_steps=40, until=en.Never())
    assert torch.allclose(rest.state["y"], whole.state["y"], atol=1e-13)
    done = en.settle(model, clamp={"x": x})
    again = en.settle(model, done.state, clamp={"x": x})
    assert int(again.steps.max()) <= 5  # the first look


@pytest.mark.parametrize(("name", "value"), [("max_steps", -1), ("max_steps", 2.5), ("record_every", 0)])
def test_bad_counts_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        en.settle(Leak(s=en.Real(2)), **{name: value})


def test_arguments_in_wrong_places_are_told() -> None:
    model, x = Leak(s=en.Real(2)), torch.zeros(3, 2)
    with pytest.raises(TypeError, match=r"state must be a dict .*\{'s': x\}, got Tensor"):
        en.settle(model, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clamp must be a dict"):
        en.settle(model, clamp=x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected an energy first, got SequenceMemory.*recall"):
        en.settle(en.models.SequenceMemory(3), {"s": torch.zeros(3, 3)})  # type: ignore[arg-type]


def test_the_solution_has_the_energy_and_the_residual_of_its_state() -> None:
    model, x = network("tanh")
    solution = en.settle(model, clamp={"x": x}, max_steps=3)
    assert torch.allclose(solution.energy, model(solution.state).detach())
    assert set(solution.state) == {"x", "h1", "h2", "y"}
    model.check(solution.state)


def test_a_residual_is_asked_for_before_the_parameters_change() -> None:
    model, x = network()
    rule = en.ContrastiveHebbian(model)
    (_, phase) = rule.phases(x=x, y=torch.rand(8, 3, dtype=F64))
    with torch.no_grad():
        model.fields["y"].bias.add_(1)  # type: ignore[union-attr, operator]
    with pytest.raises(RuntimeError, match="have changed since settling"):
        _ = phase.solution.energy


@pytest.mark.parametrize("mode", ["plain", "no_grad", "inference", "leaves"])
def test_no_autograd_graph_is_left(mode: str) -> None:
    model, x = network()
    reference = en.settle(model, clamp={"x": x})
    if mode == "leaves":
        x.requires_grad_()
    context = {"no_grad": torch.no_grad(), "inference": torch.inference_mode()}.get(mode, torch.enable_grad())
    with context:
        solution = en.settle(model, clamp={"x": x.clone() if mode == "inference" else x})
    free = [solution.state[name] for name in ("h1", "h2", "y")]
    assert not any(value.requires_grad for value in [*free, solution.energy, solution.residual])
    assert torch.equal(solution.state["y"], reference.state["y"])
    assert all(p.grad is None for p in model.parameters())


def test_energies_that_cannot_be_traced_settle_in_inference_mode() -> None:
    energy = Functional(
        lambda e, x, s: (0.5 * s.square() - s * x).sum(1) * (1 if float(x.sum()) > -1e9 else 2),
        x=en.Real(2), s=en.Real(2),
    )  # fmt: skip
    with torch.inference_mode():
        x = torch.randn(3, 2)
        with pytest.warns(en.EagerFallback):
            solution = en.settle(energy, clamp={"x": x})
    assert torch.allclose(solution.state["s"], x, atol=1e-4)


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_dtype_is_that_of_the_parameters_whatever_the_default(
    dtype: torch.dtype, default: torch.dtype
) -> None:
    model, x = network()
    model, x = model.to(dtype), x.to(dtype)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        solution = en.settle(model, clamp={"x": x})
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in solution.state.values()} == {dtype}
    assert solution.energy.dtype == dtype
    assert (solution.status == en.Status.CONVERGED).all()


def test_runs_repeat_bit_for_bit() -> None:
    model, x = network("sigmoid")
    first, second = (en.settle(model, clamp={"x": x}) for _ in range(2))
    for name in first.state:
        assert torch.equal(first.state[name], second.state[name])


@pytest.mark.parametrize("solver", SOLVERS)
def test_numbers_as_variables_and_empty_batches(solver: str) -> None:
    energy = Functional(lambda e, s, t: 0.5 * (s - 2).square() + (t - s).square(), s=en.Real(), t=en.Real())
    solution = en.settle(energy, {"s": torch.zeros(3)}, solver=SOLVERS[solver])
    assert solution.state["s"].shape == (3,)
    assert torch.allclose(solution.state["t"], torch.full((3,), 2.0), atol=1e-4)
    model, x = network()
    empty = en.settle(model, clamp={"x": x[:0]}, solver=SOLVERS[solver], record="energy")
    assert empty.state["y"].shape == (0, 3)
    assert empty.status.shape == empty.energy.shape == (0,)


def test_statistics_are_those_of_the_step_at_which_a_sample_ended() -> None:
    """A solver that counts its steps: for each sample, dropped from the batch or not, the count is its steps."""

    class Counting(en.Solver):
        def init(self, flow: Any, state: Any) -> Any:
            return {"count": torch.zeros(flow.batch, dtype=F64)}

        def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
            velocity = flow.velocity(state)
            new = {n: state[n] + 0.1 * velocity[n] for n in state}
            return new, {"count": carry["count"] + 1}, flow.residual(state, velocity)

        def statistics(self, carry: Any) -> Any:
            return {"taken": carry["count"]}

    values = (10.0, 0.25, 3.0, 1.0, 5.0, 8.0, 7.0, 6.0)
    solution = en.settle(Well(), clamp=rates(*values), solver=Counting(), until=en.Stationary(atol=1e-6))
    assert len(set(solution.steps.tolist())) > 3
    assert solution.statistics["taken"].tolist() == solution.steps.tolist()
    assert set(solution.statistics) == {"taken"}


def test_a_solver_says_when_it_ends_and_what_it_moves() -> None:
    class Short(en.Solver):
        """Runs for max_steps, by gradient flow even where a variable has a link."""

        def until(self) -> en.Until:
            return en.Never()

        def flow(self, energy: Any, clamp: Any = None, state: Any = None, **more: Any) -> Any:
            return en.GradientFlow(energy, clamp, state, **more)

        def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
            return state, carry, flow.residual(state, flow.velocity(state))

    model, x = network("sigmoid")
    solution = en.settle(model, clamp={"x": x}, solver=Short(), max_steps=7)
    assert solution.steps.tolist() == [7] * len(x)
    assert isinstance(solution.flow, en.GradientFlow)
    assert torch.equal(solution.point["y"], solution.state["y"])


@pytest.mark.parametrize(
    ("energy", "shape"), [(lambda e, s: s.square(), r"\(\w+, 3\)"), (lambda e, s: s.square().sum(), r"\(\)")]
)
def test_an_energy_of_the_wrong_shape_is_an_error(energy: Any, shape: str) -> None:
    for solver in (None, en.Euler(0.1), en.MALA(0.1)):
        with pytest.raises(en.StateError, match=f"returned shape {shape}, expected .batch,."):
            en.settle(Functional(energy, s=en.Real(3)), {"s": torch.zeros(4, 3)}, solver=solver)


def test_chains_that_run_for_their_steps_do_not_throw() -> None:
    solution = en.settle(
        Leak(s=en.Real(2)), {"s": torch.zeros(4, 2)}, solver=en.MALA(0.1), max_steps=12, throw=True
    )
    assert solution.steps.tolist() == [12] * 4


@pytest.mark.parametrize("solver", [en.MALA, "mala"])
def test_a_solver_is_an_instance(solver: Any) -> None:
    with pytest.raises(TypeError, match="solver must be an instance such as"):
        en.settle(Leak(s=en.Real(2)), solver=solver)


def test_a_state_that_nothing_moved_is_a_copy() -> None:
    start = torch.ones(2, 2)
    state = en.settle(Leak(s=en.Real(2)), {"s": start}, max_steps=0).state
    assert torch.equal(state["s"], start)
    assert state["s"].data_ptr() != start.data_ptr()


def test_two_terms_with_a_kink_are_refused_too() -> None:
    variable = en.Real(2)
    energy = Leak(s=variable) + en.terms.Sparsity(0.1, s=variable) + en.terms.Sparsity(0.2, s=variable)
    for solver in (en.Euler(0.1), en.BlockDescent(), en.FIRE(), en.LBFGS()):
        with pytest.raises(en.SettlingError, match=r"Sparsity.*kink"):
            en.settle(energy, {"s": torch.ones(2, 2)}, solver=solver)
