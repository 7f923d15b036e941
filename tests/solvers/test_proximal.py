"""Proximal against optimality conditions, scikit-learn, scipy, LCA and the bounds of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

import energynet as en
from energynet.terms import Leak, Reconstruction, Sparsity
from helpers.functional import Functional
from helpers.lasso import (
    KINDS,
    STRENGTH,
    by_coordinate_descent,
    draw,
    in_box,
    lasso,
    objective,
    violation,
    with_dictionary,
)

F64 = torch.float64
SHAPES = [(6, 4), (4, 6)]


def code(
    energy: en.Energy, x: np.ndarray, solver: en.Solver | None = None, steps: int = 20_000
) -> np.ndarray:
    solver = en.Proximal() if solver is None else solver
    solution = en.settle(energy, clamp={"x": torch.from_numpy(x)}, solver=solver, max_steps=steps, throw=True)
    return solution.state["a"].numpy()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from(SHAPES), kind=st.sampled_from(KINDS))
def test_codes_are_optimal_and_as_good_as_those_of_coordinate_descent(
    seed: int, shape: tuple[int, int], kind: str
) -> None:
    weight, x = draw(seed, *shape, kind)
    found = code(with_dictionary(lasso(shape[0], en.Real(shape[1])), weight), x)
    assert violation(weight, x, found) <= 1e-8
    best = objective(weight, x, by_coordinate_descent(weight, x))
    assert objective(weight, x, found) == pytest.approx(best, abs=1e-10)
    if kind in ("no input", "threshold above every correlation"):
        assert not found.any()


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from(SHAPES))
def test_non_negative_codes(seed: int, shape: tuple[int, int]) -> None:
    weight, x = draw(seed, *shape)
    found = code(with_dictionary(lasso(shape[0], en.NonNegative(shape[1])), weight), x)
    assert (found >= 0).all()
    assert violation(weight, x, found, positive=True) <= 1e-8
    best = objective(weight, x, by_coordinate_descent(weight, x, positive=True))
    assert objective(weight, x, found) == pytest.approx(best, abs=1e-10)


def quadratic(e: Any, f: Tensor, a: Tensor) -> Tensor:
    return 0.5 * ((a @ e.H) * a).sum(1) - (f * a).sum(1)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()])
@pytest.mark.parametrize("ends", [(-0.5, 0.25), (0.2, 1.5), (0.0, 0.4)], ids=str)
@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_in_a_box_the_projected_map_gives_the_minimum_that_scipy_finds(
    solver: en.Solver, ends: tuple[float, float], strength: float
) -> None:
    """Also where zero is outside, or an end: the map of one unit is projected, whatever its interval."""
    random = np.random.default_rng(1)
    root = random.normal(size=(5, 5))
    hessian, field = root @ root.T / 5 + 0.3 * np.eye(5), 1.5 * random.normal(size=(4, 5))
    variable = en.Interval(5, low=ends[0], high=ends[1])
    energy = Functional(quadratic, {"H": torch.from_numpy(hessian)}, f=en.Real(5), a=variable)
    clamp = {"f": torch.from_numpy(field)}
    whole = energy + Sparsity(strength, a=variable) if strength else energy
    found = en.settle(whole, clamp=clamp, solver=solver, max_steps=5000, throw=True).state["a"].numpy()
    expected = np.stack([in_box(hessian, one, strength, *ends) for one in field])
    assert (found == ends[0]).any() or (found == ends[1]).any()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("solver", [en.Proximal(), en.ADMM()])
def test_a_locally_competitive_network_is_solved_unchanged(solver: en.Solver, positive: bool) -> None:
    weight, x = draw(3, 8, 5)
    x /= 4  # so that some units stay below the threshold
    link = en.SoftThreshold(STRENGTH, nonnegative=positive)
    variable = en.NonNegative(5, link=link) if positive else en.Real(5, link=link)
    energy = with_dictionary(lasso(8, variable), weight)
    dt = 1 / np.linalg.eigvalsh(weight.T @ weight)[-1]
    potential = np.zeros((3, 5))  # tau du/dt = W' (x - W a) + a - u (Rozell et al. 2008, eq. 2.3), by hand
    for _ in range(6000):
        a = np.sign(potential) * (np.abs(potential) - STRENGTH).clip(min=0)
        a = a.clip(min=0) if positive else a
        potential += dt * ((x - a @ weight.T) @ weight + a - potential)
    found = code(energy, x, solver)
    assert found == pytest.approx(a, abs=1e-8)
    assert code(energy, x, en.Euler(dt)) == pytest.approx(a, abs=1e-8)
    assert (found == 0).any()


def hard() -> tuple[en.Energy, dict[str, Tensor], float, np.ndarray]:
    """Nesterov's chain, slow for every method of first order, with a little sparsity; and its minimum."""
    size = 30
    hessian = (2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)) / 4
    field = np.zeros((1, size))
    field[0, 0] = 0.25
    energy = Functional(quadratic, {"H": torch.from_numpy(hessian)}, f=en.Real(size), a=en.Real(size))
    strength = 1e-5
    best = np.linalg.solve(hessian, field[0] - strength)
    assert (best > 0).all()  # so that this is the minimum
    whole = energy + Sparsity(strength, a=en.Real(size))
    return whole, {"f": torch.from_numpy(field)}, float(np.linalg.eigvalsh(hessian)[-1]), best


