"""Momentum against its rates on quadratics, and against the methods written out in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

F64 = torch.float64
CURVATURES = np.logspace(0, 2, 8)  # condition number 100


def quadratic(curvatures: np.ndarray, **variable: en.Variable) -> en.Energy:
    """E = k s^2 / 2 - f s in each unit."""
    n = len(curvatures)
    return Functional(
        lambda e, f, s: (0.5 * e.k * s.square() - f * s).sum(1),
        {"k": torch.tensor(curvatures)},
        f=en.Real(n),
        s=variable.get("s", en.Real(n)),
    ).double()


def at_rest(n: int, batch: int = 1) -> dict[str, Tensor]:
    return {"f": torch.zeros(batch, n, dtype=F64)}


def path(energy: en.Energy, solver: en.Solver, start: Tensor, steps: int, **more: Tensor) -> np.ndarray:
    """The values of s after every step, (times, batch, units)."""
    clamp = more or at_rest(start.shape[1], len(start))
    found = en.settle(
        energy, {"s": start}, clamp=clamp, solver=solver, max_steps=steps, until=en.Never(),
        record={"s": lambda state: state["s"]},
    )  # fmt: skip
    return found.trajectory["s"].numpy()


def slowest(dt: float, momentum: float, *, nesterov: bool) -> float:
    """The spectral radius of s, s_before -> s_next, s on the quadratic, over its curvatures."""
    radii = []
    for k in CURVATURES:
        first = 1 - dt * k
        up, back = ((1 + momentum) * first, -momentum * first) if nesterov else (first + momentum, -momentum)
        radii.append(np.abs(np.linalg.eigvals([[up, back], [1, 0]])).max())
    return max(radii)


def test_the_heavy_ball_contracts_at_the_optimal_rate() -> None:
    """(sqrt(k) - 1) / (sqrt(k) + 1) = 9/11 a step for k = 100 (Polyak 1964, theorem 9)."""
    low, high = np.sqrt(CURVATURES[[0, -1]])
    dt, momentum = (2 / (low + high)) ** 2, ((high - low) / (high + low)) ** 2
    solver = en.Momentum(dt, momentum, nesterov=False, restart=False)
    way = np.linalg.norm(path(quadratic(CURVATURES), solver, torch.ones(1, 8, dtype=F64), 600)[:, 0], axis=1)
    # at the double root the distance goes as steps * rate^steps
    assert (way[600] / way[300] / 2) ** (1 / 300) == pytest.approx(9 / 11, rel=2e-3)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("dt", "momentum"), [(0.01, 0.9), (0.01, 0.6), (0.005, 0.95), (0.013, 0.0)])
def test_the_rate_is_that_of_the_linear_recursion(dt: float, momentum: float, nesterov: bool) -> None:
    solver = en.Momentum(dt, momentum, nesterov=nesterov, restart=False)
    way = np.abs(path(quadratic(CURVATURES), solver, torch.ones(1, 8, dtype=F64), 1200)[:, 0]).max(1)
    first, last = way[300:400].max(), way[1100:1200].max()  # over whole turns of the complex roots
    expected = slowest(dt, momentum, nesterov=nesterov)
    assert (last / first) ** (1 / 800) == pytest.approx(expected, abs=2e-3)


def written(
    force: Callable[[np.ndarray], np.ndarray],
    weight: Callable[[np.ndarray], np.ndarray],
    u: np.ndarray,
    dt: float,
    steps: int,
    momentum: float | None,
    *,
    restart: bool,
) -> tuple[list[np.ndarray], int]:
    """Nesterov's method for one sample as its papers write it."""
    before, k, path, restarts = u, 0, [u], 0
    for _ in range(steps):
        y = u + (k / (k + 3) if momentum is None else momentum * (k > 0)) * (u - before)
        push = force(y)
        before, u = u, y + dt * push
        k += 1
        if restart and (weight(y) * push) @ (u - before) < 0:
            before, k, restarts = u, 0, restarts + 1
        path.append(u)
    return path, restarts


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("restart", [True, False])
def test_nesterovs_method_is_that_of_the_papers(momentum: float | None, restart: bool) -> None:
    solver = en.Momentum(0.009, momentum, restart=restart)
    start = torch.randn(2, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = path(quadratic(CURVATURES), solver, start, 200)
    for sample in range(2):
        expected, restarts = written(
            lambda s: -CURVATURES * s,
            np.ones_like,
            start[sample].numpy(),
            0.009,
            200,
            momentum,
            restart=restart,
        )
        assert found[:, sample] == pytest.approx(np.array(expected), abs=1e-12)
        assert (restarts > 1) == restart


def test_on_mirror_flow_the_test_of_restarts_is_in_the_metric() -> None:
    """tau du/dt = -H tanh(u) + f, whose potentials weigh tau (1 - tanh^2) in the change of the energy."""
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
    solver, steps = en.Momentum(0.05), 150
    found = en.settle(
        model, state, solver=solver, max_steps=steps, until=en.Never(),
        record={"z": lambda s: torch.cat([s["p"], s["q"]], 1)},
    ).trajectory["z"][:, 0].numpy()  # fmt: skip

    def way(weight: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        force = lambda u: (field - matrix @ np.tanh(u)) / tau  # noqa: E731
        return np.tanh(np.array(written(force, weight, start, 0.05, steps, None, restart=True)[0]))

    assert found == pytest.approx(way(lambda u: tau / np.cosh(u) ** 2), abs=1e-10)
    for wrong in (np.ones_like, lambda u: tau * np.ones_like(u), lambda u: 1 / np.cosh(u) ** 2):
        assert np.abs(way(wrong) - found).max() > 1e-3


def test_restart_beats_none_on_an_ill_conditioned_quadratic() -> None:
    curvatures = np.logspace(0, 4, 10)
    steps = {}
    for restart in (True, False):
        found = en.settle(
            quadratic(curvatures),
            clamp={"f": torch.ones(2, 10, dtype=F64)},
            solver=en.Momentum(1e-4, restart=restart),
            max_steps=20_000,
            until=en.Stationary(atol=1e-9),
        )
        steps[restart] = int(found.steps.max())
    assert steps[True] < 0.3 * steps[False]


def test_the_heavy_ball_with_restart_does_not_overshoot_what_it_can_see() -> None:
    """Well within the stable range the energy of every sample falls in all steps but those of turning."""
    solver = en.Momentum(0.012, 0.95, nesterov=False)
    plain = en.Momentum(0.012, 0.95, nesterov=False, restart=False)
    start = torch.ones(1, 8, dtype=F64)
    with_restart, without = (
        np.abs(path(quadratic(CURVATURES), s, start, 400)[-1]).max() for s in (solver, plain)
    )
    assert with_restart < 0.1 * without


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_stops_at_the_ends_of_a_box(nesterov: bool) -> None:
    energy = quadratic(np.array([1.0, 4.0]), s=en.Unit(2))
    solver = en.Momentum(0.2, 0.9, nesterov=nesterov, restart=False)
    flow = solver.flow(energy, {"f": torch.tensor([[3.0, 2.0]], dtype=F64)})
    point, carry, met = flow.start, solver.init(flow, flow.start), 0
    for _ in range(20):
        point, carry, _ = solver.step(flow, point, carry, None)
        ends = point["s"] == 1.0
        assert not carry["shift"]["s"][ends].any()
        met += int(ends[0, 0])
    assert met > 10
    found = en.settle(
        energy, clamp={"f": torch.tensor([[3.0, 2.0], [-1.0, 9.0]], dtype=F64)}, solver=solver, throw=True
    )
    assert found.state["s"].numpy() == pytest.approx(np.array([[1, 0.5], [0, 1]]), abs=1e-9)


def test_samples_restart_by_themselves() -> None:
    energy = quadratic(CURVATURES)
    start = torch.randn(4, 8, dtype=F64, generator=torch.Generator().manual_seed(3))
    scale = torch.logspace(-4, 2, 4, dtype=F64).unsqueeze(1)
    solver = en.Momentum(0.01)
    together = en.settle(energy, {"s": start * scale}, clamp=at_rest(8, 4), solver=solver, throw=True)
    assert len(set(together.steps.tolist())) > 1
    for i in range(4):
        alone = en.settle(
            energy, {"s": (start * scale)[i : i + 1]}, clamp=at_rest(8), solver=solver, throw=True
        )
        assert torch.allclose(alone.state["s"], together.state["s"][i], rtol=1e-12, atol=0)
        assert alone.steps[0] == together.steps[i]


def test_a_ball_that_rolls_past_the_minimum_has_not_settled() -> None:
    """From 1 with dt k = 1 the ball is at 0, at speed 1, after one step."""
    energy = quadratic(np.array([1.0]))
    solver = en.Momentum(1.0, 0.5, nesterov=False, restart=False)
    flow = solver.flow(energy, at_rest(1), {"s": torch.ones(1, 1, dtype=F64)})
    point, carry, _ = solver.step(flow, flow.start, solver.init(flow, flow.start), None)
    assert point["s"].item() == 0.0
    point, _, residual = solver.step(flow, point, carry, None)
    assert point["s"].item() == -0.5
    assert residual.item() == pytest.approx(0.25)


def test_a_flow_without_an_energy_needs_restart_off() -> None:
    class Decay(en.Flow):
        names = ("s",)

        def velocity(self, point: Any) -> Any:
            return {"s": -point["s"]}

        def project(self, point: Any) -> Any:
            return point

        def values(self, point: Any) -> Any:
            return point

        def residual(self, point: Any, velocity: Any) -> Tensor:
            return velocity["s"].abs().amax(1)

        def take(self, index: Tensor) -> Any:
            return self

    point = {"s": torch.ones(1, 2)}
    with pytest.raises(en.SettlingError, match="Momentum needs the energy of a flow"):
        en.Momentum(0.1).init(Decay(), point)
    solver = en.Momentum(0.1, restart=False)
    moved, _, residual = solver.step(Decay(), point, solver.init(Decay(), point), None)
    assert moved["s"].tolist() == [[pytest.approx(0.9)] * 2]
    assert residual.tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dt": 0.0}, "dt must be a positive number"),
        ({"dt": 0.1, "momentum": 1.0}, "momentum must be a number from 0 to below 1.*got 1.0"),
        ({"dt": 0.1, "momentum": -0.1}, "momentum must be a number from 0 to below 1.*got -0.1"),
        ({"dt": 0.1, "momentum": float("nan")}, "momentum must be a number from 0 to below 1.*got nan"),
        ({"dt": 0.1, "nesterov": False}, "the heavy ball, nesterov=False, needs a momentum"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Momentum: {message}"):
        en.Momentum(**arguments)
