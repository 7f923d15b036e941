"""Safeguarded minimisers against linear algebra, scipy, and fixed points iterated in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize
from torch import Tensor

import energynet as en
from energynet.terms import Leak, Sparsity
from helpers.functional import Functional
from helpers.guarded import F64, Quadratic, definite, fixed_point, ista, joined, lca, normal, stiff

SOLVERS = {"lbfgs": en.LBFGS(), "anderson": en.Anderson(), "newton": en.NewtonKrylov()}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@every_solver
@pytest.mark.parametrize("tau", [1.0, 50.0])
def test_a_quadratic_ends_at_the_solution_of_the_linear_system(solver: en.Solver, tau: float) -> None:
    hessian = definite(8, condition=100)
    energy = Quadratic(hessian, en.Real(4, tau=tau), en.Real(2, 2))
    field = normal(6, 8, seed=1) * torch.logspace(-3, 2, 6, dtype=F64).unsqueeze(1)
    solution = en.settle(
        energy, clamp={"f": field}, solver=solver, until=en.Stationary(atol=1e-11), throw=True
    )
    expected = np.linalg.solve(hessian.numpy(), field.numpy().T).T
    assert joined(solution) == pytest.approx(expected, abs=100 * tau * 1e-11)  # residual over curvature


@settings(max_examples=4)
@given(seed=st.integers(0, 10_000))
@every_solver
def test_in_a_box_it_is_the_minimum_of_bounded_least_squares(solver: en.Solver, seed: int) -> None:
    hessian = definite(8, condition=30, seed=seed)
    energy = Quadratic(hessian, en.Interval(4, low=-0.5, high=0.25, tau=3.0), en.NonNegative(4))
    field = normal(8, 8, seed=seed + 1)
    solution = en.settle(energy, clamp={"f": field}, solver=solver, throw=True)
    root = np.linalg.cholesky(hessian.numpy()).T  # |R z - R^-T f|^2 / 2 = E + a constant
    low, high = [-0.5] * 4 + [0] * 4, [0.25] * 4 + [np.inf] * 4
    for i, own in enumerate(field.numpy()):
        best = lsq_linear(root, np.linalg.solve(root.T, own), (low, high), method="bvls", tol=1e-14)
        assert joined(solution)[i] == pytest.approx(best.x, abs=1e-7)


def test_newton_solves_a_quadratic_in_one_step() -> None:
    hessian = definite(6, condition=10)
    energy = Quadratic(hessian, en.Real(3), en.Real(3))
    field = normal(2, 6, seed=1)
    solution = en.settle(energy, clamp={"f": field}, solver=en.NewtonKrylov(products=6), max_steps=1)
    expected = np.linalg.solve(hessian.numpy(), field.numpy().T).T
    assert joined(solution) == pytest.approx(expected, abs=1e-9)


def test_bfgs_with_a_full_memory_is_superlinear_on_a_quadratic() -> None:
    """Without one the error falls by (k - 1) / (k + 1) = 0.998 a step at best, for a condition of k = 1000."""
    energy = Quadratic(definite(8, condition=1000), en.Real(4), en.Real(4))
    clamp, until = {"f": normal(5, 8, seed=1)}, en.Stationary(atol=1e-9)
    en.settle(energy, clamp=clamp, solver=en.LBFGS(history=40), max_steps=60, until=until, throw=True)


@every_solver
def test_ill_conditioned_energies_take_few_steps(solver: en.Solver) -> None:
    """Euler's best step contracts by 1 - 2e-4 a step at a condition of 1e4: 1e-6 takes 69,000 steps.

    Terms of the energy are of the size of |f|^2 * 1e4 and cancel to 1e-16 of that: slopes have to decide the
    last part of the way.
    """
    energy = Quadratic(definite(20, condition=1e4), en.Real(10), en.Real(10))
    clamp, until = {"f": normal(3, 20, seed=1)}, en.Stationary(atol=1e-6)
    en.settle(energy, clamp=clamp, solver=solver, until=until, max_steps=1000, throw=True)


def falls(solution: en.Solution) -> bool:
    """Whether the energy never rises by more than rounding makes of terms of the size of 1000."""
    return bool((solution.trajectory.diff(dim=0) <= 1e-10).all())


def rosenbrock(_: Any, s: Tensor) -> Tensor:
    return (100 * (s[:, 1:] - s[:, :-1].square()).square() + (1 - s[:, :-1]).square()).sum(1)


@every_solver
def test_the_curved_valley_of_rosenbrock_leads_to_its_end_and_down(solver: en.Solver) -> None:
    start = {"s": torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -1.5]], dtype=F64)}
    energy = Functional(rosenbrock, s=en.Real(2))
    solution = en.settle(
        energy, start, solver=solver, record="energy", throw=True, until=en.Stationary(atol=1e-9)
    )
    assert solution.state["s"].numpy() == pytest.approx(np.ones((3, 2)), abs=1e-7)
    assert falls(solution)
    assert (solution.statistics["refused"] >= 1).all()


def wells(e: Any, s: Tensor) -> Tensor:
    """Double wells that pull on one another."""
    return ((s.square() - 1).square() / 4).sum(1) + 0.3 * ((s @ e.W) * s).sum(1)


@every_solver
def test_energies_that_are_not_convex_end_in_minima_that_scipy_does_not_leave(solver: en.Solver) -> None:
    coupling = normal(6, 6, seed=3)
    coupling = (coupling + coupling.T) / 2
    energy = Functional(wells, {"W": coupling}, s=en.Interval(6, low=-1.5, high=2.0))
    start = {"s": 0.3 * normal(8, 6, seed=4)}
    solution = en.settle(
        energy, start, solver=solver, record="energy", throw=True, until=en.Stationary(atol=1e-9)
    )
    end = solution.state["s"].numpy()
    assert falls(solution)
    matrix = coupling.numpy()
    for i in range(8):
        found = minimize(
            lambda z: ((z**2 - 1) ** 2 / 4).sum() + 0.3 * z @ matrix @ z,
            end[i],
            jac=lambda z: z**3 - z + 0.6 * matrix @ z,
            method="L-BFGS-B",
            bounds=[(-1.5, 2.0)] * 6,
            options={"ftol": 1e-15, "gtol": 1e-12},
        )
        assert found.x == pytest.approx(end[i], abs=1e-6)


@every_solver
@pytest.mark.parametrize("partial", [False, True], ids=["whole", "partial"])
@pytest.mark.parametrize("kind", ["hardsigmoid", "sigmoid", "tanh"])
def test_stiff_networks_reach_their_fixed_point(solver: en.Solver, kind: str, partial: bool) -> None:
    energy, matrix, inputs, bias = stiff(kind)
    x = normal(6, 3, seed=5)
    held = np.full((6, 16), np.nan)
    clamp: dict[str, Any] = {"x": x}
    if partial:
        held[:, 6:9] = np.linspace(0.1, 0.9, 18).reshape(6, 3)
        held[::2, 12] = 1.0  # an end of the range of the link
        g, y = torch.from_numpy(held[:, 5:12]), torch.from_numpy(held[:, 12:])
        clamp |= {"g": en.Partial(g, ~g.isnan()), "y": en.Partial(y, ~y.isnan())}
    expected = fixed_point(kind, matrix, x.numpy() @ inputs + bias, held if partial else None)
    solution = en.settle(energy, clamp=clamp, solver=solver, throw=True, until=en.Stationary(atol=1e-11))
    found = torch.cat([solution.state[name] for name in ("h", "g", "y")], 1).numpy()
    assert found == pytest.approx(expected, abs=1e-8)
    assert (found[~np.isnan(held)] == held[~np.isnan(held)]).all()
    assert int(solution.steps.max()) <= 150


class Inhibition(en.Energy):
    """Hard-sigmoid units that inhibit one another, strongly."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(f=en.Real(len(weight)), s=en.Unit(len(weight)))
        self.register_buffer("weight", weight)

    def energy(self, f: Tensor, s: Tensor) -> Tensor:
        return 0.5 * s.square().sum(1) + 0.5 * ((s @ self.weight) * s).sum(1) - (s * f).sum(1)