def gaps(solver: en.Solver, steps: int) -> tuple[np.ndarray, float, float]:
    energy, clamp, steepest, best = hard()
    path = en.settle(
        energy, clamp=clamp, solver=solver, max_steps=steps, until=en.Never(), record="energy"
    ).trajectory
    lowest = energy.energy(**clamp, a=torch.from_numpy(best[None]))
    return (path - lowest).detach().numpy()[:, 0], steepest, float((best**2).sum())


def test_the_rates_are_those_of_the_paper() -> None:
    """Theorems 3.1 and 4.4, at step 1 / L from zero: L r^2 / (2 k), and 2 L r^2 / (k + 1)^2 without restart."""
    k = np.arange(1, 301)
    dt = 1 / hard()[2]
    plain, steepest, square = gaps(en.Proximal(accelerate=False, dt=dt), 300)
    fast, _, _ = gaps(en.Proximal(dt=dt, restart=False), 300)
    assert (plain[1:] <= steepest * square / (2 * k) + 1e-12).all()
    bound = 2 * steepest * square / (k + 1) ** 2 + 1e-12
    assert (fast[1:] <= bound).all()
    assert (plain[1:] > bound).any()  # so that the bound tells them apart


def test_the_steps_are_those_of_the_paper() -> None:
    """Equations 4.1 to 4.3 in numpy, from zero at step 1 / L."""
    weight, x = draw(11, 6, 8)
    steepest = float(np.linalg.eigvalsh(weight.T @ weight)[-1])
    last, ahead, t, expected = np.zeros((3, 8)), np.zeros((3, 8)), 1.0, []
    for _ in range(30):
        moved = ahead + (x - ahead @ weight.T) @ weight / steepest
        moved = np.sign(moved) * (np.abs(moved) - STRENGTH / steepest).clip(min=0)
        older = (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead = moved + (t - 1) / older * (moved - last)
        last, t = moved, older
        expected.append(moved)
    path = en.settle(
        with_dictionary(lasso(6, en.Real(8)), weight),
        clamp={"x": torch.from_numpy(x)},
        solver=en.Proximal(dt=1 / steepest, restart=False),
        max_steps=30,
        until=en.Never(),
        record="state",
    ).trajectory["a"]
    assert path[1:].numpy() == pytest.approx(np.stack(expected), abs=1e-11)


def test_restart_ends_the_ripples_of_an_ill_conditioned_problem() -> None:
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(20, 20)))[0]
    weight = turn * np.sqrt(np.logspace(-2.5, 0, 20))  # curvatures from 0.003 to 1
    energy, x = with_dictionary(lasso(20, en.Real(20)), weight.T), 10 * random.normal(size=(1, 20))

    def steps(solver: en.Solver) -> int:
        clamp = {"x": torch.from_numpy(x)}
        solution = en.settle(energy, clamp=clamp, solver=solver, max_steps=20_000, throw=True)
        return int(solution.steps.max())

    with_restart, without, plain = (
        steps(s) for s in (en.Proximal(), en.Proximal(restart=False), en.Proximal(accelerate=False))
    )
    assert 3 * with_restart < without
    assert 3 * with_restart < plain


def logistic(e: Any, y: Tensor, a: Tensor) -> Tensor:
    return functional.softplus(-y * (a @ e.X.T)).sum(1)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.Proximal(dt=30.0)])
