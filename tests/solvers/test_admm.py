"""ADMM against optimality conditions and scikit-learn; what it refuses, and what its inverse may outlive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.terms import Bilinear, Field, Leak, Reconstruction, Sparsity
from helpers.functional import Functional
from helpers.lasso import (
    KINDS,
    STRENGTH,
    by_coordinate_descent,
    draw,
    lasso,
    objective,
    violation,
    with_dictionary,
)

F64 = torch.float64


def code(energy: en.Energy, x: np.ndarray, solver: en.Solver | None = None) -> np.ndarray:
    solver = en.ADMM() if solver is None else solver
    solution = en.settle(
        energy, clamp={"x": torch.from_numpy(x)}, solver=solver, max_steps=20_000, throw=True
    )
    return solution.state["a"].numpy()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), wide=st.booleans(), kind=st.sampled_from(KINDS))
def test_codes_are_optimal_and_as_good_as_those_of_coordinate_descent(
    seed: int, wide: bool, kind: str
) -> None:
    inputs, atoms = (4, 6) if wide else (6, 4)
    weight, x = draw(seed, inputs, atoms, kind)
    found = code(with_dictionary(lasso(inputs, en.Real(atoms)), weight), x)
    assert violation(weight, x, found) <= 1e-8
    best = objective(weight, x, by_coordinate_descent(weight, x))
    assert objective(weight, x, found) == pytest.approx(best, abs=1e-10)
    if kind in ("no input", "threshold above every correlation"):
        assert not found.any()


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_non_negative_codes(seed: int) -> None:
    weight, x = draw(seed, 6, 4)
    found = code(with_dictionary(lasso(6, en.NonNegative(4)), weight), x)
    assert (found >= 0).all()
    assert violation(weight, x, found, positive=True) <= 1e-8
    best = objective(weight, x, by_coordinate_descent(weight, x, positive=True))
    assert objective(weight, x, found) == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize(("penalty", "relaxation"), [(0.05, 1.0), (0.7, 1.0), (0.7, 1.8), (5.0, 1.95)])
def test_options_change_the_way_and_not_its_end(penalty: float, relaxation: float) -> None:
    weight, x = draw(1, 6, 4)
    energy = with_dictionary(lasso(6, en.Real(4)), weight)
    expected = by_coordinate_descent(weight, x)
    assert code(energy, x, en.ADMM(penalty, relaxation)) == pytest.approx(expected, abs=1e-8)


def test_it_takes_fewer_steps_than_accelerated_proximal_ones() -> None:
    """To a relative gap of 1e-6 on twice as many unit atoms as inputs, of which three in a hundred are active."""
    weight, _ = draw(2, 64, 128)
    weight /= np.linalg.norm(weight, axis=0)
    x = np.stack([2 * weight[:, at : at + 32 : 8].sum(1) for at in (0, 33, 67)])
    energy = with_dictionary(lasso(64, en.Real(128)), weight)
    best = objective(weight, x, code(energy, x))

    def steps(solver: en.Solver) -> int:
        path = en.settle(
            energy,
            clamp={"x": torch.from_numpy(x)},
            solver=solver,
            max_steps=100,
            until=en.Never(),
            record="energy",
        ).trajectory.detach()
        near = ((path.numpy() - best) / best < 1e-6).all(1)
        assert near.any()
        return int(near.argmax())

    assert 3 * steps(en.ADMM()) <= 2 * steps(en.Proximal())
    assert 3 * steps(en.ADMM()) <= 2 * steps(en.ADMM(penalty=0.07))


def coupled(tau: float = 1.0) -> en.Energy:
    """Two codes of different time constants that explain the same input and inhibit one another."""
    a, b, x = en.Real(3, tau=tau), en.Interval(2, 2, low=-0.3, high=0.3), en.Real(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [Leak(a=a), 2.0 * Leak(b=b), Bilinear("a", "b", a=a, b=b), Bilinear("x", "a", x=x, a=a)]
        parts += [Bilinear("x", "b", x=x, b=b), 0.5 * Sparsity(0.8, a=a), Sparsity(0.1, b=b)]
        return sum(parts[1:], parts[0]).double()


@pytest.mark.parametrize("tau", [1.0, 0.1, 5.0])
def test_several_variables_of_any_shape_settle_together(tau: float) -> None:
    """Stationary by autograd of the smooth part and the intervals of the kinks."""
    energy = coupled(tau)
    x = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    state = en.settle(energy, clamp={"x": x}, solver=en.ADMM(), throw=True).state
    leaves = {n: state[n].clone().requires_grad_() for n in ("a", "b")}
    smooth = sum(
        f * p.energy(**{n: {**state, **leaves}[n] for n in p.variables}) for f, p in energy.parts()[:5]
    )
    assert isinstance(smooth, Tensor)
    slopes = dict(zip(leaves, torch.autograd.grad(smooth.sum(), list(leaves.values())), strict=True))
    for name, strength in (("a", 0.4), ("b", 0.1)):
        value, push = state[name], -slopes[name]
        step = value + push
        step = step.sign() * (step.abs() - strength).clamp(min=0)
        step = step.clamp(-0.3, 0.3) if name == "b" else step
        assert float((step - value).abs().max()) <= 1e-8
    assert (state["b"].abs() == 0.3).any()
    assert (state["a"] == 0).any()
    same = en.settle(energy, clamp={"x": x}, solver=en.Proximal(), throw=True).state
    assert torch.allclose(same["a"], state["a"], atol=1e-8)


def test_the_inverse_does_not_outlive_a_change_of_parameters() -> None:
    energy = lasso(6, en.Real(4))
    solver = en.ADMM()
    for seed in (1, 2):
        weight, x = draw(seed, 6, 4)
        assert violation(weight, x, code(with_dictionary(energy, weight), x, solver)) <= 1e-8


def test_samples_that_have_settled_are_dropped_and_the_inverse_stays() -> None:
    weight, x = draw(4, 6, 4)
    x = np.concatenate([1e-3 * np.repeat(x, 4, 0), x])  # most have nothing to explain
    energy = with_dictionary(lasso(6, en.Real(4)), weight)
    solution = en.settle(
        energy, clamp={"x": torch.from_numpy(x)}, solver=en.ADMM(), max_steps=5000, throw=True
    )
    assert int(solution.steps.min()) < int(solution.steps.max())
    assert violation(weight, x, solution.state["a"].numpy()) <= 1e-8


def test_a_batch_of_none_is_a_batch() -> None:
    energy = lasso(6, en.Real(4))
    for solver in (en.ADMM(), en.Proximal()):
        solution = en.settle(energy, clamp={"x": torch.empty(0, 6, dtype=F64)}, solver=solver)
        assert solution.state["a"].shape == (0, 4)


def bent(e: Any, f: Tensor, s: Tensor) -> Tensor:
    return (0.5 * s.square() + 0.01 * s.pow(4) - f * s).sum(1)


REFUSED: dict[str, tuple[Any, str]] = {
    "bent": (bent, r"quadratic.*differs between two points.*Proximal"),
    "kink": (lambda e, f, s: (0.5 * s.square() + s.abs() - f * s).sum(1), r"quadratic.*jumps.*ProximalTerm"),
    "gated": (lambda e, f, s: (0.5 * f.square() * s.square() - s).sum(1), r"one Hessian.*samples.*Proximal"),
    "saddle": (
        lambda e, f, s: 0.5 * s.square().sum(1) + 2 * s[:, 0] * s[:, 1],
        r"convex.*curvature.*-1.*Leak",
    ),
    "undefined": (lambda e, f, s: (s.log() + f).sum(1), "quadratic"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_common_inverse_is_refused(why: str) -> None:
    function, words = REFUSED[why]
    energy = Functional(function, f=en.Real(2), s=en.Real(2)) + Sparsity(0.1, s=en.Real(2))
    f = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    with pytest.raises(en.SettlingError, match=f"ADMM .*{words}"):
        en.settle(energy, {"s": torch.zeros(2, 2, dtype=F64)}, clamp={"f": f}, solver=en.ADMM())


def test_the_same_gate_for_all_samples_has_an_inverse() -> None:
    function, _ = REFUSED["gated"]
    energy = Functional(function, f=en.Real(2), s=en.Real(2)) + Sparsity(0.1, s=en.Real(2))
    f = torch.tensor([[1.0, 2.0]] * 2, dtype=F64)
    solution = en.settle(energy, clamp={"f": f}, solver=en.ADMM(), throw=True)
    assert torch.allclose(solution.state["s"], 0.9 / f.square(), atol=1e-9)


@pytest.mark.parametrize("function", [lambda e, s: s.sum(1), lambda e, s: -s.sum(1)])
def test_a_linear_smooth_part_in_a_box_ends_at_its_corner(function: Any) -> None:
    energy = Functional(function, s=en.Unit(3))
    solution = en.settle(energy, {"s": torch.full((1, 3), 0.3)}, solver=en.ADMM(), throw=True)
    assert solution.state["s"].tolist() == [[0.0 if float(function(None, torch.ones(1, 1))) > 0 else 1.0] * 3]


@pytest.mark.parametrize(
    "bad", [{"penalty": 0.0}, {"penalty": -1.0}, {"relaxation": 2.0}, {"relaxation": 0.5}]
)
def test_bad_options_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"ADMM: {next(iter(bad))} must be"):
        en.ADMM(**bad)


def test_a_field_and_the_whole_input_may_be_free() -> None:
    """E = |x - W a|^2 / 2 + |x|^2 / 2 - b.x + strength |a|_1: with W orthonormal, a = soft(W'b, 2 strength)."""
    with torch.random.fork_rng(devices=[]):
        x, a = en.Real(4), en.Real(4)
        energy = Reconstruction("a", "x", a=a, x=x) + Leak(x=x) + Field(x=x) + Sparsity(STRENGTH, a=a)
    energy = energy.double()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    field = torch.tensor([1.0, -2.0, 0.3, 1.5], dtype=F64)
    with torch.no_grad():
        weight, bias = energy.parameters()
        weight.copy_(torch.from_numpy(turn))
        bias.copy_(field)
    state = en.settle(energy, {"a": torch.zeros(1, 4, dtype=F64)}, solver=en.ADMM(), throw=True).state
    drive = torch.from_numpy(turn).T @ field
    expected = drive.sign() * (drive.abs() - 2 * STRENGTH).clamp(min=0)
    assert torch.allclose(state["a"][0], expected, atol=1e-8)
    assert torch.allclose(state["x"][0], (torch.from_numpy(turn) @ expected + field) / 2, atol=1e-8)
