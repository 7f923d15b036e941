"""MALA and Hamiltonian Monte Carlo: detailed balance by quadrature of a step, and laws without bias."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.chains import F64, check_law, check_mean, fed, flow_of
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

HEAT = 0.7
SAMPLERS: dict[str, Any] = {
    "MALA": en.MALA(0.15, HEAT),
    "HMC": en.HamiltonianMonteCarlo(0.3, 3, HEAT),
}


def double_well(x: Tensor) -> Tensor:
    return (x.square() - 1).square() - 0.4 * x


# An energy of one unit: its variable, the energy as a function of what is integrated, log volume included.
TARGETS: dict[str, tuple[en.Energy, Callable[[Tensor], Tensor]]] = {
    "double well": (
        Functional(lambda e, x: double_well(x), x=en.Real(tau=2.0)),
        double_well,
    ),
    "sigmoid": (
        Functional(lambda e, x: 3 * x, x=en.Unit(link=en.Sigmoid(), tau=0.5)),
        lambda u: 3 * u.sigmoid() - HEAT * (u.sigmoid() * (1 - u.sigmoid())).log(),
    ),
    "tanh": (
        Functional(lambda e, x: x.square() - x, x=en.Interval(low=-1, high=1, link=en.Tanh())),
        lambda u: u.tanh().square() - u.tanh() - HEAT * (1 - u.tanh().square()).log(),
    ),
}


class Chain:
    """Steps in one dimension from points of what is integrated, with numbers that are given."""

    def __init__(self, sampler: Any, energy: en.Energy) -> None:
        self.sampler, self.energy = sampler, energy

    def step(self, point: Tensor, xi: Tensor, level: Tensor) -> Tensor:
        flow = flow_of(self.sampler, self.energy, x=torch.full_like(point, 0.5))
        return fed(self.sampler, flow, [xi, level], state={"x": point})[0]["x"]

    def propose(self, point: Tensor, xi: Tensor) -> Tensor:
        """Where the trajectory ends: the level 0 accepts whatever is possible at all."""
        return self.step(point, xi, torch.zeros_like(point))

    def acceptance(self, point: Tensor, xi: Tensor) -> Tensor:
        """The largest level at which the end is accepted, by bisection."""
        low, high = torch.zeros_like(point), torch.ones_like(point)
        for _ in range(45):
            middle = (low + high) / 2
            moved = self.step(point, xi, middle) != point
            low, high = torch.where(moved, middle, low), torch.where(moved, high, middle)
        return low

    def aim(self, point: Tensor, target: Tensor) -> Tensor:
        """The noise that proposes a target, by bisection: on short trajectories it is monotone."""
        low, high = torch.full_like(point, -4.0), torch.full_like(point, 4.0)
        for _ in range(60):
            middle = (low + high) / 2
            short = self.propose(point, middle) < target
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2

    def density(self, point: Tensor, xi: Tensor) -> Tensor:
        """Of the proposal: that of the noise over how much the trajectory stretches it."""
        width = 1e-4
        stretch = (self.propose(point, xi + width) - self.propose(point, xi - width)) / (2 * width)
        return torch.exp(-xi.square() / 2) / stretch.abs()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_detailed_balance(sampler: str, target: str) -> None:
    """Pi(x) q(x -> y) a(x -> y) is the same both ways, where q and a are measured on the step itself."""
    energy, total = TARGETS[target]
    chain = Chain(SAMPLERS[sampler], energy)
    points = torch.cartesian_prod(
        torch.tensor([-1.2, -0.3, 0.4, 1.1], dtype=F64), torch.tensor([-1.3, -0.2, 0.6, 1.7], dtype=F64)
    )
    x, xi = points[:, 0].contiguous(), points[:, 1].contiguous()
    y = chain.propose(x, xi)
    back = chain.aim(y, x)
    torch.testing.assert_close(chain.propose(y, back), x, rtol=0, atol=1e-9)
    there = chain.acceptance(x, xi)
    here = chain.acceptance(y, back)
    forth = torch.exp(-total(x) / HEAT) * chain.density(x, xi) * there
    again = torch.exp(-total(y) / HEAT) * chain.density(y, back) * here
    torch.testing.assert_close(forth, again, rtol=1e-6, atol=0)
    assert float(torch.minimum(there, here).min()) < 0.99  # the test of Metropolis had something to do
    assert float(torch.maximum(there, here).min()) > 0.99  # and it rejects no more than it must


def test_mala_accepts_by_the_ratio_of_the_densities_of_its_proposals() -> None:
    dt, tau = 0.15, 2.0
    chain = Chain(en.MALA(dt, HEAT), TARGETS["double well"][0])
    x = torch.linspace(-1.5, 1.5, 9, dtype=F64)
    xi = torch.linspace(1.4, -1.6, 9, dtype=F64)
    y = chain.propose(x, xi)

    def mean(x: Tensor) -> Tensor:
        return x - dt / tau * (4 * x * (x.square() - 1) - 0.4)

    def log_q(x: Tensor, y: Tensor) -> Tensor:
        return -(y - mean(x)).square() / (4 * HEAT * dt / tau)

    torch.testing.assert_close(y, mean(x) + math.sqrt(2 * HEAT * dt / tau) * xi)
    ratio = (double_well(x) - double_well(y)) / HEAT + log_q(y, x) - log_q(x, y)
    torch.testing.assert_close(chain.acceptance(x, xi), ratio.exp().clamp(max=1), rtol=1e-9, atol=1e-12)


def test_mala_proposes_what_langevin_does() -> None:
    energy = Functional(
        lambda e, x, a: x.pow(4).sum(1) + (x.sum(1) - 1) * a.cos().sum(1) + a.sum(1),
        x=en.Real(3, tau=0.5),
        a=en.Unit(2, link=en.Sigmoid()),
    )
    state = {"x": torch.full((5, 3), 0.3, dtype=F64), "a": torch.full((5, 2), 0.6, dtype=F64)}
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(5, n, generator=generator, dtype=F64) for n in (3, 2)]
    heat = torch.linspace(0.3, 2.0, 5, dtype=F64)
    ends = []
    for sampler, more in ((en.Langevin(0.02), []), (en.MALA(0.02), [torch.zeros(5, dtype=F64)])):
        ends.append(fed(sampler, flow_of(sampler, energy, **state), numbers + more, temperature=heat)[0])
    for name in state:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-12, atol=1e-12)


def test_the_error_of_the_energy_is_of_second_order_in_the_step() -> None:
    """Along trajectories of one length the acceptance is exp(-error / T), with an error of order dt^2."""
    x = torch.tensor([-0.7, 0.2, 0.9, 1.3], dtype=F64)
    xi = torch.tensor([0.8, -0.5, 1.2, -1.0], dtype=F64)
    losses = []
    for steps in (10, 20, 40):
        chain = Chain(en.HamiltonianMonteCarlo(1.0 / steps, steps, HEAT), TARGETS["double well"][0])
        losses.append(-chain.acceptance(x, xi).log())
    seen = losses[-1] > 1e-8  # trajectories that lose energy are accepted, which hides their error
    assert int(seen.sum()) >= 2
    for coarse, fine in pairwise(losses):
        torch.testing.assert_close((coarse / fine)[seen], torch.full_like(x, 4)[seen], rtol=0.1, atol=0)


@pytest.mark.parametrize(
    "sampler", [en.MALA(0.1), en.HamiltonianMonteCarlo(0.35, 4)], ids=lambda s: type(s).__name__
)
def test_second_moments_of_a_correlated_gaussian(sampler: Any) -> None:
    precision = torch.tensor([[2.0, -1.2, 0.3], [-1.2, 1.5, 0.4], [0.3, 0.4, 1.0]], dtype=F64)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    energy = Functional(
        lambda e, x: 0.5 * (((x - e.shift) @ e.precision) * (x - e.shift)).sum(1),
        {"precision": precision, "shift": shift},
        x=en.Real(3),
    )
    found = en.settle(
        energy,
        {"x": torch.zeros(4000, 3, dtype=F64)},
        solver=sampler,
        max_steps=400 if isinstance(sampler, en.MALA) else 80,
        generator=torch.Generator().manual_seed(3),
    )
    x = found.state["x"] - shift
    check_mean(x, 0.0)
    check_mean(x.unsqueeze(1) * x.unsqueeze(2), torch.linalg.inv(precision))
    assert 0.5 < float(found.statistics["acceptance"].mean()) < 0.98


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_both_sides_of_a_double_well(sampler: str) -> None:
    energy = TARGETS["double well"][0]
    found = en.settle(
        energy,
        {"x": torch.full((4000,), -1.0, dtype=F64)},
        solver=SAMPLERS[sampler],
        max_steps=500 if sampler == "MALA" else 200,
        generator=torch.Generator().manual_seed(4),
    )
    check_law(found.state["x"], lambda x: math.exp(-((x**2 - 1) ** 2 - 0.4 * x) / HEAT), low=-3.0, high=3.0)


@pytest.mark.parametrize(
    "sampler", [en.MALA(0.4), en.HamiltonianMonteCarlo(0.6, 3)], ids=lambda s: type(s).__name__
)
def test_what_has_no_energy_is_never_entered(sampler: Any) -> None:
    """The gamma law x exp(-x): the energy is NaN below zero, and infinite at zero."""
    energy = Functional(lambda e, x: x - x.log(), x=en.Real())
    found = en.settle(
        energy,
        {"x": torch.ones(4000, dtype=F64)},
        solver=sampler,
        max_steps=100,
        generator=torch.Generator().manual_seed(5),
    )
    assert float(found.state["x"].min()) > 0
    assert set(found.status.tolist()) == {en.Status.MAX_STEPS}
    assert float(found.statistics["acceptance"].min()) < 1
    check_law(found.state["x"], lambda x: x * math.exp(-x), low=0.0, high=40.0)


def test_trajectories_that_blow_up_are_rejected() -> None:
    found = en.settle(
        Functional(lambda e, x: x.pow(4), x=en.Real()),
        {"x": torch.tensor([0.5, 3.0])},
        solver=en.HamiltonianMonteCarlo(5.0, 30),
        max_steps=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.state["x"].tolist() == [0.5, 3.0]
    assert found.statistics["acceptance"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "sampler", [en.MALA(0.2), en.HamiltonianMonteCarlo(0.5, 2)], ids=lambda s: type(s).__name__
)
def test_acceptance_is_how_often_a_chain_has_moved(sampler: Any) -> None:
    found = en.settle(
        Functional(lambda e, x: double_well(x).sum(1), x=en.Real(2)),
        {"x": torch.ones(5, 2, dtype=F64)},
        solver=sampler,
        max_steps=23,
        record="state",
        generator=torch.Generator().manual_seed(0),
    )
    assert found.trajectory is not None
    path = found.trajectory["x"]
    moved = (path[1:] != path[:-1]).any(-1).double().mean(0)
    torch.testing.assert_close(found.statistics["acceptance"], moved)
    assert 0 < float(moved.min()) < float(moved.max()) < 1


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_whole_numbers(steps: Any) -> None:
    with pytest.raises(ValueError, match="HamiltonianMonteCarlo: steps must be a whole number above 0"):
        en.HamiltonianMonteCarlo(0.1, steps)


@pytest.mark.parametrize("make", [en.MALA, lambda *a, **k: en.HamiltonianMonteCarlo(*a, 3, **k)])
def test_a_metropolis_test_needs_a_temperature(make: Any) -> None:
    with pytest.raises(ValueError, match="temperature must be a positive number, got 0"):
        make(0.1, temperature=0)
