"""SparseCoding: every solver against the lasso's conditions and scikit-learn; gaps, priors, degenerate data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

import energynet as en
from helpers.lasso import KINDS, STRENGTH, by_coordinate_descent, draw, objective, violation

F64 = torch.float64
SHAPES = [(6, 4), (4, 6)]

SOLVERS: dict[str, Callable[[en.models.SparseCoding], en.Solver | None]] = {
    "default": lambda m: None,
    "FISTA": lambda m: en.Proximal(),
    "FISTA without restart": lambda m: en.Proximal(restart=False),
    "FISTA, steps searched": lambda m: en.Proximal(dt=10 / m.lipschitz()),
    "ISTA": lambda m: en.Proximal(accelerate=False),
    "ADMM": lambda m: en.ADMM(),
    "coordinate descent": lambda m: en.CoordinateDescent(),
    "LCA by Euler": lambda m: en.Euler(1 / m.lipschitz()),
    "LCA by RungeKutta4": lambda m: en.RungeKutta4(2 / m.lipschitz()),
    "LCA with momentum": lambda m: en.Momentum(1 / m.lipschitz(), None),
    "LCA by Adaptive": lambda m: en.Adaptive(),
    "LCA by LBFGS": lambda m: en.LBFGS(),
}


@functools.cache  # its traces serve every dictionary of this shape
def model(
    inputs: int, atoms: int, nonnegative: bool = False, variance: float = 1.0
) -> en.models.SparseCoding:
    with torch.random.fork_rng(devices=[]):
        return en.models.SparseCoding(
            inputs, atoms, STRENGTH, nonnegative=nonnegative, variance=variance, atoms="free"
        ).double()


def with_atoms(energy: en.models.SparseCoding, weight: np.ndarray) -> en.models.SparseCoding:
    with torch.no_grad():
        energy.weight.copy_(torch.from_numpy(weight))
    return energy


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(KINDS),
    positive=st.booleans(),
)
def test_every_solver_meets_the_conditions_of_the_lasso(
    name: str, seed: int, shape: tuple[int, int], kind: str, positive: bool
) -> None:
    """To 1e-8; and the objective of scikit-learn's coordinate descent to 1e-10."""
    weight, x = draw(seed, *shape, kind)
    energy = with_atoms(model(*shape, positive), weight)
    data = torch.from_numpy(x)
    solution = energy.infer(data, solver=SOLVERS[name](energy), max_steps=200_000)
    assert (solution.status == en.Status.CONVERGED).all()
    code = solution.state["a"].numpy()
    assert violation(weight, x, code, positive) <= 1e-8
    best = objective(weight, x, by_coordinate_descent(weight, x, positive))
    assert objective(weight, x, code) == pytest.approx(best, abs=1e-10)
    gap = solution.statistics["duality_gap"].numpy()
    assert (objective(weight, x, code) - best <= gap + 1e-10).all()
    assert (gap <= 1e-6).all()
    if kind in ("no input", "threshold above every correlation"):
        assert not code.any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(SHAPES),
    positive=st.booleans(),
    variance=st.sampled_from([1.0, 0.3]),
)
def test_the_duality_gap_bounds_the_distance_from_the_least_energy_at_any_code(
    seed: int, shape: tuple[int, int], positive: bool, variance: float
) -> None:
    """Against scikit-learn's least objective at codes at random; and zero there, when that is the code."""
    weight, x = draw(seed, *shape)
    energy = with_atoms(model(*shape, positive, variance), weight)
    best = by_coordinate_descent(weight, x, positive, STRENGTH * variance)
    random = np.random.default_rng(seed)
    for code in (best, best + 0.3 * random.normal(size=best.shape), random.normal(size=best.shape)):
        near = code is best
        code = code.clip(min=0) if positive else code
        state = {"x": torch.from_numpy(x), "a": torch.from_numpy(code)}
        gap = energy.duality_gap(state)
        assert gap is not None
        least = energy({**state, "a": torch.from_numpy(best)}).detach()
        assert (energy(state).detach() - least <= gap + 1e-10).all()
        if near:
            assert float(gap.abs().max()) <= 1e-7


