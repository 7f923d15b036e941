"""Flows against closed forms and scipy's integrators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor

import energynet as en
from energynet.terms import Leak
from helpers.functional import Functional

F64 = torch.float64


class Quadratic(en.Energy):
    """E = z.H z / 2 - z.f over z = (a, b), with a time constant for each of the two."""

    def __init__(self, hessian: Tensor, field: Tensor, tau: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__(a=en.Real(2, tau=tau[0]), b=en.Real(3, tau=tau[1]))
        self.register_buffer("hessian", hessian)
        self.register_buffer("field", field)

    def energy(self, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a, b], 1)
        return 0.5 * torch.einsum("bi,ij,bj->b", z, self.hessian, z) - (z * self.field).sum(1)


def definite(seed: int, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=F64, generator=generator)
    return root @ root.T / size + 0.5 * torch.eye(size, dtype=F64), torch.randn(
        size, dtype=F64, generator=generator
    )


def closed_form(energy: Quadratic, start: np.ndarray, tau: tuple[float, float], time: float) -> np.ndarray:
    """z* + exp(-T^-1 H t) (z0 - z*)."""
    hessian, field = energy.hessian.numpy(), energy.field.numpy()
    rest = np.linalg.solve(hessian, field)
    speed = np.array([tau[0]] * 2 + [tau[1]] * 3)
    return rest + (start - rest) @ expm(-(hessian / speed[:, None]) * time).T


def run(
    energy: en.Energy, start: dict[str, Tensor], solver: en.Solver, steps: int, **clamp: Any
) -> en.Solution:
    return en.settle(energy, start, clamp=clamp, solver=solver, max_steps=steps, until=en.Never())


@pytest.mark.parametrize("tau", [(1.0, 1.0), (0.5, 4.0)])
@pytest.mark.parametrize(
    ("solver", "order"), [(en.Euler, 1), (en.Heun, 2), (en.RungeKutta4, 4)], ids=["euler", "heun", "rk4"]
)
def test_gradient_flow_is_the_matrix_exponential_to_the_order_of_the_solver(
    solver: Any, order: int, tau: tuple[float, float]
) -> None:
    energy = Quadratic(*definite(1), tau=tau)
    start = np.random.default_rng(0).normal(size=(4, 5))
    expected = closed_form(energy, start, tau, time=1.0)
    errors = []
    for steps in (16, 32, 64):
        point = torch.from_numpy(start)
        state = run(energy, {"a": point[:, :2], "b": point[:, 2:]}, solver(1.0 / steps), steps).state
        errors.append(np.abs(torch.cat([state["a"], state["b"]], 1).numpy() - expected).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes == pytest.approx([order, order], abs=0.35)


def test_mirror_flow_integrates_the_potential_of_hopfield_networks() -> None:
    """tau du/dt = -u + W g(u) + b (Hopfield 1984, eq. 5), by scipy."""
    generator = torch.Generator().manual_seed(2)
    raw = torch.randn(4, 4, dtype=F64, generator=generator)
    weight = raw + raw.T - torch.diag(2 * raw.diagonal())
    bias = torch.randn(4, dtype=F64, generator=generator)
    tau, time = 2.0, 1.5
    variable = en.Unit(4, tau=tau, link=en.Sigmoid())

    def field(energy: en.Energy, s: Tensor) -> Tensor:
        return -0.5 * torch.einsum("bi,ij,bj->b", s, weight_of(energy), s) - s @ energy.bias

    def weight_of(energy: Any) -> Tensor:
        return energy.weight

    network = Functional(field, {"weight": weight, "bias": bias}, s=variable) + Leak(s=variable)
    start = torch.rand(3, 4, dtype=F64, generator=generator) * 0.8 + 0.1
    found = run(network, {"s": start}, en.RungeKutta4(time / 200), 200).state["s"]

    def slope(_: float, u: np.ndarray) -> np.ndarray:
        return (-u + weight.numpy() @ (1 / (1 + np.exp(-u))) + bias.numpy()) / tau

    for sample in range(3):
        u0 = torch.logit(start[sample]).numpy()
        u = solve_ivp(slope, (0, time), u0, rtol=1e-11, atol=1e-12).y[:, -1]
        assert found[sample].numpy() == pytest.approx(1 / (1 + np.exp(-u)), abs=1e-9)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_saturated_units_of_mirror_flow_still_come_back(activation: str) -> None:
    model = en.models.LayeredHopfield([2, 3, 1], activation=activation)
    y = torch.ones(4, 1)
    solution = en.settle(model, {"h1": torch.ones(4, 3), "y": y}, clamp={"x": torch.zeros(4, 2)})
    fresh = en.settle(model, clamp={"x": torch.zeros(4, 2)})
    assert torch.allclose(solution.state["y"], fresh.state["y"], atol=1e-4)


def quartic(energy: en.Energy, s: Tensor, t: Tensor) -> Tensor:
    return (0.25 * s.pow(4) + 0.5 * (s - t).square() + 0.1 * t.square()).sum(1)


@pytest.mark.parametrize("solver", [en.Euler(0.1), en.Heun(0.1), en.RungeKutta4(0.1), en.BlockDescent()])
def test_partial_clamps_hold_exactly_and_the_rest_settles(solver: en.Solver) -> None:
    energy = Functional(quartic, s=en.Real(4), t=en.Real(4))
    mask = torch.tensor([True, False, True, False])
    value = torch.where(mask, torch.tensor([0.3, 9.0, -1.7, 9.0]), torch.nan).expand(6, 4)
    solution = en.settle(energy, clamp={"s": en.Partial(value, mask)}, solver=solver, max_steps=3000)
    assert (solution.status == en.Status.CONVERGED).all()
    assert torch.equal(solution.state["s"][:, mask], value[:, mask])
    assert torch.allclose(solution.state["s"][:, ~mask], torch.zeros(6, 2), atol=1e-4)
    # dE/dt = t - s + t / 5 = 0
    assert torch.allclose(solution.state["t"], solution.state["s"] / 1.2, atol=1e-4)


def test_a_mask_may_differ_between_samples_and_wins_over_the_start() -> None:
    energy = Leak(s=en.Real(2))
    mask = torch.tensor([[True, False], [False, True], [False, False]])
    clamp = {"s": en.Partial(torch.full((3, 2), 5.0), mask)}
    solution = en.settle(energy, {"s": torch.full((3, 2), -1.0)}, clamp=clamp)
    assert solution.state["s"].tolist() == [[5, 0], [0, 5], [0, 0]]


def test_partial_clamps_keep_to_domains_without_zero_and_to_the_ends_of_links() -> None:
    energy = Leak(s=en.Interval(2, low=1, high=2))
    clamp = en.Partial(torch.tensor([[1.5, torch.nan]]), torch.tensor([True, False]))
    assert en.settle(energy, clamp={"s": clamp}).state["s"].tolist() == [[1.5, 1.0]]
    model = en.models.LayeredHopfield([3, 4, 2], activation="sigmoid")
    ends = torch.tensor([[1.0, 0.0]] * 3)
    held = {"x": torch.randn(3, 3), "y": en.Partial(ends, torch.tensor([True, True]))}
    solution = en.settle(model, clamp=held)
    assert torch.equal(solution.state["y"], ends)
    whole = en.settle(model, clamp={"x": held["x"], "y": ends})
    assert torch.allclose(solution.state["h1"], whole.state["h1"], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "mask", "words"),
    [
        (torch.zeros(2, 3), torch.ones(3), "torch.bool"),
        (torch.zeros(2, 3), torch.ones(4, dtype=torch.bool), r"\(2, 3\)"),
        (torch.zeros(2, 3), torch.ones(5, 2, 3, dtype=torch.bool), r"\(2, 3\)"),
    ],
    ids=["dtype", "shape", "more dimensions"],
)
def test_bad_masks_are_refused(value: Tensor, mask: Tensor, words: str) -> None:
    with pytest.raises(en.StateError, match=words):
        en.Partial(value, mask)


@pytest.mark.parametrize("bad", ["shape", "domain", "nan", "name"])
def test_bad_partial_clamps_are_refused(bad: str) -> None:
    value = {
        "shape": torch.zeros(2, 4),
        "domain": torch.full((2, 3), 1.5),
        "nan": torch.full((2, 3), torch.nan),
        "name": torch.zeros(2, 3),
    }[bad]
    name = "z" if bad == "name" else "s"
    mask = torch.ones(value.shape, dtype=torch.bool)
    with pytest.raises(en.StateError, match=f"'{name}'"):
        en.settle(Leak(s=en.Unit(3)), clamp={name: en.Partial(value, mask)})


def test_a_discrete_variable_needs_a_sampler() -> None:
    class Ising(en.Energy):
        def energy(self, s: Tensor) -> Tensor:
            return -s.sum(1)

    with pytest.raises(en.SettlingError, match=r"'s'.*Spin.*Gibbs"):
        en.settle(Ising(s=en.Spin(3)), solver=en.Euler(0.1))


def test_nothing_free_is_said() -> None:
    with pytest.raises(en.SettlingError, match="leave one free"):
        en.settle(Leak(s=en.Real(2)), clamp={"s": torch.zeros(1, 2)})
