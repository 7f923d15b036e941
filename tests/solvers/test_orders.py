"""ODE solvers against closed forms: the order of convergence of each, on gradient and on mirror flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import lambertw
from torch import Tensor

import energynet as en
from energynet.solvers.dormand_prince import trial
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

F64 = torch.float64


class DormandPrince(en.Solver):
    """The steps of `Adaptive` with a size that is given."""

    def __init__(self, dt: float) -> None:
        self.dt = dt

    def step(self, flow: Any, state: Any, carry: Any, generator: Any) -> Any:
        velocity = flow.velocity(state)
        zero = torch.zeros_like(next(iter(state.values()))[:, 0])
        return trial(flow, state, velocity, zero + self.dt).point, carry, flow.residual(state, velocity)


# order, and the numbers of steps that make the error small but far above rounding
SOLVERS: dict[str, tuple[Callable[[float], en.Solver], int, int]] = {
    "euler": (en.Euler, 1, 256),
    "heun": (en.Heun, 2, 64),
    "rk4": (en.RungeKutta4, 4, 16),
    "dormand-prince": (DormandPrince, 5, 8),
}

A = np.array([[2.0, -0.7, 0.4], [-0.7, 1.5, 0.3], [0.4, 0.3, 1.0]])
FIELD = np.array([1.0, -0.5, 0.3])
TAU = np.array([2.0, 0.5, 0.5])


class Problem:
    """An energy with the path of its flow: from the values at the start to those at a time."""

    def __init__(
        self, energy: en.Energy, start: dict[str, Tensor], exact: Callable[[float], dict[str, np.ndarray]]
    ) -> None:
        self.energy, self.start, self.exact = energy, start, exact

    def wrong(self, found: en.Solution, time: float) -> float:
        return max(float(np.abs(found.state[n].numpy() - v).max()) for n, v in self.exact(time).items())


def linear() -> Problem:
    """Gradient flow of a quadratic, with two time constants: a matrix exponential."""

    def energy(e: Any, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a, b], 1)
        return 0.5 * ((z @ e.A) * z).sum(1) - (z * e.f).sum(1)

    tensors = {"A": torch.tensor(A), "f": torch.tensor(FIELD)}
    model = Functional(energy, tensors, a=en.Real(1, tau=2.0), b=en.Real(2, tau=0.5))
    start = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    rest = np.linalg.solve(A, FIELD)

    def exact(time: float) -> dict[str, np.ndarray]:
        z = rest + (start - rest) @ expm(-time * A / TAU[:, None]).T
        return {"a": z[:, :1], "b": z[:, 1:]}

    return Problem(model, {"a": torch.tensor(start[:, :1]), "b": torch.tensor(start[:, 1:])}, exact)


def cubic() -> Problem:
    """tau ds/dt = -s^3: s = s0 / sqrt(1 + 2 s0^2 t / tau)."""
    model = Functional(lambda e, s: s.pow(4).sum(1) / 4, s=en.Real(2, tau=1.5))
    start = np.array([[1.0, 2.0], [-1.5, 0.3]])

    def exact(time: float) -> dict[str, np.ndarray]:
        return {"s": start / np.sqrt(1 + 2 * start**2 * time / 1.5)}

    return Problem(model, {"s": torch.tensor(start)}, exact)


def tanh() -> Problem:
    """tau du/dt = -tanh(u): sinh(u) = sinh(u0) exp(-t / tau)."""
    model = Functional(
        lambda e, s: s.square().sum(1) / 2, s=en.Interval(2, low=-1, high=1, tau=0.7, link=en.Tanh())
    )
    potential = np.array([[1.0, -2.0], [3.0, 0.2]])

    def exact(time: float) -> dict[str, np.ndarray]:
        return {"s": np.tanh(np.arcsinh(np.sinh(potential) * np.exp(-time / 0.7)))}

    return Problem(model, {"s": torch.tensor(np.tanh(potential))}, exact)


def logistic() -> Problem:
    """du/dt = 1 - sigmoid(u), for E = (s - 1)^2 / 2: u + exp(u) = u0 + exp(u0) + t, by Lambert's function."""
    model = Functional(lambda e, s: (s - 1).square().sum(1) / 2, s=en.Unit(2, link=en.Sigmoid()))
    potential = np.array([[-1.0, 0.5], [0.0, -3.0]])

    def exact(time: float) -> dict[str, np.ndarray]:
        power = lambertw(np.exp(potential + np.exp(potential) + time)).real
        return {"s": power / (1 + power)}

    return Problem(model, {"s": torch.tensor(1 / (1 + np.exp(-potential)))}, exact)