def test_the_duality_gap_is_that_of_a_constrained_minimisation() -> None:
    """The dual at its best multiple of the residual, by a grid of multiples that keeps the constraint."""
    weight, x = draw(5, 4, 6)
    energy = with_atoms(model(4, 6), weight)
    code = np.random.default_rng(0).normal(size=(3, 6)) * 0.2
    gap = energy.duality_gap({"x": torch.from_numpy(x), "a": torch.from_numpy(code)})
    assert gap is not None
    for one, a, found in zip(x, code, gap.tolist(), strict=True):
        error = one - weight @ a
        scales = np.linspace(0, 3, 300_001)
        scales = scales[scales * np.abs(weight.T @ error).max() <= STRENGTH]
        best = (scales * (error @ one) - 0.5 * scales**2 * (error @ error)).max()
        primal = 0.5 * error @ error + STRENGTH * np.abs(a).sum()
        assert found == pytest.approx(primal - best, abs=1e-4)


def test_no_gap_is_told_where_none_is_known() -> None:
    x = torch.randn(2, 4)
    for prior in ("l0", "cauchy", "logcosh"):
        assert "duality_gap" not in en.models.SparseCoding(4, 6, prior=prior).infer(x).statistics
    assert "duality_gap" not in en.models.SparseCoding(4, 3, sparsity=0.0).infer(x).statistics