def test_a_logistic_smooth_part_has_the_minimum_that_scipy_finds(solver: en.Solver) -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(30, 5)) * np.logspace(0, -0.5, 5)
    labels = np.sign(features[:, :1] + 0.8 * random.normal(size=(30, 2))).T
    strength = 0.7
    energy = Functional(logistic, {"X": torch.from_numpy(features)}, y=en.Real(30), a=en.Real(5))
    whole = energy + Sparsity(strength, a=en.Real(5))
    clamp = {"y": torch.from_numpy(np.ascontiguousarray(labels))}
    solution = en.settle(whole, clamp=clamp, solver=solver, max_steps=5000, throw=True)
    for i, y in enumerate(labels):

        def split(pq: np.ndarray, y: np.ndarray = y) -> tuple[float, np.ndarray]:
            margin = y * (features @ (pq[:5] - pq[5:]))
            slope = -(y / (1 + np.exp(margin))) @ features
            value = np.logaddexp(0, -margin).sum() + strength * pq.sum()
            return value, np.concatenate([slope, -slope]) + strength

        options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 5000}
        best = minimize(
            split, np.zeros(10), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 10, options=options
        )
        assert float(solution.energy[i]) == pytest.approx(best.fun, abs=1e-9)
        assert solution.state["a"][i].numpy() == pytest.approx(best.x[:5] - best.x[5:], abs=1e-5)
    assert (solution.state["a"] == 0).any()


def quartic(e: Any, f: Tensor, a: Tensor) -> Tensor:
    return (0.25 * a.pow(4) + 0.5 * a.square() - f * a).sum(1) + 0.3 * (a[:, :1] * a[:, 1:]).sum(1)


@pytest.mark.parametrize("dt", [None, 1e-3, 100.0])
def test_plain_steps_never_raise_the_energy_whatever_the_first_step(dt: float | None) -> None:
    energy = Functional(quartic, f=en.Real(4), a=en.NonNegative(4)).double() + Sparsity(
        0.2, a=en.NonNegative(4)
    )
    clamp = {"f": 5 * torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(0))}
    start = {"a": torch.linspace(0, 10, 24, dtype=F64).view(6, 4)}
    solver = en.Proximal(accelerate=False, dt=dt)
    solution = en.settle(energy, start, clamp=clamp, solver=solver, record="energy", throw=True)
    path = solution.trajectory
    assert float((path[1:] - path[:-1]).max()) <= 1e-10
    assert float((path[0] - path[-1]).min()) > 1
    other = en.settle(energy, clamp=clamp, solver=en.Proximal(), throw=True)
    assert torch.allclose(solution.state["a"], other.state["a"], atol=1e-8)


def test_each_sample_has_a_step_of_its_own() -> None:
    """Curvatures from 1 to 10^6 within one batch: one step for all would need 10^6 of them."""
    energy = Functional(
        lambda e, f, s: (0.5 * f * s.square() - s).sum(1), f=en.Real(2), s=en.Real(2)
    ).double()
    scale = torch.logspace(0, 6, 4, dtype=F64).unsqueeze(1)
    clamp = {"f": scale * torch.tensor([1.0, 3.0], dtype=F64)}
    for solver in (en.Proximal(), en.Proximal(accelerate=False)):
        solution = en.settle(energy, clamp=clamp, solver=solver, until=en.Stationary(atol=1e-9), throw=True)
        assert int(solution.steps.max()) <= 60
        assert torch.allclose(solution.state["s"] * clamp["f"], torch.ones(4, 2, dtype=F64), atol=1e-8)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()])
def test_a_path_does_not_depend_on_the_rest_of_the_batch(solver: en.Solver) -> None:
    weight, x = draw(5, 6, 4)
    x = np.concatenate([x, 100 * x, 0.01 * x])
    energy = with_dictionary(lasso(6, en.Real(4)), weight)
    whole = en.settle(energy, clamp={"x": torch.from_numpy(x)}, solver=solver, max_steps=2000)
    assert len(set(whole.steps.tolist())) > 1
    for i in range(len(x)):
        alone = en.settle(energy, clamp={"x": torch.from_numpy(x[i : i + 1])}, solver=solver, max_steps=2000)
        assert int(alone.steps) == int(whole.steps[i])
        assert torch.allclose(alone.state["a"][0], whole.state["a"][i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()])
def test_codes_that_are_clamped_in_part_hold_and_the_rest_is_a_smaller_lasso(solver: en.Solver) -> None:
    weight, x = draw(7, 8, 5)
    energy = with_dictionary(lasso(8, en.Real(5)), weight)
    mask = torch.tensor([[True, False, False, True, False], [False] * 5, [False, True, True, True, False]])
    value = torch.linspace(-1, 2, 15, dtype=F64).view(3, 5)
    clamp = {"x": torch.from_numpy(x), "a": en.Partial(value, mask)}
    solution = en.settle(energy, clamp=clamp, solver=solver, max_steps=5000, throw=True)
    found = solution.state["a"]
    assert torch.equal(found[mask], value[mask])
    for i, held in enumerate(mask.numpy()):
        rest = x[i : i + 1] - value[i].numpy()[held] @ weight[:, held].T
        free = weight[:, ~held]
        assert violation(free, rest, found[i].numpy()[None, ~held]) <= 1e-8
        expected = by_coordinate_descent(free, rest)
        assert found[i].numpy()[~held] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()])
