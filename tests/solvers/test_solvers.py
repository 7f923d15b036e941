"""Solvers against minima by linear algebra and by scipy's bounded minimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from torch import Tensor

import energynet as en
from helpers.functional import Functional

F64 = torch.float64
SIZES = (2, 3, 2)
NAMES = ("a", "b", "c")


class Layers(en.Energy):
    """E = z.H z / 2 - z.f, with H block tridiagonal and diagonal within each of three variables."""

    def __init__(self, hessian: Tensor, **variables: en.Variable) -> None:
        super().__init__(f=en.Real(7), **variables)
        self.register_buffer("hessian", hessian)

    def energy(self, **state: Tensor) -> Tensor:
        field = state.pop("f")
        z = torch.cat([state[name] for name in NAMES], 1)
        edges = [0, 2, 5, 7]
        total = -(z * field).sum(1)
        for i, name in enumerate(NAMES):
            own = self.hessian[edges[i] : edges[i + 1], edges[i] : edges[i + 1]].diagonal()
            total = total + 0.5 * (own * state[name].square()).sum(1)
            if i < 2:
                coupling = self.hessian[edges[i] : edges[i + 1], edges[i + 1] : edges[i + 2]]
                total = total + ((state[name] @ coupling) * state[NAMES[i + 1]]).sum(1)
        return total


def chain(seed: int, margin: float = 0.3) -> Tensor:
    """A random positive definite matrix of this pattern."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.block_diag(*(torch.ones(n, n) for n in SIZES)) > 0
    far = torch.zeros(7, 7, dtype=torch.bool)
    far[:2, 5:] = far[5:, :2] = True
    raw = torch.randn(7, 7, generator=generator, dtype=F64)
    raw = (raw + raw.T).masked_fill(pattern | far, 0.0)
    lowest = torch.linalg.eigvalsh(raw)[0]
    return raw + torch.diag(margin - lowest + torch.rand(7, generator=generator, dtype=F64))


def join(solution: en.Solution) -> np.ndarray:
    return torch.cat([solution.state[name] for name in NAMES], 1).numpy()


SOLVERS = {
    "euler": en.Euler(0.1),
    "heun": en.Heun(0.1),
    "rk4": en.RungeKutta4(0.1),
    "block": en.BlockDescent(),
    "momentum": en.BlockDescent(momentum=True),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_convex_quadratic_ends_at_the_solution_of_the_linear_system(solver: str) -> None:
    hessian = chain(0)
    energy = Layers(hessian, **{n: en.Real(k) for n, k in zip(NAMES, SIZES, strict=True)})
    field = torch.randn(6, 7, dtype=F64, generator=torch.Generator().manual_seed(1))
    solution = en.settle(energy, clamp={"f": field}, solver=SOLVERS[solver], max_steps=5000, throw=True)
    assert join(solution) == pytest.approx(np.linalg.solve(hessian.numpy(), field.numpy().T).T, abs=1e-8)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), solver=st.sampled_from(["euler", "block", "momentum"]))
def test_in_a_box_it_is_the_minimum_that_scipy_finds(seed: int, solver: str) -> None:
    hessian = chain(seed)
    domains = (en.Unit(2), en.Interval(3, low=-0.5, high=0.25), en.NonNegative(2))
    energy = Layers(hessian, **dict(zip(NAMES, domains, strict=True)))
    field = 2 * torch.randn(3, 7, dtype=F64, generator=torch.Generator().manual_seed(seed))
    solution = en.settle(energy, clamp={"f": field}, solver=SOLVERS[solver], max_steps=5000, throw=True)
    bounds = [(0, 1)] * 2 + [(-0.5, 0.25)] * 3 + [(0, None)] * 2
    matrix = hessian.numpy()
    found = join(solution)
    for i, own in enumerate(field.numpy()):
        best = minimize(
            lambda z, own=own: (0.5 * z @ matrix @ z - own @ z, matrix @ z - own),
            np.full(7, 0.1),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-15, "gtol": 1e-12},
        )
        value = 0.5 * found[i] @ matrix @ found[i] - own @ found[i]
        assert value <= best.fun + 1e-9
        assert found[i] == pytest.approx(best.x, abs=1e-4)