def unguarded(field: np.ndarray, weight: np.ndarray, held: np.ndarray, steps: int) -> float:
    """The residual where plain Anderson acceleration of s <- clip(f - W s), with a memory of 5, ends."""
    states: list[np.ndarray] = []
    forces: list[np.ndarray] = []
    state = np.where(np.isnan(held), 0.0, held)
    for _ in range(steps):
        force = np.where(np.isnan(held), (field - weight @ state).clip(0, 1) - state, 0.0)
        states, forces = [*states, state][-6:], [*forces, force][-6:]
        ds, df = np.diff(np.array(states), axis=0).T, np.diff(np.array(forces), axis=0).T
        mix = np.linalg.lstsq(df, force, rcond=None)[0] if ds.size else np.zeros(0)
        state = (state + force - ((ds + df) @ mix if ds.size else 0.0)).clip(0, 1)
    return float(np.abs(force).max())


@every_solver
def test_clamped_states_on_which_plain_anderson_acceleration_fails_settle(solver: en.Solver) -> None:
    rng = np.random.default_rng(3)
    weight = rng.uniform(size=(20, 20)) * 2
    weight = (weight + weight.T) / 2
    np.fill_diagonal(weight, 0.0)
    field = rng.uniform(3.0, 6.0, size=(16, 20))
    held = np.full((16, 20), np.nan)
    held[:, :6] = rng.uniform(size=(16, 6))
    plain = [unguarded(f, weight, h, 200) for f, h in zip(field, held, strict=True)]
    assert sum(residual > 1e-3 for residual in plain) >= 1
    values = torch.from_numpy(held)
    clamp = {"f": torch.from_numpy(field), "s": en.Partial(values, ~values.isnan())}
    solution = en.settle(
        Inhibition(torch.from_numpy(weight)), clamp=clamp, solver=solver, record="energy", throw=True
    )
    assert falls(solution)
    state = solution.state["s"].numpy()
    moved = np.where(np.isnan(held), (field - state @ weight).clip(0, 1), held)
    assert state == pytest.approx(moved, abs=1e-9)
    assert int(solution.steps.max()) <= 200


