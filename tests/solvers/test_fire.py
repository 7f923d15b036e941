"""FIRE against its equations written out in NumPy, and against minima in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.solvers.rate import fastest_rate, rate
from helpers.functional import Functional

F64 = torch.float64


def quadratic(n: int, **variable: en.Variable) -> en.Energy:
    """E = k s^2 / 2 - f s in each unit, of curvatures and fields that are given for each sample."""
    return Functional(
        lambda e, k, f, s: (0.5 * k * s.square() - f * s).sum(1),
        k=en.Real(n), f=en.Real(n), s=variable.get("s", en.Real(n)),
    ).double()  # fmt: skip


def curvatures(*rows: Any) -> dict[str, Tensor]:
    k = torch.tensor(np.array(rows))
    return {"k": k, "f": torch.ones_like(k)}


def written(
    force: Any, weight: Any, u: np.ndarray, dt: float, longest: float, steps: int
) -> tuple[list[np.ndarray], int]:
    """FIRE for one sample: eq. 1 and 2 of Bitzek et al. with the half step back of FIRE 2.0."""
    v, alpha, down, path, turns = np.zeros_like(u), 0.25, 0, [u], 0
    for _ in range(steps):
        push, w = force(u), weight(u)
        power = np.sum(w * push * v)
        if power > 0:
            down += 1
            if down > 2:
                dt, alpha = min(1.1 * dt, longest), 0.98 * alpha
        elif power < 0:
            u = u - 0.5 * dt * v
            v, dt, alpha, down, turns = np.zeros_like(u), 0.7 * dt, 0.25, 0, turns + 1
        v = v + dt * push
        size = np.sqrt(np.sum(w * v * v) / np.sum(w * push * push))
        v = (1 - alpha) * v + alpha * size * push
        u = u + dt * v
        path.append(u)
    return path, turns


def test_steps_are_those_of_the_papers() -> None:
    """On mirror flow with two time constants, where the metric weighs the power and the norms."""
    tau = np.array([4.0, 4.0, 0.25, 0.25])
    root = np.random.default_rng(1).normal(size=(4, 4))
    matrix, field = root @ root.T + 0.2 * np.eye(4), np.array([0.3, -0.2, 0.1, 0.4])

    def energy(e: Any, p: Tensor, q: Tensor) -> Tensor:
        z = torch.cat([p, q], 1)
        return 0.5 * ((z @ e.H) * z).sum(1) - (z * e.f).sum(1)

    domain = {"low": -1.0, "high": 1.0, "link": en.Tanh()}
    model = Functional(
        energy,
        {"H": torch.tensor(matrix), "f": torch.tensor(field)},
        p=en.Interval(2, tau=4.0, **domain),
        q=en.Interval(2, tau=0.25, **domain),
    )
    start = np.array([1.5, -1.0, 2.0, 0.5])
    state = {"p": torch.tensor(np.tanh(start[None, :2])), "q": torch.tensor(np.tanh(start[None, 2:]))}
    solver, steps = en.FIRE(dt=0.02, dt_max=0.1), 200  # far below what is stable, so that nothing else acts
    found = en.settle(
        model, state, solver=solver, max_steps=steps, until=en.Never(),
        record={"z": lambda s: torch.cat([s["p"], s["q"]], 1)},
    ).trajectory["z"][:, 0].numpy()  # fmt: skip

    def way(weight: Any) -> tuple[np.ndarray, int]:
        path, turns = written(lambda u: (field - matrix @ np.tanh(u)) / tau, weight, start, 0.02, 0.1, steps)
        return np.tanh(np.array(path)), turns

    expected, turns = way(lambda u: tau / np.cosh(u) ** 2)
    assert turns >= 2
    assert found == pytest.approx(expected, abs=1e-10)
    for wrong in (np.ones_like, lambda u: tau * np.ones_like(u), lambda u: 1 / np.cosh(u) ** 2):
        assert np.abs(way(wrong)[0] - found).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("spread", [0, 1, 3])
def test_no_arguments_suit_well_scaled_and_stiff_quadratics(spread: int, dtype: torch.dtype) -> None:
    k = np.logspace(0, spread, 12)
    clamp = {name: value.to(dtype) for name, value in curvatures(k, 1e-3 * k, 1e3 * k).items()}
    # the state is f / k, so that residuals of 1e-6 of the force are within what float32 can tell
    until = en.Stationary(atol=1e-5 if dtype == torch.float32 else 1e-9)
    steps = {0: 100, 1: 200, 3: 1500}[spread]
    found = en.settle(
        quadratic(12).to(dtype), clamp=clamp, solver=en.FIRE(), max_steps=steps, until=until, throw=True
    )
    error = (found.state["s"] * clamp["k"] - 1).abs().max()
    assert float(error) <= (1e-4 if dtype == torch.float32 else 1e-8)


def test_steps_do_not_depend_on_the_scale_of_the_energy() -> None:
    """E times c, dt over its root: the same path, exactly where c is a power of 4."""
    k = np.logspace(0, 2, 6)
    paths = []
    for c in (1.0, 4.0**10, 4.0**-10):
        clamp = {name: c * value for name, value in curvatures(k).items()}
        found = en.settle(
            quadratic(6), clamp=clamp, solver=en.FIRE(), max_steps=80, until=en.Never(), record="state"
        )
        paths.append(found.trajectory["s"])
    assert torch.allclose(paths[1], paths[0], rtol=1e-9, atol=1e-12)
    assert torch.allclose(paths[2], paths[0], rtol=1e-9, atol=1e-12)
    assert float((paths[0][-1, 0] - 1 / torch.tensor(k)).abs().max()) < 1e-2


def test_a_step_that_was_far_too_long_is_undone() -> None:
    """E = exp(s) - f s is flat below: its curvature at -20 is 2e-9, and at the minimum, log f, it is f."""
    energy = Functional(lambda e, f, s: (s.exp() - f * s).sum(1), f=en.Real(1), s=en.Real(1)).double()
    field = torch.tensor([[3.0], [1.0], [2.0]], dtype=F64)
    start = torch.tensor([[-20.0], [0.5], [9.0]], dtype=F64)
    found = en.settle(energy, {"s": start}, clamp={"f": field}, solver=en.FIRE(), max_steps=500, throw=True)
    assert torch.allclose(found.state["s"], field.log(), atol=1e-9)
    first = en.settle(
        energy,
        {"s": start},
        clamp={"f": field},
        solver=en.FIRE(),
        max_steps=500,
        until=en.Never(),
        record="state",
    )
    assert float(first.trajectory["s"].max()) < 40  # not 1e9, which 1 / 2e-9 of the force would be


def test_a_dt_that_is_too_long_is_shortened_to_what_is_stable() -> None:
    found = en.settle(quadratic(2), clamp=curvatures([1.0, 100.0]), solver=en.FIRE(dt=50.0), throw=True)
    assert found.state["s"][0].tolist() == pytest.approx([1, 0.01], abs=1e-9)


def test_units_stop_at_the_ends_of_their_box() -> None:
    energy = quadratic(3, s=en.Interval(3, low=-0.5, high=0.25))
    k = torch.tensor([[1.0, 8.0, 60.0], [1.0, 8.0, 60.0]], dtype=F64)
    f = torch.tensor([[3.0, 1.0, -90.0], [0.1, 4.0, 6.0]], dtype=F64)
    solver = en.FIRE()
    flow = solver.flow(energy, {"k": k, "f": f})
    point, carry, met = flow.start, solver.init(flow, flow.start), 0
    for _ in range(60):
        point, carry, _ = solver.step(flow, point, carry, None)
        ends = (point["s"] == 0.25) | (point["s"] == -0.5)
        assert not carry["speed"]["s"][ends].any()
        met += int(ends.sum())
    assert met > 60
    found = en.settle(energy, clamp={"k": k, "f": f}, solver=solver, throw=True, max_steps=300)
    assert torch.allclose(found.state["s"], (f / k).clamp(-0.5, 0.25), atol=1e-9)


def test_the_force_of_a_unit_at_an_end_does_not_turn_the_others() -> None:
    """The path of two units is the same beside a third that is pushed against the end where it starts."""
    solver = en.FIRE(dt=0.02, dt_max=0.05)  # far below what is stable, so that rates do not enter
    paths = []
    for k, f in (([1.0, 4.0], [0.5, 2.0]), ([1.0, 4.0, 2.0], [0.5, 2.0, -300.0])):
        clamp = {"k": torch.tensor([k], dtype=F64), "f": torch.tensor([f], dtype=F64)}
        found = en.settle(
            quadratic(len(k), s=en.Unit(len(k))),
            clamp=clamp, solver=solver, max_steps=60, until=en.Never(), record="state",
        )  # fmt: skip
        paths.append(found.trajectory["s"])
    assert torch.allclose(paths[1][..., :2], paths[0], rtol=1e-12, atol=1e-14)
    assert not paths[1][..., 2].any()


def test_samples_have_their_own_steps() -> None:
    clamp = curvatures([1.0, 2.0], [1.0, 50.0], [1.0, 2e3])
    together = en.settle(quadratic(2), clamp=clamp, solver=en.FIRE(), max_steps=5000, throw=True)
    assert together.steps[2] > 2 * together.steps[0]
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in clamp.items()}
        alone = en.settle(quadratic(2), clamp=one, solver=en.FIRE(), max_steps=5000, throw=True)
        assert torch.allclose(alone.state["s"], together.state["s"][i], rtol=1e-10, atol=0)
        assert alone.steps[0] == together.steps[i]


def test_the_rate_is_the_largest_curvature_over_the_time_constant() -> None:
    energy = quadratic(3, s=en.Real(3, tau=4.0))
    flow = en.FIRE().flow(energy, curvatures([1.0, 5.0, 80.0], [1.0, 2.0, 3.0]))
    found = fastest_rate(flow, flow.start, flow.velocity(flow.start))
    assert found.tolist() == pytest.approx([20.0, 0.75], rel=0.2)  # from below, as a power method does
    assert bool((found <= torch.tensor([20.0, 0.75]) * (1 + 1e-6)).all())
    still = en.FIRE().flow(quadratic(1), {"k": torch.ones(1, 1).double(), "f": torch.zeros(1, 1).double()})
    assert fastest_rate(still, still.start, still.velocity(still.start)).tolist() == [1.0]


def test_points_within_rounding_tell_no_rate() -> None:
    point = {"s": torch.tensor([[1.0], [1.0], [1.0]], dtype=F64)}
    other = {"s": torch.tensor([[1.0 + 2e-16], [1.5], [1.5]], dtype=F64)}
    slope = {"s": torch.tensor([[7.0], [7.0], [7.0]], dtype=F64)}
    next_slope = {"s": torch.tensor([[9.0], [6.0], [float("nan")]], dtype=F64)}
    known = torch.full((3,), 11.0, dtype=F64)
    assert rate(point, other, slope, next_slope, known).tolist() == [11.0, 2.0, 11.0]


@pytest.mark.parametrize(
    "solver", [en.Adaptive(), en.Momentum(0.1), en.Momentum(0.1, 0.9, nesterov=False), en.FIRE()]
)
def test_no_step_asks_a_tensor_for_a_number(solver: en.Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = solver.flow(quadratic(2), curvatures([1.0, 2.0]))
    carry = solver.init(flow, flow.start)

    def refuse(*arguments: object) -> Any:
        raise AssertionError(f"a step looked at the values of {arguments[0]}")

    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "nonzero"):
        monkeypatch.setattr(Tensor, name, refuse)
    solver.advance(flow, flow.start, carry, None, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dt": 0.0}, "dt must be a positive number"),
        ({"dt_max": -1.0}, "dt_max must be a positive number"),
        ({"grow": 0.9}, "grow must be at least 1, got 0.9"),
        ({"shrink": 1.5}, "shrink must be at most 1, got 1.5"),
        ({"alpha": 1.1}, "alpha must be at most 1, got 1.1"),
        ({"fade": 0.0}, "fade must be a positive number"),
        ({"delay": -1}, "delay must be a whole number from 0 up, got -1"),
        ({"delay": 2.5}, "delay must be a whole number from 0 up, got 2.5"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"FIRE: {message}"):
        en.FIRE(**arguments)