def test_one_exact_sweep_minimises_a_variable_given_the_rest() -> None:
    hessian = chain(3)
    energy = Layers(hessian, **{n: en.Real(k) for n, k in zip(NAMES, SIZES, strict=True)})
    field = torch.ones(1, 7, dtype=F64)
    start = {n: torch.ones(1, k, dtype=F64) for n, k in zip(NAMES, SIZES, strict=True)}
    state = en.settle(energy, start, clamp={"f": field}, max_steps=1).state
    z = torch.ones(7, dtype=F64)
    for rows in ([0, 1, 5, 6], [2, 3, 4]):  # a and c do not read each other; then b
        rest = [i for i in range(7) if i not in rows]
        z[rows] = (1 - hessian[rows][:, rest] @ z[rest]) / hessian.diagonal()[rows]
    assert torch.allclose(torch.cat([state[n][0] for n in NAMES]), z)


def test_momentum_takes_fewer_sweeps_where_sweeps_are_slow() -> None:
    energy = Layers(chain(5, margin=0.01), **{n: en.Real(k) for n, k in zip(NAMES, SIZES, strict=True)})
    clamp = {"f": torch.ones(1, 7, dtype=F64)}
    plain, fast = (
        en.settle(energy, clamp=clamp, solver=SOLVERS[s], max_steps=9000) for s in ("block", "momentum")
    )
    assert int(fast.steps) < int(plain.steps)
    assert join(fast) == pytest.approx(join(plain), abs=1e-6)


def test_a_separable_energy_is_minimised_by_newton_steps() -> None:
    """s^4 / 4 + s^2 / 2 = f s: the root of s^3 + s = f by Cardano."""
    field = torch.linspace(-3, 3, 14, dtype=F64).view(7, 2)
    energy = Functional(
        lambda e, f, s: (s.pow(4) / 4 + s.square() / 2 - f * s).sum(1), f=en.Real(2), s=en.Real(2)
    ).double()
    solution = en.settle(energy, clamp={"f": field}, throw=True)
    under = (field.square() / 4 + 1 / 27).sqrt()

    def cube_root(v: Tensor) -> Tensor:
        return v.sign() * v.abs().pow(1 / 3)

    expected = cube_root(field / 2 + under) + cube_root(field / 2 - under)
    assert torch.allclose(solution.state["s"], expected, atol=1e-8)
    assert int(solution.steps.max()) <= 40