@every_solver
@pytest.mark.parametrize("nonnegative", [False, True])
def test_sparse_codes_through_a_threshold_are_those_of_ista(solver: en.Solver, nonnegative: bool) -> None:
    """They start where every unit is below its threshold, so that the energy does not see any of them."""
    energy = lca(12, 16, 0.3, nonnegative)
    x = normal(5, 16, seed=10)
    until = en.Stationary(atol=1e-11)
    solution = en.settle(energy, clamp={"x": x}, solver=solver, throw=True, until=until, max_steps=300)
    weight = next(iter(energy.parameters())).detach().numpy()
    expected = ista(weight, x.numpy(), 0.3, nonnegative)
    assert solution.state["a"].numpy() == pytest.approx(expected, abs=1e-8)
    assert 0 < (expected == 0).mean() < 1
    assert (solution.state["a"].numpy()[expected == 0] == 0).all()


@every_solver
def test_float32_reaches_its_tolerance(solver: en.Solver) -> None:
    """In a flat valley, in a stiff network, and at codes with more atoms than inputs."""
    network, *_ = stiff("tanh")
    cases: list[tuple[en.Energy, dict[str, Tensor]]] = [
        (Quadratic(definite(8, condition=1000), en.Real(4), en.Unit(4)), {"f": normal(4, 8, seed=1)}),
        (network, {"x": normal(4, 3, seed=1)}),
        (lca(24, 16, 0.3), {"x": normal(4, 16, seed=10)}),
    ]
    for energy, clamp in cases:
        energy.float()
        single = {name: value.float() for name, value in clamp.items()}
        solution = en.settle(energy, clamp=single, solver=solver, max_steps=500)
        assert (solution.status == en.Status.CONVERGED).all()


@every_solver
def test_a_sample_takes_the_same_path_whatever_its_companions(solver: en.Solver) -> None:
    energy = Functional(rosenbrock, s=en.Interval(3, low=-2.0, high=0.8))
    start = 0.8 - 1.5 * normal(5, 3, seed=2).abs().clamp(max=1.8)
    whole = en.settle(energy, {"s": start}, solver=solver, record="state", max_steps=25, until=en.Never())
    steps = en.settle(energy, {"s": start}, solver=solver).steps
    for i in range(5):
        own = {"s": start[i : i + 1]}
        alone = en.settle(energy, own, solver=solver, record="state", max_steps=25, until=en.Never())
        assert torch.allclose(whole.trajectory["s"][:, i], alone.trajectory["s"][:, 0], rtol=1e-9, atol=1e-9)
        assert int(en.settle(energy, own, solver=solver).steps) == int(steps[i])
    assert len(set(steps.tolist())) > 1


