"""Adaptive integration against scipy and closed forms; each sample by itself; settling at the stiff end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

import energynet as en
from helpers.functional import Functional
from helpers.networks import tiny
from helpers.stiff import Written, inputs, stiff

if TYPE_CHECKING:
    from collections.abc import Iterator

F64 = torch.float64


@pytest.fixture(autouse=True)
def _values(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient_of" in request.node.name):
        yield


def spring() -> en.Energy:
    """E = k s^2 / 2 - f s with a stiffness and a field for each sample."""
    return Functional(
        lambda e, k, f, s: (0.5 * k * s.square() - f * s).sum(1), k=en.Real(1), f=en.Real(1), s=en.Real(1)
    ).double()


def springs(*stiffness: float) -> dict[str, Tensor]:
    k = torch.tensor(stiffness, dtype=F64).unsqueeze(1)
    return {"k": k, "f": torch.ones_like(k)}


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("coupling", [0.95, 4.0])
def test_mirror_flow_of_networks_agrees_with_scipy(activation: str, coupling: float) -> None:
    model, x, time = stiff(activation, coupling=coupling, spread=10.0, seed=3), inputs(2), 3.0
    solver = en.Adaptive(rtol=1e-10, atol=1e-11, time=time)
    found = en.settle(model, clamp={"x": x}, solver=solver, throw=True)
    written = Written(model, x)
    for sample, values in enumerate(written.join(found.state)):
        velocity = lambda t, u, sample=sample: written.velocity(sample, u)  # noqa: E731
        theirs = solve_ivp(velocity, (0, time), np.zeros(15), method="DOP853", rtol=1e-12, atol=1e-13)
        assert values == pytest.approx(written.link(theirs.y[:, -1]), abs=1e-8)
    assert found.statistics["time"].tolist() == [time, time]
    assert written.wrong(found.state) > 1e-5  # it was still under way


def test_gradient_flow_of_networks_agrees_with_scipy() -> None:
    model, time = tiny(), 4.0
    first, second = ([p.numpy() for p in layer.parameters()] for layer in (model.first, model.second))
    for name, tau in (("h", 0.3), ("y", 2.0)):
        model.variables[name].tau = tau  # type: ignore[attr-defined]
    x = torch.randn(2, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
    solver = en.Adaptive(rtol=1e-10, atol=1e-11, time=time)
    found = en.settle(model, clamp={"x": x}, solver=solver, throw=True)

    def velocity(t: float, z: np.ndarray, drive: np.ndarray) -> np.ndarray:
        h, y = z[:6], z[6:]
        onto = drive + second[0].T @ np.tanh(y)
        up = second[0] @ np.tanh(h) + second[1]
        return np.concatenate([(onto / np.cosh(h) ** 2 - h) / 0.3, (up / np.cosh(y) ** 2 - y) / 2.0])

    for sample in range(2):
        drive = first[0] @ x[sample].numpy() + first[1]
        theirs = solve_ivp(
            velocity, (0, time), np.zeros(9), method="DOP853", rtol=1e-12, atol=1e-13, args=(drive,)
        )
        ours = torch.cat([found.state["h"], found.state["y"]], 1)[sample].numpy()
        assert ours == pytest.approx(theirs.y[:, -1], abs=1e-8)
        assert np.abs(velocity(0, ours, drive)).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_last_step_ends_at_the_time_exactly_and_the_sample_stays(dtype: torch.dtype) -> None:
    clamp = {name: value.to(dtype) for name, value in springs(1.0, 300.0, 0.0).items()}
    model = spring().to(dtype)
    solver = en.Adaptive(time=0.7)
    found = en.settle(model, clamp=clamp, solver=solver, throw=True)
    longer = en.settle(model, clamp=clamp, solver=solver, max_steps=400, until=en.Never())
    assert found.status.tolist() == [en.Status.CONVERGED] * 3
    assert found.statistics["time"].tolist() == [pytest.approx(0.7, rel=1e-7)] * 3
    assert torch.equal(found.state["s"], longer.state["s"])
    for name, value in found.statistics.items():
        assert torch.equal(value, longer.statistics[name])
    k = clamp["k"][:, 0].double()
    exact = torch.where(k > 0, -torch.expm1(-0.7 * k) / k.clamp(min=1.0), 0.7)
    assert found.state["s"][:, 0].double() == pytest.approx(
        exact.tolist(), abs=3e-6 if dtype == F64 else 3e-4
    )


def test_a_sample_that_does_not_reach_the_time_has_run_out_of_steps() -> None:
    found = en.settle(spring(), clamp=springs(1.0, 1e5), solver=en.Adaptive(time=1.0), max_steps=100)
    assert found.status.tolist() == [en.Status.CONVERGED, en.Status.MAX_STEPS]
    assert found.statistics["time"][0] == 1.0
    assert found.statistics["time"][1] < 1.0


def test_the_path_of_a_sample_does_not_depend_on_its_companions() -> None:
    clamp = springs(0.1, 1.0, 30.0, 1000.0)
    solver = en.Adaptive(rtol=1e-7, time=3.0)
    together = en.settle(spring(), clamp=clamp, solver=solver, max_steps=5000, throw=True)
    accepted = together.statistics["accepted"]
    assert len(set(accepted.tolist())) == 4
    assert accepted[3] > 10 * accepted[0]
    for i in range(4):
        one = {name: value[i : i + 1] for name, value in clamp.items()}
        alone = en.settle(spring(), clamp=one, solver=solver, max_steps=5000, throw=True)
        assert torch.allclose(alone.state["s"], together.state["s"][i], rtol=1e-14, atol=0)
        for name in ("accepted", "rejected", "time"):
            assert alone.statistics[name][0] == together.statistics[name][i]
        assert alone.steps[0] == together.steps[i]


def test_a_step_that_is_rejected_holds_no_other_sample_back() -> None:
    """Samples that meet the end of their box at different times, and one that never does."""
    model = Functional(
        lambda e, c, p, q: (0.5 * (p - q).square() - c * p).sum(1),
        c=en.Real(1), p=en.Interval(1, low=-9.0, high=0.6), q=en.Real(1),
    ).double()  # fmt: skip
    field = torch.tensor([[5.0], [1.0], [0.7], [0.0]], dtype=F64)
    solver = en.Adaptive(rtol=1e-8, time=2.0)
    together = en.settle(model, clamp={"c": field}, solver=solver, throw=True)
    assert (together.statistics["rejected"] > 0).tolist() == [True, True, True, False]
    for i in range(4):
        alone = en.settle(model, clamp={"c": field[i : i + 1]}, solver=solver, throw=True)
        for name in "pq":
            assert torch.allclose(alone.state[name], together.state[name][i], rtol=1e-14, atol=0)
        for name, value in alone.statistics.items():
            assert value[0] == together.statistics[name][i]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "hardsigmoid"])
def test_it_is_stable_at_the_stiff_stationary_end_whatever_the_tolerance(activation: str) -> None:
    """Where steps were limited by errors alone, the residual would stall near the tolerance."""
    model, x = stiff(activation, spread=10.0), inputs(2)
    solver = en.Adaptive(rtol=1e-2, atol=1e-2)
    until = en.Stationary(atol=1e-12)
    found = en.settle(model, clamp={"x": x}, solver=solver, max_steps=2000, until=until, throw=True)
    assert Written(model, x).wrong(found.state) < 1e-11
    assert float(found.residual.max()) <= 1e-12
    assert float((found.statistics["rejected"] / found.statistics["accepted"]).max()) < 0.1


def test_steps_at_the_stationary_end_are_as_long_as_is_stable() -> None:
    """-1 of curvature l leaves |R(-l dt)| of the way to go; at 3 over l that is 0.57."""
    found = en.settle(spring(), clamp=springs(50.0), solver=en.Adaptive(), max_steps=200, until=en.Never())
    steps, time = (float(found.statistics[name]) for name in ("accepted", "time"))
    assert 0.8 * 3 / 50 < time / steps < 3.31 / 50


def test_defaults_settle_in_float32_too() -> None:
    model, x = stiff("tanh", spread=10.0).float(), inputs(2).float()
    found = en.settle(model, clamp={"x": x}, solver=en.Adaptive(), max_steps=2000, throw=True)
    assert Written(model.double(), x.double()).wrong(found.state) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tolerances_below_rounding_do_not_stall(dtype: torch.dtype) -> None:
    clamp = {name: value.to(dtype) for name, value in springs(1.0, 20.0).items()}
    solver = en.Adaptive(rtol=1e-30, atol=0.0, time=1.0)
    found = en.settle(spring().to(dtype), clamp=clamp, solver=solver, max_steps=20_000, throw=True)
    exact = [-math.expm1(-1), -math.expm1(-20) / 20]
    assert found.state["s"][:, 0].tolist() == pytest.approx(exact, rel=1e4 * torch.finfo(dtype).eps)


def test_the_end_of_a_box_is_met_within_the_tolerance() -> None:
    """s1' = c - (s1 - s2) up to its end b, s2' = s1 - s2: in closed form before and after."""
    c, b, time = 1.0, 0.6, 2.0
    model = Functional(
        lambda e, p, q: (0.5 * (p - q).square() - c * p).sum(1),
        p=en.Interval(1, low=-9.0, high=b),
        q=en.Real(1),
    ).double()

    def gap(t: float) -> float:
        return c / 2 * -math.expm1(-2 * t)

    met = brentq(lambda t: (c * t + gap(t)) / 2 - b, 0, 2, xtol=1e-15)
    other = b + ((c * met - gap(met)) / 2 - b) * math.exp(-(time - met))
    start = {name: torch.zeros(1, 1, dtype=F64) for name in "pq"}
    for tolerance in (1e-5, 1e-8):
        solver = en.Adaptive(rtol=tolerance, atol=tolerance, time=time)
        state = en.settle(model, start, solver=solver, throw=True).state
        assert float(state["p"]) == b
        assert float(state["q"]) == pytest.approx(other, abs=20 * tolerance)


def test_what_is_held_stays_and_what_overflows_has_diverged() -> None:
    model = Functional(lambda e, s: (s.square() / 2 - s).sum(1), s=en.Real(3)).double()
    mask = torch.tensor([[True, False, False]])
    clamp = {"s": en.Partial(torch.full((1, 3), 5.0, dtype=F64), mask)}
    state = en.settle(model, clamp=clamp, solver=en.Adaptive(), throw=True).state["s"]
    assert state[0, 0] == 5.0
    assert state[0, 1:].tolist() == pytest.approx([1, 1], abs=1e-9)
    root = Functional(lambda e, f, s: ((s - f).sqrt() + s).sum(1), f=en.Real(1), s=en.Real(1)).double()
    for solver in (en.Adaptive(), en.Adaptive(time=1.0)):
        found = en.settle(
            root,
            {"s": torch.ones(2, 1, dtype=F64)},
            clamp={"f": torch.tensor([[2.0], [-99.0]], dtype=F64)},
            solver=solver,
            max_steps=50,
        )
        assert found.status[0] == en.Status.DIVERGED
        assert found.status[1] != en.Status.DIVERGED


def test_a_step_takes_six_evaluations() -> None:
    model = spring()
    solver = en.Adaptive()
    flow = solver.flow(model, springs(1.0))
    velocity, calls = flow.velocity, []

    def counted(point: Any) -> Any:
        calls.append(1)
        return velocity(point)

    flow.velocity = counted  # type: ignore[method-assign]
    carry = solver.init(flow, flow.start)
    assert len(calls) == 2
    solver.advance(flow, flow.start, carry, None, 4)
    assert len(calls) == 2 + 4 * 6


def test_the_gradient_of_an_integration_is_exact() -> None:
    """Through the matrix exponential, by autograd: s = H^-1 f + exp(-t H) (s0 - H^-1 f)."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, dtype=F64, generator=generator)
    target = torch.randn(2, 3, dtype=F64, generator=generator)
    x = torch.randn(2, 3, dtype=F64, generator=generator)

    def energy(e: Any, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * ((y @ e.root).square().sum(1) + y.square().sum(1)) - (x * y).sum(1)

    model = Functional(energy, {"root": root}, x=en.Real(3), y=en.Real(3))
    rule = en.Unrolled(model, en.SquaredError("y"), steps=120, solver=en.Adaptive(rtol=1e-9, time=1.0))
    loss = rule(x=x, target=target)
    loss.backward()
    leaf = root.clone().requires_grad_()
    hessian = leaf @ leaf.T + torch.eye(3, dtype=F64)
    rest = torch.linalg.solve(hessian, x.T)
    y = (rest - torch.matrix_exp(-hessian) @ rest).T
    expected = 0.5 * (y - target).square().sum(1).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-8)
    assert torch.allclose(model.root.grad, leaf.grad, atol=1e-7)