@pytest.mark.parametrize(
    "solver", [en.BlockDescent(), en.BlockDescent(momentum=True)], ids=["plain", "momentum"]
)
def test_a_curvature_that_another_free_variable_sets(solver: en.Solver) -> None:
    """(1 + y^2) x^2 / 2 - x + y^2 / 2 - 0.3 y: x = 1 / (1 + y^2), and y the root that scipy finds."""

    def energy(_: object, x: Tensor, y: Tensor) -> Tensor:
        return (0.5 * (1 + y.square()) * x.square() - x + 0.5 * y.square() - 0.3 * y).sum(-1)

    start = {"x": torch.rand(3, 2, dtype=F64), "y": torch.rand(3, 2, dtype=F64)}
    gated = Functional(energy, x=en.Real(2), y=en.Real(2))
    found = en.settle(gated, start, solver=solver, until=en.Stationary(atol=1e-10), throw=True).state
    y = brentq(lambda y: y * (1 / (1 + y**2) ** 2 + 1) - 0.3, 0, 1, xtol=1e-14)
    assert torch.allclose(found["y"], torch.full((3, 2), y, dtype=F64), rtol=0, atol=1e-9)
    assert torch.allclose(found["x"], torch.full((3, 2), 1 / (1 + y**2), dtype=F64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", ["block", "momentum", "euler"])
def test_units_that_read_each_other_settle_too(solver: str) -> None:
    hessian = chain(7)
    dense = Functional(
        lambda e, f, s: 0.5 * torch.einsum("bi,ij,bj->b", s, e.H, s) - (s * f).sum(1),
        {"H": hessian}, f=en.Real(7), s=en.Real(7),
    )  # fmt: skip
    field = torch.ones(2, 7, dtype=F64)
    solution = en.settle(dense, clamp={"f": field}, solver=SOLVERS[solver], max_steps=5000, throw=True)
    expected = np.linalg.solve(hessian.numpy(), np.ones(7))
    assert solution.state["s"].numpy() == pytest.approx(np.tile(expected, (2, 1)), abs=1e-7)


def concave(e: Any, f: Tensor, s: Tensor) -> Tensor:
    return (-0.5 * s.square() - f * s).sum(1)


def test_a_concave_energy_in_a_box_ends_at_the_lower_end() -> None:
    energy = Functional(concave, f=en.Real(2), s=en.Unit(2))
    field = torch.tensor([[-0.4, -0.6], [0.3, -2.0]])  # E(1) - E(0) = -1/2 - f
    solution = en.settle(energy, clamp={"f": field}, throw=True)
    assert solution.state["s"].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("variable", [en.Real(2), en.NonNegative(2)], ids=repr)
def test_an_energy_without_a_minimum_is_an_error(variable: en.Variable) -> None:
    for function in (concave, lambda e, f, s: (f * s).sum(1)):
        energy = Functional(function, f=en.Real(2), s=variable)
        with pytest.raises(en.SettlingError, match=r"'s'.*no minimum.*Leak"):
            en.settle(energy, clamp={"f": torch.ones(1, 2)})


def test_a_linear_energy_in_a_box_ends_at_its_corner() -> None:
    energy = Functional(lambda e, f, s: (f * s).sum(1), f=en.Real(3), s=en.Interval(3, low=-1, high=2))
    solution = en.settle(energy, clamp={"f": torch.tensor([[1.0, -1.0, 0.0]])})
    assert solution.state["s"].tolist() == [[-1, 2, 0]]


@pytest.mark.parametrize("dt", [0, -0.1, float("nan"), float("inf"), "0.1"])
@pytest.mark.parametrize("solver", [en.Euler, en.Heun, en.RungeKutta4])
def test_steps_are_positive(solver: Any, dt: Any) -> None:
    with pytest.raises(ValueError, match=f"{solver.__name__}: dt must be a positive number"):
        solver(dt)


@pytest.mark.parametrize("tau", [0.01, 100.0])
@pytest.mark.parametrize("solver", ["block", "momentum"])
def test_time_constants_do_not_move_the_minimum_of_exact_sweeps(solver: str, tau: float) -> None:
    hessian = chain(0)
    energy = Layers(hessian, a=en.Real(2, tau=tau), b=en.Real(3), c=en.Real(2, tau=tau))
    solution = en.settle(energy, clamp={"f": torch.ones(1, 7, dtype=F64)}, solver=SOLVERS[solver])
    assert join(solution)[0] == pytest.approx(np.linalg.solve(hessian.numpy(), np.ones(7)), abs=1e-6)


def test_a_solver_of_ones_own_needs_only_a_step() -> None:
    class Momentum(en.Solver):
        """Heavy-ball steps, whose carry is dropped sample by sample."""

        def init(self, flow: Any, state: Any) -> Any:
            return {"speed": {name: torch.zeros_like(value) for name, value in state.items()}}

        def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
            velocity = flow.velocity(state)
            speed = {n: 0.5 * carry["speed"][n] + 0.1 * velocity[n] for n in state}
            return {n: state[n] + speed[n] for n in state}, {"speed": speed}, flow.residual(state, velocity)

    hessian = chain(0)
    energy = Layers(hessian, **{n: en.Real(k) for n, k in zip(NAMES, SIZES, strict=True)})
    field = torch.randn(6, 7, dtype=F64, generator=torch.Generator().manual_seed(1)) * torch.logspace(
        -3, 1, 6, dtype=F64
    ).unsqueeze(1)
    solution = en.settle(energy, clamp={"f": field}, solver=Momentum(), throw=True)
    assert len(set(solution.steps.tolist())) > 1
    assert all(int(n) % 5 == 0 for n in solution.steps)
    assert join(solution) == pytest.approx(np.linalg.solve(hessian.numpy(), field.numpy().T).T, abs=1e-8)


@pytest.mark.parametrize("tau", [0.001, 1000.0])
def test_the_residual_of_sweeps_is_the_velocity(tau: float) -> None:
    hessian = chain(0)
    energy = Layers(hessian, a=en.Real(2, tau=tau), b=en.Real(3, tau=tau), c=en.Real(2, tau=tau))
    solver, atol = en.BlockDescent(), 1e-5 / tau
    clamp = {"f": torch.ones(1, 7, dtype=F64)}
    solution = en.settle(energy, clamp=clamp, solver=solver, until=en.Stationary(atol=atol), throw=True)
    assert float(solution.residual) <= 10 * atol
    earlier = en.settle(
        energy, clamp=clamp, solver=solver, max_steps=int(solution.steps) - 5, until=en.Never()
    )
    assert float(earlier.residual) > atol / 10