@pytest.mark.parametrize("tau", [0.1, 10.0])
def test_time_constants_do_not_move_the_codes(solver: en.Solver, tau: float) -> None:
    weight, x = draw(8, 6, 4)
    energy = with_dictionary(lasso(6, en.Real(4, tau=tau)), weight)
    assert violation(weight, x, code(energy, x, solver)) <= 1e-8


def test_codes_in_float32_reach_its_tolerance() -> None:
    weight, x = draw(9, 20, 12)
    weight /= np.linalg.norm(weight, axis=0)  # steeper ones round by more than the tolerance
    energy = with_dictionary(lasso(20, en.Real(12)), weight)
    single = Reconstruction("a", "x", a=en.Real(12), x=en.Real(20)) + Sparsity(STRENGTH, a=en.Real(12))
    with_dictionary(single, weight.astype(np.float32))
    for solver in (en.Proximal(), en.ADMM()):
        clamp = {"x": torch.from_numpy(x.astype(np.float32))}
        solution = en.settle(single, clamp=clamp, solver=solver, throw=True)
        assert solution.state["a"].numpy() == pytest.approx(code(energy, x), abs=1e-4)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False)])
def test_an_energy_without_a_minimum_diverges(solver: en.Solver) -> None:
    energy = Functional(lambda e, s: (s - 0.5 * s.square()).sum(1), s=en.Real(2))
    solution = en.settle(energy, {"s": torch.ones(2, 2) * 3}, solver=solver, max_steps=3000)
    assert solution.status.tolist() == [en.Status.DIVERGED] * 2


class Steep(en.ProximalTerm):
    """|s|^2 / 2, told as a proximal term: its map is exact, so that nothing is left to the smooth part."""

    def __init__(self, **variable: en.Variable) -> None:
        super().__init__(**variable)
        (self.variable,) = variable
        self.link = None

    def energy(self, **state: Tensor) -> Tensor:
        return 0.5 * state[self.variable].square().sum(1)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        raise AssertionError

    def slope(self, value: Tensor) -> Tensor:
        return value

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value / (1 + step)


@pytest.mark.parametrize("solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()])
def test_a_proximal_term_of_ones_own_with_a_factor(solver: en.Solver) -> None:
    """min 3 |s|^2 / 2 + |s - f|^2 / 2 is f / 4."""
    energy = 3.0 * Steep(s=en.Real(3)) + Functional(
        lambda e, f, s: 0.5 * (s - f).square().sum(1), f=en.Real(3), s=en.Real(3)
    )
    f = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    solution = en.settle(energy, clamp={"f": f}, solver=solver, throw=True)
    assert torch.allclose(solution.state["s"], f / 4, atol=1e-9)


REFUSED = {
    "two": (lambda: Steep(a=en.Real(2)) + Sparsity(0.1, a=en.Real(2)), r"'a' has two terms.*Steep.*Sparsity"),
    "negative": (
        lambda: Leak(a=en.Real(2)) - Sparsity(0.1, a=en.Real(2)),
        r"Sparsity\(a\) has the factor -1",
    ),
    "leak": (
        lambda: Leak(a=en.Unit(2, link=en.Sigmoid())),
        r"'a', in which Leak.*integral of Sigmoid.*Euler",
    ),
    "kink": (lambda: Leak(a=en.Real(2, link=en.SoftThreshold(0.1))), r"'a', in which Leak.*SoftThreshold"),
    "range": (
        lambda: Sparsity(0.1, a=en.Real(2, link=en.SoftThreshold(0.1, nonnegative=True))),
        r"'a'.*\[0, inf\].*declared Real\(2\)",
    ),
}


@pytest.mark.parametrize("solver", [en.Proximal(), en.ADMM()])
@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_proximal_map_is_refused(why: str, solver: en.Solver) -> None:
    make, words = REFUSED[why]
    with pytest.raises(en.SettlingError, match=f"{type(solver).__name__}.*{words}"):
        en.settle(make(), {"a": torch.zeros(1, 2)}, solver=solver)


def test_what_is_clamped_is_not_refused() -> None:
    energy = Steep(a=en.Real(2)) - Sparsity(0.1, a=en.Real(2)) + Leak(b=en.Real(2))
    solution = en.settle(energy, {"b": torch.ones(1, 2)}, clamp={"a": torch.ones(1, 2)}, solver=en.Proximal())
    assert torch.allclose(solution.state["b"], torch.zeros(1, 2), atol=1e-6)


@pytest.mark.parametrize("dt", [0, -1.0, float("nan"), "0.1"])
def test_steps_are_positive(dt: Any) -> None:
    with pytest.raises(ValueError, match="Proximal: dt must be a positive number"):
        en.Proximal(dt=dt)
