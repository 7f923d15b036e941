"""Coordinate descent over units against linear algebra, boxes of scipy, a loop by hand; what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.terms import Bilinear, Field, Leak, Sparsity
from helpers.functional import Functional
from helpers.lasso import STRENGTH, draw, in_box, lasso, with_dictionary

F64 = torch.float64


def quadratic(e: Any, f: Tensor, a: Tensor) -> Tensor:
    return 0.5 * ((a @ e.H) * a).sum(1) - (f * a).sum(1)


def positive_definite(size: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T / size + 0.3 * np.eye(size)


def test_a_sweep_is_that_of_a_loop_by_hand() -> None:
    """More units than are put off at once, so that both ways to move a force are met."""
    weight, x = draw(0, 30, 70)
    energy = with_dictionary(lasso(30, en.Real(70)), weight)
    solution = en.settle(
        energy,
        clamp={"x": torch.from_numpy(x)},
        solver=en.CoordinateDescent(),
        max_steps=3,
        until=en.Never(),
        record="state",
    )
    code = np.zeros((3, 70))
    for step in range(1, 4):
        for i in range(70):
            field = (x - code @ weight.T + np.outer(code[:, i], weight[:, i])) @ weight[:, i]
            code[:, i] = np.sign(field) * (np.abs(field) - STRENGTH).clip(min=0) / (weight[:, i] ** 2).sum()
        assert solution.trajectory["a"][step].numpy() == pytest.approx(code, abs=1e-10)


@pytest.mark.parametrize("ends", [(-0.5, 0.25), (0.0, 0.4)], ids=str)
@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_in_a_box_it_finds_the_minimum_that_scipy_finds(ends: tuple[float, float], strength: float) -> None:
    hessian, field = positive_definite(5, 1), 1.5 * np.random.default_rng(2).normal(size=(4, 5))
    variable = en.Interval(5, low=ends[0], high=ends[1])
    energy = Functional(quadratic, {"H": torch.from_numpy(hessian)}, f=en.Real(5), a=variable)
    whole = energy + Sparsity(strength, a=variable) if strength else energy
    clamp = {"f": torch.from_numpy(field)}
    found = en.settle(whole, clamp=clamp, solver=en.CoordinateDescent(), throw=True).state["a"].numpy()
    assert found == pytest.approx(
        np.stack([in_box(hessian, one, strength, *ends) for one in field]), abs=1e-6
    )


@pytest.mark.parametrize("held", [False, True])
def test_several_variables_with_time_constants_and_shapes(held: bool) -> None:
    """The fixed point is that of linear equations, whatever the time constants; held units stay."""
    variables = {"a": en.Real(2, 2, tau=3.0), "b": en.Real(3)}
    energy = Bilinear("a", "b", **variables) + Field(a=variables["a"]) + Field(b=variables["b"])
    energy = energy + 2.0 * Leak(a=variables["a"]) + 2.0 * Leak(b=variables["b"])
    energy = energy.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, dtype=F64, generator=generator))
    start = {"a": torch.randn(2, 2, 2, dtype=F64, generator=generator)}
    clamp = {}
    if held:
        mask = torch.tensor([[True, False], [False, False]])
        clamp = {"a": en.Partial(torch.full((2, 2, 2), 0.9, dtype=F64), mask)}
        start = {"b": torch.zeros(2, 3, dtype=F64)}
    solution = en.settle(energy, start, clamp=clamp, solver=en.CoordinateDescent(), throw=True)
    parameters = dict(energy.named_parameters())
    weight, first, second = (p.detach() for p in parameters.values())
    a, b = solution.state["a"].flatten(1), solution.state["b"]
    left = {"a": 2 * a - b @ weight - first.flatten(), "b": 2 * b - a @ weight.T - second}
    if held:
        assert bool((a[:, 0] == 0.9).all())
        left["a"] = left["a"][:, 1:]
    assert max(float(v.abs().max()) for v in left.values()) < 1e-9
    assert float(solution.residual.max()) < 1e-9


def test_units_without_curvature_do_no_harm() -> None:
    """An atom of zeros stays silent."""
    weight, x = draw(3, 6, 4)
    weight[:, 2] = 0
    energy = with_dictionary(lasso(6, en.Real(4)), weight)
    start = {"a": torch.ones(3, 4, dtype=F64)}
    solution = en.settle(
        energy, start, clamp={"x": torch.from_numpy(x)}, solver=en.CoordinateDescent(), throw=True
    )
    assert not solution.state["a"][:, 2].any()


class Weighted(en.ProximalTerm):
    """The absolute value with a weight for each unit."""

    def __init__(self, **variable: en.Variable) -> None:
        super().__init__(**variable)
        (self.variable,) = variable
        self.link = None
        self.register_buffer("weights", torch.tensor([0.1, 0.5, 2.0], dtype=F64))

    def energy(self, **state: Tensor) -> Tensor:
        return (self.weights * state[self.variable].abs()).sum(1)

    def slope(self, value: Tensor) -> Tensor:
        return self.weights * value.sign()

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value.sign() * (value.abs() - self.weights * step).clamp(min=0)


def concave(e: Any, f: Tensor, a: Tensor) -> Tensor:
    return (-0.5 * a.square() + f * a).sum(1)


def test_what_it_cannot_move_is_refused() -> None:
    f = {"f": torch.ones(2, 3, dtype=F64)}
    bowl = Functional(quadratic, {"H": torch.eye(3, dtype=F64)}, f=en.Real(3), a=en.Real(3))
    with pytest.raises(en.SettlingError, match=r"Weighted.* differs from unit to unit of 'a'; use Proximal"):
        en.settle(bowl + Weighted(a=en.Real(3)), clamp=f, solver=en.CoordinateDescent())
    hill = Functional(concave, f=en.Real(3), a=en.Real(3)).double()
    with pytest.raises(en.SettlingError, match=r"curvature of a unit is -1.*use Proximal"):
        en.settle(hill, clamp=f, solver=en.CoordinateDescent())
    flow = en.CoordinateDescent().flow(bowl, f)
    with pytest.raises(en.SettlingError, match="nothing can be differentiated"):
        en.CoordinateDescent().init(flow, flow.start)


@pytest.mark.parametrize(
    "solver", [en.Proximal(), en.Proximal(accelerate=False), en.ADMM()], ids=["FISTA", "ISTA", "ADMM"]
)
def test_gradients_through_the_steps_are_those_of_finite_differences(solver: en.Solver) -> None:
    """Also through the Hessian, its inverse and its Gram form, which depend on the parameters."""
    weight, x = draw(9, 6, 3)
    energy = with_dictionary(lasso(6, en.Real(3)), weight)
    data = {"x": torch.from_numpy(x), "target": torch.ones(3, 3, dtype=F64)}
    cost = en.SquaredError("a")
    rule = en.Unrolled(energy, cost, 300, solver=solver)
    rule.zero_grad()
    rule(**data).backward()
    parameter = next(energy.parameters())
    gradient = parameter.grad
    assert gradient is not None

    def level() -> float:
        code = en.settle(energy, clamp={"x": data["x"]}, solver=en.Proximal(), max_steps=5000).state["a"]
        return float(0.5 * (code - 1).square().sum(1).mean())

    for place in ((0, 0), (2, 1), (5, 2)):
        levels = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[place] += shift
                levels.append(level())
                parameter[place] -= shift
        assert float(gradient[place]) == pytest.approx((levels[0] - levels[1]) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("solver", [en.Proximal(), en.ADMM(), en.CoordinateDescent()], ids=repr)
def test_held_units_of_a_smooth_energy_do_not_count(solver: en.Solver) -> None:
    hessian, field = positive_definite(3), np.random.default_rng(0).normal(size=(2, 3))
    energy = Functional(quadratic, {"H": torch.from_numpy(hessian)}, f=en.Real(3), a=en.Real(3))
    held = en.Partial(torch.full((2, 3), 0.4, dtype=F64), torch.tensor([True, False, False]))
    clamp = {"f": torch.from_numpy(field), "a": held}
    found = en.settle(energy, clamp=clamp, solver=solver, throw=True).state["a"].numpy()
    rest = np.linalg.solve(hessian[1:, 1:], (field[:, 1:] - 0.4 * hessian[0, 1:]).T).T
    assert found == pytest.approx(np.column_stack([np.full(2, 0.4), rest]), abs=1e-8)