def test_codes_of_the_hard_threshold_are_least_in_every_atom() -> None:
    """By trying each atom at zero and at the least square given the others, for coordinate descent and LCA."""
    energy = en.models.SparseCoding(8, 12, 0.2, prior="l0").double()
    x = 1.5 * torch.randn(20, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    weight = energy.weight.detach()
    for solver in (None, en.Euler(1 / energy.lipschitz()), en.Momentum(1 / energy.lipschitz(), None)):
        solution = energy.infer(x, solver=solver)
        settled = solution.status == en.Status.CONVERGED  # mirror flow may go to and fro across a jump
        assert settled.all() if solver is None else settled.any()
        a, least = solution.state["a"], solution.energy
        assert (a == 0).any()
        assert (a != 0).any()
        for atom in range(12):
            for value in (torch.zeros(20, dtype=F64), a[:, atom] + (x - a @ weight.T) @ weight[:, atom]):
                other = a.clone()
                other[:, atom] = value
                assert (energy({"x": x, "a": other}).detach() >= least - 1e-9)[settled].all()


def test_codes_of_the_hard_threshold_are_never_better_than_the_best_support_and_sometimes_it() -> None:
    """Against the least energy of all supports, by least squares."""
    energy = en.models.SparseCoding(6, 8, 0.2, prior="l0").double()
    x = torch.randn(40, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    weight = energy.weight.detach().numpy()
    least = np.full(40, np.inf)
    for support in product([False, True], repeat=8):
        chosen = weight[:, np.array(support)]
        code = np.linalg.lstsq(chosen, x.numpy().T, rcond=None)[0]
        error = x.numpy().T - chosen @ code
        least = np.minimum(least, 0.5 * (error**2).sum(0) + 0.2 * sum(support))
    found = energy.infer(x).energy.numpy()
    lca = energy.infer(x, solver=en.Euler(1 / energy.lipschitz())).energy.numpy()
    assert (found >= least - 1e-9).all()
    assert (lca >= least - 1e-9).all()
    assert (found < least + 1e-9).any()
    assert (lca < least + 1e-9).any()


@pytest.mark.parametrize("prior", ["cauchy", "logcosh"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_of_smooth_priors_are_minima_that_scipy_finds(prior: str, nonnegative: bool) -> None:
    energy = en.models.SparseCoding(5, 4, 0.4, prior=prior, nonnegative=nonnegative, variance=0.7).double()
    x = torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(2))
    weight = energy.weight.detach().numpy()
    cost = {"cauchy": lambda a: np.log1p(a**2), "logcosh": lambda a: np.log(np.cosh(a))}[prior]
    for solver in (None, en.Proximal()):
        found = energy.infer(x, solver=solver)
        for one, code in zip(x.numpy(), found.state["a"].numpy(), strict=True):

            def total(a: np.ndarray, one: np.ndarray = one) -> float:
                return ((one - weight @ a) ** 2).sum() / 1.4 + 0.4 * cost(a).sum()

            bounds = [(0 if nonnegative else None, None)] * 4
            best = minimize(total, code, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15})
            assert total(code) <= best.fun + 1e-9
            assert total(code) < total(np.zeros(4))


def test_without_sparsity_codes_are_least_squares() -> None:
    weight, x = draw(4, 6, 4)
    free = with_atoms(en.models.SparseCoding(6, 4, 0.0, atoms="free").double(), weight)
    found = free.infer(torch.from_numpy(x)).state["a"].numpy()
    assert found == pytest.approx(np.linalg.lstsq(weight, x.T, rcond=None)[0].T, abs=1e-7)
    positive = with_atoms(en.models.SparseCoding(6, 4, 0.0, nonnegative=True, atoms="free").double(), weight)
    found = positive.infer(torch.from_numpy(x)).state["a"].numpy()
    assert found == pytest.approx(np.stack([nnls(weight, one)[0] for one in x]), abs=1e-7)


def test_the_lipschitz_constant_is_the_largest_eigenvalue() -> None:
    energy = en.models.SparseCoding(5, 9, variance=0.2).double()
    weight = energy.weight.detach().numpy()
    assert energy.lipschitz() == pytest.approx(np.linalg.eigvalsh(weight.T @ weight)[-1] / 0.2)


def test_a_changed_dictionary_is_noticed() -> None:
    """What is kept of the Hessian belongs to the parameters as they were."""
    weight, x = draw(0, 6, 4)
    energy = with_atoms(model(6, 4), weight)
    data = torch.from_numpy(x)
    for scale in (1.0, 3.0, 0.2):
        with torch.no_grad():
            energy.weight.copy_(torch.from_numpy(scale * weight))
        for solver in (en.Proximal(), en.ADMM(), en.CoordinateDescent()):
            code = energy.infer(data, solver=solver, max_steps=100_000).state["a"].numpy()
            assert violation(scale * weight, x, code) <= 1e-8


def test_a_start_is_used_and_the_default_of_settle_is_proximal() -> None:
    energy = en.models.SparseCoding(5, 9).double()
    x = torch.randn(3, 5, dtype=F64)
    first = energy.infer(x)
    assert int(energy.infer(x, start=first.state["a"]).steps.max()) < int(first.steps.min())
    assert torch.equal(en.settle(energy, clamp={"x": x}).state["a"], first.state["a"])


def test_held_codes_stay_and_the_others_are_best() -> None:
    energy = en.models.SparseCoding(6, 4, STRENGTH, atoms="free").double()
    weight, x = draw(7, 6, 4)
    with_atoms(energy, weight)
    mask = torch.tensor([False, True, False, False])
    value = torch.full((3, 4), 0.7, dtype=F64)
    clamp = {"x": torch.from_numpy(x), "a": en.Partial(value, mask)}
    free = weight[:, [0, 2, 3]]
    for solver in (en.Proximal(), en.Proximal(accelerate=False), en.CoordinateDescent(), en.ADMM()):
        code = en.settle(energy, clamp=clamp, solver=solver, max_steps=50_000).state["a"].numpy()
        assert (code[:, 1] == 0.7).all()
        assert violation(free, x - 0.7 * weight[:, 1], code[:, [0, 2, 3]]) <= 1e-8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: en.models.SparseCoding(4, 4, prior="cubic"), "SparseCoding: prior must be one of 'laplace'"),
        (lambda: en.models.SparseCoding(4, 4, atoms="round"), "atoms must be one of unit"),
        (lambda: en.models.SparseCoding(4, 4, sparsity=-1.0), "threshold is a number from 0 up"),
        (lambda: en.models.SparseCoding(4, 4, variance=0.0), "variance is a positive number"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_kit_finds_no_fault() -> None:
    for prior in ("laplace", "l0"):
        en.testing.check_energy(en.models.SparseCoding(4, 5, prior=prior).double())
