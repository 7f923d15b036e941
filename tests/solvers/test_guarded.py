"""Safeguarded minimisers against linear algebra, scipy, and fixed points iterated in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import energynet as en
from energynet.solvers.chart import Chart
from energynet.solvers.here import Here
from energynet.solvers.newton import curvature_product
from energynet.terms import Bilinear, Field, Leak, Reconstruction, Sparsity
from helpers.functional import Functional, autograd_force

F64 = torch.float64
SOLVERS = {"lbfgs": en.LBFGS(), "anderson": en.Anderson(), "newton": en.NewtonKrylov()}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def definite(size: int, condition: float, seed: int = 0) -> Tensor:
    """A positive definite matrix with eigenvalues from 1 / condition to 1, evenly on a logarithmic scale."""
    turn, _ = torch.linalg.qr(normal(size, size, seed=seed))
    values = torch.logspace(0, -np.log10(condition), size, dtype=F64)
    hessian = turn @ torch.diag(values) @ turn.T
    return (hessian + hessian.T) / 2


class Quadratic(en.Energy):
    """E = z.H z / 2 - z.f over z = (a, b), where b has half of the units."""

    def __init__(self, hessian: Tensor, *variables: en.Variable) -> None:
        a, b = variables
        super().__init__(f=en.Real(len(hessian)), a=a, b=b)
        self.register_buffer("hessian", hessian)

    def energy(self, f: Tensor, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a.flatten(1), b.flatten(1)], 1)
        return 0.5 * ((z @ self.hessian) * z).sum(1) - (z * f).sum(1)


def joined(solution: en.Solution) -> np.ndarray:
    return torch.cat([solution.state["a"].flatten(1), solution.state["b"].flatten(1)], 1).numpy()


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


def squash(kind: str, field: np.ndarray) -> np.ndarray:
    return {
        "hardsigmoid": lambda u: u.clip(0, 1),
        "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
        "tanh": np.tanh,
    }[kind](field)


def stiff(kind: str) -> tuple[en.Energy, np.ndarray, np.ndarray, np.ndarray]:
    """A network x - h - g - y whose layers have time constants 1, 20 and 0.3, and its weights.

    The coupling's largest eigenvalue is 0.95 times the least curvature of the leak, so that the energy is
    convex, its fixed point unique and ``s <- f(W s + b)`` a contraction.
    """
    sizes, taus = [5, 7, 4], [1.0, 20.0, 0.3]
    link = {"hardsigmoid": None, "sigmoid": en.Sigmoid(), "tanh": en.Tanh()}[kind]
    low = -1.0 if kind == "tanh" else 0.0
    names = ["h", "g", "y"]
    variables = {
        n: en.Interval(size, low=low, high=1.0, tau=tau, link=link)
        for n, size, tau in zip(names, sizes, taus, strict=True)
    }
    matrix = np.zeros((16, 16))
    matrix[:5, 5:12] = normal(5, 7, seed=1)
    matrix[5:12, 12:] = normal(7, 4, seed=2)
    matrix += matrix.T
    matrix *= 0.95 * (4.0 if kind == "sigmoid" else 1.0) / np.linalg.eigvalsh(matrix)[-1]
    terms: list[en.Energy] = [Leak(**{n: v}) for n, v in variables.items()]
    first = Bilinear("x", "h", x=en.Real(3), h=variables["h"])
    middle = Bilinear("h", "g", h=variables["h"], g=variables["g"])
    last = Bilinear("g", "y", g=variables["g"], y=variables["y"])
    bias = Field(y=variables["y"])
    weights = {
        first.weight: normal(5, 3, seed=3),
        middle.weight: torch.from_numpy(matrix[5:12, :5]),
        last.weight: torch.from_numpy(matrix[12:, 5:12]),
        bias.bias: normal(4, seed=4),
    }
    energy = sum([*terms, first, middle, last, bias]).double()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(value)
    field = np.zeros((3 + 1, 16))
    field[:3, :5] = normal(5, 3, seed=3).numpy().T
    field[3, 12:] = normal(4, seed=4)
    return energy, matrix, field[:3], field[3]


def fixed_point(kind: str, matrix: np.ndarray, drive: np.ndarray, held: Any = None) -> np.ndarray:
    state = np.zeros_like(drive)
    for _ in range(1500):  # 0.95^1500 = 4e-34
        state = squash(kind, state @ matrix + drive)
        if held is not None:
            state = np.where(np.isnan(held), state, held)
    return state


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


def lca(atoms: int, inputs: int, strength: float, nonnegative: bool = False) -> en.Energy:
    link = en.SoftThreshold(strength, nonnegative)
    code = en.NonNegative(atoms, link=link) if nonnegative else en.Real(atoms, link=link)
    term = Reconstruction("a", "x", a=code, x=en.Real(inputs))
    with torch.no_grad():
        term.weight.copy_(torch.nn.functional.normalize(normal(inputs, atoms, seed=9), dim=0))
    return (term + Sparsity(strength, a=code)).double()


def ista(weight: np.ndarray, x: np.ndarray, strength: float, nonnegative: bool) -> np.ndarray:
    rate = 1 / np.linalg.norm(weight, 2) ** 2
    code = np.zeros((len(x), weight.shape[1]))
    for _ in range(6000):
        code = code + rate * (x - code @ weight.T) @ weight
        code = np.sign(code) * (np.abs(code) - rate * strength).clip(min=0)
        code = code.clip(min=0) if nonnegative else code
    return code


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


def surroundings(kind: str) -> tuple[en.Energy, dict[str, Any], Here]:
    """A point of a network of which two units are held, at random potentials."""
    energy, *_ = stiff(kind)
    mask = torch.tensor([True, False, False, True])
    clamp = {"x": normal(2, 3, seed=1), "y": en.Partial(torch.full((2, 4), 0.5, dtype=F64), mask)}
    flow = en.LBFGS().flow(energy, clamp)
    chart = Chart(flow, flow.start)
    start = chart.join(flow.start)
    point = torch.where(start == 0, normal(2, 16, seed=2), start)
    if kind == "sigmoid":
        point[:, [12, 15]] = 0.0  # the potential of 1/2
    one = torch.ones(2, dtype=F64)
    with torch.no_grad():
        _, force = chart.evaluate(point)
    here = Here.at(chart, point, force, chart.slope(point), 2.0 * one, math.inf * one)
    assert here.free.sum() == 2 * 14
    return energy, clamp, here


def test_the_direction_of_bfgs_is_that_of_the_dense_update() -> None:
    """H <- (I - r s y'W) H (I - r y s'W) + r s s'W (Nocedal and Wright 2006, eq. 6.17), W the metric."""
    *_, here = surroundings("sigmoid")
    steps = normal(2, 3, 16, seed=4)
    changes = steps + 0.3 * normal(2, 3, 16, seed=5)
    changes[0, 1] = -changes[0, 1]  # not convex along it: left out
    positive = (here.weight.unsqueeze(1) * steps * changes).sum(2) > 0
    assert positive.tolist() == [[True, False, True], [True, True, True]]
    found = en.LBFGS(history=3).combine(here, steps, changes, positive)
    for i in range(2):
        metric, free = np.diag(here.weight[i].numpy()), here.free[i].numpy()
        inverse = np.diag(here.scaled(torch.ones_like(here.point))[i].numpy())
        for s, y, good in zip(steps[i].numpy(), changes[i].numpy(), positive[i].tolist(), strict=True):
            if good:
                r = 1 / (s @ metric @ y)
                left = np.eye(16) - r * np.outer(s, y) @ metric
                right = np.eye(16) - r * np.outer(y, s) @ metric
                inverse = left @ inverse @ right + r * np.outer(s, s) @ metric
        expected = inverse @ here.force[i].numpy()
        assert found[i].numpy()[free] == pytest.approx(expected[free], abs=1e-12)