PROBLEMS = {"linear": linear, "cubic": cubic, "tanh": tanh, "logistic": logistic}


def integrate(problem: Problem, solver: en.Solver, steps: int) -> en.Solution:
    return en.settle(problem.energy, problem.start, solver=solver, max_steps=steps, until=en.Never())


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(solver: str, name: str) -> None:
    problem, (make, order, steps) = PROBLEMS[name](), SOLVERS[solver]
    coarse, fine = (problem.wrong(integrate(problem, make(1 / n), n), 1.0) for n in (steps, 2 * steps))
    assert fine > 1e-13
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_estimate_of_the_error_is_of_one_order_less(name: str) -> None:
    """A step of the solution of order 4 is wrong by dt^5, one of order 5 by dt^6: so is their difference."""
    problem = PROBLEMS[name]()
    flow = en.Euler(1.0).flow(problem.energy, state=problem.start)
    sizes = []
    for dt in (0.02, 0.01):
        step = trial(flow, flow.start, flow.velocity(flow.start), torch.full((2,), dt, dtype=F64))
        exact = flow.links and {n: flow.links[n].potential(torch.tensor(v)) for n, v in problem.exact(dt).items()}
        true = exact or {name: torch.tensor(value) for name, value in problem.exact(dt).items()}
        fourth = {name: step.point[name] - step.error[name] for name in true}
        sizes.append(max(float((fourth[name] - true[name]).abs().max()) for name in true))
    assert np.log2(sizes[0] / sizes[1]) == pytest.approx(5, abs=0.25)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_error_of_adaptive_steps_follows_the_tolerance(name: str) -> None:
    problem = PROBLEMS[name]()
    errors = {}
    for digits in (4, 6, 8, 10):
        solver = en.Adaptive(rtol=10.0**-digits, atol=10.0**-digits, time=2.0)
        solution = en.settle(problem.energy, problem.start, solver=solver, throw=True)
        errors[digits] = problem.wrong(solution, 2.0)
        assert errors[digits] < 10 * 10.0**-digits
    assert errors[10] < 1e-4 * errors[4]


@pytest.mark.parametrize("name", PROBLEMS)
def test_adaptive_takes_about_the_steps_of_scipy_with_the_same_pair(name: str) -> None:
    """And neither wastes steps: of 100, rejecting some, 60 to 160 may differ by the control alone."""
    problem = PROBLEMS[name]()
    flow = en.Euler(1.0).flow(problem.energy, state=problem.start)
    solver = en.Adaptive(rtol=1e-8, atol=1e-8, time=3.0)
    ours = en.settle(problem.energy, problem.start, solver=solver, throw=True).statistics["accepted"]
    shapes = [(n, v.shape[1]) for n, v in flow.start.items()]

    def velocity(time: float, z: np.ndarray) -> np.ndarray:  # noqa: ARG001
        parts = torch.tensor(z).split([size for _, size in shapes])
        point = {n: p.unsqueeze(0) for (n, _), p in zip(shapes, parts, strict=True)}
        return torch.cat(list(one.velocity(point).values()), 1)[0].numpy()

    for sample in range(2):
        one = flow.take(torch.tensor([sample]))
        start = torch.cat(list(one.start.values()), 1)[0].numpy()
        theirs = solve_ivp(velocity, (0, 3.0), start, rtol=1e-8, atol=1e-8)
        assert 0.6 < float(ours[sample]) / (len(theirs.t) - 1) < 1.6
