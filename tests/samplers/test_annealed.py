"""Annealing: the inner sampler sees the schedule, and cooling finds ground states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.samplers import geometric, linear
from helpers.functional import Functional

F64 = torch.float64


class Recorder(en.Sampler):
    """Stays where it is, and writes down the temperatures that it is given."""

    def __init__(self) -> None:
        super().__init__(7.0)
        self.seen: list[Tensor] = []

    def init(self, flow: Any, state: Any) -> Any:
        return {"count": state["s"][:, 0] * 0}

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        self.seen.append(temperature)
        return state, {"count": carry["count"] + temperature}, carry["count"] * 0

    def statistics(self, carry: Any) -> Any:
        return carry


def spring(e: Any, s: Tensor) -> Tensor:
    return 0.5 * s.square().sum(1)


def spins(n: int, scale: float, seed: int = 0) -> en.Energy:
    """A machine of spins with couplings of both signs."""
    raw = scale * torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    weight = (raw + raw.T).fill_diagonal_(0.0)
    return Functional(lambda e, s: -0.5 * ((s @ e.W) * s).sum(1), {"W": weight}, s=en.Spin(n))


def settled(solver: en.Solver, steps: int, batch: int = 3, dtype: torch.dtype = F64) -> en.Solution:
    start = {"s": torch.ones(batch, 2, dtype=dtype)}
    return en.settle(Functional(spring, s=en.Real(2)), start, solver=solver, max_steps=steps)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("given", [list, torch.tensor, tuple])
def test_the_sampler_sees_the_schedule_and_its_end_holds(given: Any, dtype: torch.dtype) -> None:
    sampler = Recorder()
    solution = settled(en.Annealed(sampler, given([4.0, 2.5, 0.0, 1.0])), 7, dtype=dtype)
    expected = [4.0, 2.5, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert [seen.tolist() for seen in sampler.seen] == [[value] * 3 for value in expected]
    assert {seen.dtype for seen in sampler.seen} == {dtype}
    assert solution.statistics["count"].tolist() == [sum(expected)] * 3  # those of the sampler


def test_a_schedule_may_be_a_function_of_the_steps_done() -> None:
    sampler = Recorder()
    settled(en.Annealed(sampler, lambda done: 3.0 / (1.0 + done)), 4)
    assert [seen.tolist() for seen in sampler.seen] == [[t] * 3 for t in (3.0, 1.5, 1.0, 0.75)]


def test_a_second_settling_starts_the_schedule_again() -> None:
    sampler = Recorder()
    solver = en.Annealed(sampler, [2.0, 1.0])
    for _ in range(2):
        settled(solver, 2)
    assert [float(seen[0]) for seen in sampler.seen] == [2.0, 1.0, 2.0, 1.0]


def test_schedules_in_closed_form() -> None:
    assert geometric(8.0, 0.5, 5) == pytest.approx([8, 4, 2, 1, 0.5])
    assert linear(2.0, 0.0, 5) == pytest.approx([2, 1.5, 1, 0.5, 0])
    assert (geometric(8.0, 0.3, 50)[0], geometric(8.0, 0.3, 50)[-1]) == (8.0, 0.3)
    assert linear(0.3, 0.1, 7)[-1] == 0.1


@pytest.mark.parametrize("schedule", [[], [[1.0]], 3.0, torch.ones(2, 2), torch.tensor(1.0)])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match="a schedule is a sequence of at least one number"):
        en.Annealed(Recorder(), schedule)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_temperatures_are_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(ValueError, match=r"finite number from 0 up, got .* at step 1"):
        en.Annealed(Recorder(), [1.0, bad])
    with pytest.raises(ValueError, match=r"finite number from 0 up, got .* at step 3"):
        settled(en.Annealed(Recorder(), lambda done: torch.where(done == 3, bad, 1.0)), 1)
    with pytest.raises(ValueError, match=r"to temperatures, \(batch,\); for 100 .* gave \(\)"):
        settled(en.Annealed(Recorder(), lambda done: torch.tensor(1.0)), 1)


def test_schedules_have_ends_that_make_sense() -> None:
    with pytest.raises(ValueError, match=r"positive numbers, got 1.0 and 0.0; linear may end at 0"):
        geometric(1.0, 0.0, 3)
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        linear(1.0, 0.0, 1)


@pytest.mark.parametrize("solver", [en.Euler(0.1), en.Annealed(Recorder(), [1.0])])
def test_a_solver_without_a_temperature_is_refused(solver: Any) -> None:
    with pytest.raises(TypeError, match="no Sampler, so it has no temperature"):
        en.Annealed(solver, [1.0])


def test_the_flow_is_that_of_the_sampler_and_the_schedule_runs_to_its_end() -> None:
    solver = en.Annealed(en.Langevin(0.1), [1.0])
    assert isinstance(solver.flow(Functional(spring, s=en.Real(2))), en.LiftedFlow)
    # by itself Glauber at T = 0 stops where no unit moves
    warm = en.settle(spins(3, 0.0), solver=en.Annealed(en.Glauber(), [1.0]), max_steps=30)
    assert warm.steps.tolist() == [30]
    assert en.settle(spins(3, 0.0), solver=en.Glauber(), max_steps=30).steps.tolist() == [5]


def test_at_a_held_temperature_it_is_the_sampler_to_the_bit() -> None:
    energy = Functional(spring, s=en.Real(2))
    start = {"s": torch.ones(5, 2, dtype=F64)}
    ends = [
        en.settle(energy, start, solver=s, max_steps=20, generator=torch.Generator().manual_seed(0))
        for s in (en.Langevin(0.1, temperature=0.5), en.Annealed(en.Langevin(0.1), [0.5]))
    ]
    assert torch.equal(ends[0].state["s"], ends[1].state["s"])


def test_cooling_of_langevin_follows_the_closed_form_of_its_variance() -> None:
    """s <- (1 - dt) s + sqrt(2 dt T) xi: the variance obeys v <- (1 - dt)^2 v + 2 dt T, step by step.

    The sample variance of n normals is v * chi2(n - 1) / (n - 1): relative deviation sqrt(2 / n) = 0.01; five
    and a half of these are met by chance once in 2e7.
    """
    schedule = linear(3.0, 0.0, 12)
    expected = 0.0
    for temperature in schedule:
        expected = 0.8**2 * expected + 0.4 * temperature
    n = 20_000
    solution = en.settle(
        Functional(spring, s=en.Real(1)),
        {"s": torch.zeros(n, 1, dtype=F64)},
        solver=en.Annealed(en.Langevin(0.2), schedule),
        max_steps=len(schedule),
        generator=torch.Generator().manual_seed(0),
    )
    assert abs(float(solution.state["s"].var()) / expected - 1) < 5.5 * (2 / n) ** 0.5


def test_samples_that_are_dropped_leave_the_schedule_of_the_others_alone() -> None:
    class Sometimes(Recorder):
        """The second sample settles at once, so that the batch gets smaller."""

        def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
            state, carry, _ = super().sample(flow, state, carry, generator, temperature)
            return state, carry, (state["s"][:, 0] > 0).to(F64)

    sampler = Sometimes()
    start = {"s": torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=F64)}
    energy = Functional(spring, s=en.Real(2))
    solver = en.Annealed(sampler, [float(t) for t in range(1, 11)])
    solution = en.settle(energy, start, solver=solver, until=en.Stationary(atol=0.1), max_steps=10)
    assert solution.steps.tolist() == [10, 5, 5]
    assert [seen.tolist() for seen in sampler.seen] == [[t] * 3 for t in range(1, 6)] + [
        [t] for t in range(6, 11)
    ]


@pytest.mark.parametrize("name", ["gibbs", "random", "glauber"])
def test_cooling_finds_the_ground_state_of_a_frustrated_machine(name: str) -> None:
    """More often than the law at T = 2 has it, by enumeration of 2^12 states, and than quenches do."""
    sampler = {"gibbs": en.Gibbs(), "random": en.Gibbs(scan="random"), "glauber": en.Glauber()}[name]
    energy, n = spins(12, 1.0, seed=4), 200
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 12)
    energies = energy.energy(s=every).detach()
    ground = energies < energies.min() + 1e-9
    neighbours = energies[torch.arange(4096).unsqueeze(1) ^ 2 ** torch.arange(12)]
    assert (
        int((neighbours > energies.unsqueeze(1)).all(1).sum()) > int(ground.sum()) == 2
    )  # it has local minima
    bound = float((-energies / 2).softmax(0)[ground].sum())
    assert bound > 0.8
    coins = torch.rand(n, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = []
    for schedule in (geometric(6.0, 0.3, 150) + (0.0,) * 5, (0.0,) * 155):
        solution = en.settle(
            energy,
            {"s": (coins < 0.5).to(F64) * 2 - 1},
            solver=en.Annealed(sampler, schedule),
            max_steps=155,
            generator=torch.Generator().manual_seed(0),
        )
        found.append(float((solution.energy < energies.min() + 1e-9).to(F64).mean()))
    assert found[0] > bound - 5 * (bound * (1 - bound) / n) ** 0.5
    assert found[0] > 0.95
    assert found[1] < 0.75