def test_the_direction_of_anderson_leaves_the_least_force() -> None:
    """Least squares by numpy, of the two steps along which the energy is convex, on units that can move."""
    *_, here = surroundings("sigmoid")
    steps = normal(2, 3, 16, seed=4)
    changes = steps + 0.3 * normal(2, 3, 16, seed=5)
    changes[:, 1] = -changes[:, 1]
    known = torch.tensor([[True, False, True]] * 2)
    found = en.Anderson(history=3).combine(here, steps, changes, known)
    rate = here.scaled(torch.ones_like(here.point)).numpy()
    for i in range(2):
        free = here.free[i].numpy()
        force, s, y = (t[i].numpy()[..., free] for t in (here.force, steps, changes))
        s, y = s[[0, 2]], y[[0, 2]]
        part = np.linalg.lstsq(y.T, force, rcond=None)[0]
        expected = rate[i][free] * (force - part @ y) + part @ s
        assert found[i].numpy()[free] == pytest.approx(expected, abs=1e-9)


def test_curvatures_are_those_of_the_energy_of_values() -> None:
    """The force -u - 7 a falls by 1 + 7 / 4 a unit of the potential at the slope 1/4 of the link."""
    variable = en.Unit(3, link=en.Sigmoid())
    energy = Functional(lambda e, s: 3.5 * s.square().sum(1), s=variable) + Leak(s=variable)
    flow = en.LBFGS().flow(energy, state={"s": torch.tensor([[0.2, 0.5, 0.6]])})
    chart = Chart(flow, flow.start)
    point = chart.join(flow.start)
    _, force = chart.evaluate(point)
    one = torch.ones(1)
    here = Here.at(chart, point, force, chart.slope(point), one, math.inf * one)
    step = torch.tensor([[0.0, 1e-2, 0.0]])
    _, after = chart.evaluate(point + step)
    here, positive = here.after(step, force - after, torch.tensor([True]))
    assert positive.tolist() == [True]
    gain, curvature = float(here.gain[0, 1]), float(here.curvature)
    assert 1 - gain + gain * curvature == pytest.approx(1 + 7 / 4, rel=1e-3)
    assert float(here.scaled(here.force)[0, 1] / here.force[0, 1]) == pytest.approx(4 / 11, rel=1e-3)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_the_operator_of_newton_is_the_derivative_of_the_force(kind: str) -> None:
    energy, clamp, here = surroundings(kind)
    chart, point, flow = here.chart, here.point, here.chart.flow
    direction = torch.where(here.free, normal(2, 16, seed=3), 0.0)

    def forces(at: Tensor) -> Tensor:
        state = {"x": clamp["x"], **flow.values(chart.split(at))}
        return chart.join(autograd_force(energy, state, flow.names))

    step = 1e-5
    change = (forces(point + step * direction) - forces(point - step * direction)) / (2 * step)
    expected = torch.where(here.free, -change, 0.0)
    found = curvature_product(here, direction, here.free)
    assert torch.allclose(found, expected, atol=1e-7)


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


@every_solver
def test_no_step_reads_a_number_from_a_tensor(solver: en.Solver) -> None:
    reads: list[str] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    energy, *_ = stiff("hardsigmoid")
    y = en.Partial(torch.zeros(2, 4, dtype=F64), torch.tensor([True, False, False, False]))
    flow = solver.flow(energy, {"x": normal(2, 3), "y": y})
    with torch.no_grad():
        carry = solver.init(flow, flow.start)  # the first evaluations compile the kernels
        point, carry, _ = solver.step(flow, flow.start, carry, None)
        with Reads():
            point, carry, _ = solver.step(flow, point, carry, None)
    assert not reads


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