@pytest.mark.parametrize("solver", ["heun", "rk4", "adaptive", "momentum", "fire"])
def test_the_gradient_of_few_steps_is_that_of_differences(solver: str) -> None:
    """Through the choice of the steps too, and where one of the samples starts at rest.

    Tolerances are coarse, so that the estimate of the error is not made of rounding.
    """
    solvers = {
        "heun": en.Heun(0.1), "rk4": en.RungeKutta4(0.1), "adaptive": en.Adaptive(rtol=1e-3, atol=1e-3),
        "momentum": en.Momentum(0.1), "fire": en.FIRE(dt=0.1),
    }  # fmt: skip

    def energy(e: Any, x: Tensor, y: Tensor) -> Tensor:
        return (e.w * y.square().square() / 4 + y.square() - x * y).sum(1)

    model = Functional(energy, {"w": torch.tensor([0.7, 1.3], dtype=F64)}, x=en.Real(2), y=en.Real(2))
    data = {"x": torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=F64), "target": torch.ones(2, 2, dtype=F64)}
    rule = en.Unrolled(model, en.SquaredError("y"), steps=6, solver=solvers[solver])
    rule(**data).backward()
    for i in range(2):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                model.w[i] += step
                values.append(float(rule(**data)))
                model.w[i] -= step
        assert float(model.w.grad[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": -1e-3}, "rtol must be a number from 0 up, got -0.001"),
        ({"atol": math.nan}, "atol must be a number from 0 up, got nan"),
        ({"rtol": "1e-3"}, "rtol must be a number from 0 up"),
        ({"rtol": 0.0, "atol": 0.0}, "both zero"),
        ({"rtol": 0.0}, "both zero"),
        ({"time": 0.0}, "time must be a positive number"),
        ({"time": math.inf}, "time must be a positive number"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Adaptive: .*{message}"):
        en.Adaptive(**arguments)
