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
    from collections.abc import Callable, Iterator

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
    "rk4": (en.RungeKutta4, 4, 32),
    "dormand-prince": (DormandPrince, 5, 32),
}

A = np.array([[2.0, -0.7, 0.4], [-0.7, 1.5, 0.3], [0.4, 0.3, 1.0]])
FIELD = np.array([1.0, -0.5, 0.3])
TAU = np.array([2.0, 0.5, 0.5])


class Problem:
    """An energy with the path of its flow: from the values at the start to those at a time."""

    def __init__(
        self,
        energy: en.Energy,
        start: dict[str, Tensor],
        exact: Callable[[float], dict[str, np.ndarray]],
        time: float = 2.0,
    ) -> None:
        self.energy, self.start, self.exact, self.time = energy, start, exact, time

    def wrong(self, found: en.Solution) -> float:
        return max(float(np.abs(found.state[n].numpy() - v).max()) for n, v in self.exact(self.time).items())

    def flow(self) -> en.Flow:
        return en.Euler(1.0).flow(self.energy, state=self.start)

    def point(self, flow: Any, time: float) -> dict[str, Tensor]:
        """What is integrated, on the exact path."""
        values = {name: torch.tensor(value) for name, value in self.exact(time).items()}
        return {n: flow.links[n].potential(v) if n in flow.links else v for n, v in values.items()}


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
    """tau ds/dt = s - s^3, a double well: 1 / s^2 - 1 falls by exp(-2 t / tau)."""
    model = Functional(lambda e, s: (s.pow(4) / 4 - s.square() / 2).sum(1), s=en.Real(2, tau=1.5))
    start = np.array([[0.6, 0.5], [-0.8, 0.1]])

    def exact(time: float) -> dict[str, np.ndarray]:
        return {"s": np.sign(start) / np.sqrt(1 + (start**-2.0 - 1) * np.exp(-2 * time / 1.5))}

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

    return Problem(model, {"s": torch.tensor(1 / (1 + np.exp(-potential)))}, exact, time=4.0)


PROBLEMS = {"linear": linear, "cubic": cubic, "tanh": tanh, "logistic": logistic}


@pytest.fixture(autouse=True)
def _values() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(solver: str, name: str) -> None:
    problem, (make, order, steps) = PROBLEMS[name](), SOLVERS[solver]
    errors = []
    for number in (steps, 2 * steps):
        found = en.settle(
            problem.energy,
            problem.start,
            solver=make(problem.time / number),
            max_steps=number,
            until=en.Never(),
        )
        errors.append(problem.wrong(found))
    assert errors[1] > 1e-14
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_estimate_of_the_error_is_of_one_order_less(name: str) -> None:
    """A step of the solution of order 4 is wrong by dt^5, one of order 5 by dt^6: so is their difference."""
    problem = PROBLEMS[name]()
    flow = problem.flow()
    start = problem.point(flow, 0.0)
    errors, estimates = [], []
    for dt in (0.1, 0.05):
        step = trial(flow, start, flow.velocity(start), torch.full((2,), dt, dtype=F64))
        wrong = {n: step.point[n] - step.error[n] - v for n, v in problem.point(flow, dt).items()}
        errors.append(max(float(value.abs().max()) for value in wrong.values()))
        estimates.append(max(float(value.abs().max()) for value in step.error.values()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.25)
    assert estimates == pytest.approx(errors, rel=0.25)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_error_of_adaptive_steps_follows_the_tolerance(name: str) -> None:
    problem = PROBLEMS[name]()
    errors = {}
    for digits in (4, 6, 8, 10):
        solver = en.Adaptive(rtol=10.0**-digits, atol=10.0**-digits, time=problem.time)
        errors[digits] = problem.wrong(en.settle(problem.energy, problem.start, solver=solver, throw=True))
        assert errors[digits] < 10 * 10.0**-digits
    assert errors[10] < 1e-4 * errors[4]


@pytest.mark.parametrize("name", PROBLEMS)
def test_adaptive_takes_about_the_steps_of_scipy_with_the_same_pair(name: str) -> None:
    """Only the control differs, which is integral there and proportional-integral here."""
    problem = PROBLEMS[name]()
    flow: Any = problem.flow()
    solver = en.Adaptive(rtol=1e-8, atol=1e-8, time=problem.time)
    ours = en.settle(problem.energy, problem.start, solver=solver, throw=True).statistics["accepted"]
    sizes = [value.shape[1] for value in flow.start.values()]

    for sample in range(2):
        one = flow.take(torch.tensor([sample]))

        def velocity(time: float, z: np.ndarray, one: Any = one) -> np.ndarray:
            pieces = torch.tensor(z).unsqueeze(0).split(sizes, 1)
            return torch.cat(list(one.velocity(dict(zip(one.names, pieces, strict=True))).values()), 1)[
                0
            ].numpy()

        start = torch.cat(list(one.start.values()), 1)[0].numpy()
        theirs = solve_ivp(velocity, (0, problem.time), start, rtol=1e-8, atol=1e-8)
        assert 0.6 < float(ours[sample]) / (len(theirs.t) - 1) < 1.6