@every_solver
def test_a_trial_where_the_energy_is_not_defined_is_taken_back(solver: en.Solver) -> None:
    """From 3 a step of the force leads to s < 0, where log s is not a number."""
    energy = Functional(lambda e, s: (50 * (s - s.log())).sum(1), s=en.Real(2))
    start = {"s": torch.tensor([[3.0, 0.01], [2.0, 7.0]], dtype=F64)}
    solution = en.settle(energy, start, solver=solver, throw=True)
    assert solution.state["s"].numpy() == pytest.approx(np.ones((2, 2)), abs=1e-9)


@every_solver
def test_an_energy_that_is_not_bounded_below_diverges(solver: en.Solver) -> None:
    energy = Functional(lambda e, s: -s.pow(4).sum(1), s=en.Real(2))
    start = {"s": torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=F64)}
    assert en.settle(energy, start, solver=solver).status.tolist() == [
        en.Status.DIVERGED,
        en.Status.CONVERGED,
    ]


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "3"])
def test_histories_and_products_are_whole_numbers_above_zero(number: Any) -> None:
    for kind, name in ((en.LBFGS, "history"), (en.Anderson, "history"), (en.NewtonKrylov, "products")):
        with pytest.raises(ValueError, match=f"{kind.__name__}: {name} must be a whole number above 0"):
            kind(number)


@every_solver
def test_energies_with_known_kinks_and_flows_without_an_energy_are_refused(solver: en.Solver) -> None:
    code = en.Real(3)
    energy = Sparsity(0.1, a=code) + Leak(a=code)
    with pytest.raises(en.SettlingError, match=f"{type(solver).__name__} needs .*Sparsity.*Proximal.*link"):
        en.settle(energy, solver=solver)

    class Still(en.Flow):
        names = ("s",)

        def velocity(self, point: Any) -> Any:
            return {"s": -point["s"]}

        def project(self, point: Any) -> Any:
            return point

        def values(self, point: Any) -> Any:
            return point

        def residual(self, point: Any, velocity: Any) -> Tensor:
            return velocity["s"].abs().amax(1)

        def take(self, index: Tensor) -> Still:
            return self

    with pytest.raises(en.SettlingError, match=f"{type(solver).__name__} needs the energy of a flow"):
        solver.init(Still(), {"s": torch.ones(1, 2)})


@pytest.mark.parametrize("solver", [en.LBFGS(2), en.Anderson(2)], ids=["lbfgs", "anderson"])
def test_a_refused_step_leaves_no_trace_in_the_memory(solver: Any) -> None:
    """Beyond zero c (s - log s) is NaN, and so would be every direction made of what was there: at c = 100."""
    energy = Functional(lambda e, s, c: (c * (s - s.log())).sum(1), s=en.Real(1), c=en.Real(1))
    clamp = {"c": torch.tensor([[100.0], [1.0]], dtype=F64)}
    flow = solver.flow(energy, clamp, {"s": torch.full((2, 1), 1.5, dtype=F64)})
    with torch.no_grad():
        state, carry, _ = solver.step(flow, flow.start, solver.init(flow, flow.start), None)
    assert carry["refused"].tolist() == [1, 0]
    assert torch.equal(state["s"][0], flow.start["s"][0])
    assert state["s"][1] != flow.start["s"][1]
    for name in ("steps", "changes"):
        newest = carry["memory"][name][-1]
        assert newest[0] == 0
        assert newest[1] != 0
    assert (carry["memory"]["curvature"][:, -1] > 0).tolist() == [False, True]


@pytest.mark.parametrize("taus", [(1.0, 1.0), (3.0, 3.0), (3.0, 50.0)])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_residual_is_that_of_the_flow(taus: tuple[float, float], bounded: bool) -> None:
    first = en.NonNegative(4, tau=taus[0]) if bounded else en.Real(4, tau=taus[0])
    energy = Quadratic(definite(8, condition=10), first, en.Real(4, tau=taus[1]))
    solver = en.LBFGS()
    flow = solver.flow(energy, {"f": normal(3, 8, seed=1)})
    with torch.no_grad():
        point, carry = flow.start, solver.init(flow, flow.start)
        for _ in range(3):
            point, carry, residual = solver.step(flow, point, carry, None)
            expected = flow.residual(point, flow.velocity(point))
            assert torch.allclose(residual, expected, rtol=1e-9)
