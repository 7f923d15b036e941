"""Parallel tempering: the swaps, what goes with them, and the law of the first replica."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import energynet as en
from energynet.samplers.noise import Tape
from helpers.functional import Functional

F64 = torch.float64
ALARM = 1e-6  # of a false alarm, for each statistical test
SIGMAS = 5.5  # two-sided normal: 4e-8


class Still(en.Sampler):
    """Does not move; its carry counts its steps and remembers where it was made."""

    def init(self, flow: Any, state: Any) -> Any:
        return {"mark": state["s"][:, 0], "count": torch.zeros_like(state["s"][:, 0])}

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        return state, {"mark": carry["mark"], "count": carry["count"] + 1}, carry["count"] * 0

    def statistics(self, carry: Any) -> Any:
        return {"count": carry["count"]}


def spring(e: Any, s: Tensor) -> Tensor:
    return 0.5 * s.square().sum(1)


SPRING = Functional(spring, s=en.Real(1))


def begun(
    solver: en.ParallelTempering, energy: en.Energy, replicas: Tensor
) -> tuple[en.Flow, dict[str, Tensor], Any]:
    """A flow, a state and a carry whose replicas ``(batch, temperatures)`` are given."""
    state = {"s": replicas[:, :1].clone()}
    flow = solver.flow(energy, state=state)
    carry = solver.init(flow, state)
    carry["others"] = {"s": replicas[:, 1:].unsqueeze(2)}
    if "mark" in carry["sampler"]:
        carry["sampler"] = {**carry["sampler"], "mark": replicas}
    return flow, state, carry


def replicas(state: dict[str, Tensor], carry: Any) -> Tensor:
    return torch.cat([state["s"].unsqueeze(1), carry["others"]["s"]], 1).squeeze(2)


def test_the_swap_kernel_is_in_detailed_balance_with_the_product_of_laws() -> None:
    """Every uniform number of a grid, for every pair of three states: the transition matrix, to 1 / grid."""
    values, temperatures, grid = [0.0, 0.7, -1.6], (0.5, 1.7), 4000
    energies = [0.5 * value**2 for value in values]
    pairs = list(itertools.product(range(3), repeat=2))
    solver = en.ParallelTempering(Still(), temperatures)
    chance = (torch.arange(grid, dtype=F64) + 0.5) / grid
    given = torch.tensor([[values[i], values[j]] for i, j in pairs], dtype=F64).repeat_interleave(grid, 0)
    flow, state, carry = begun(solver, SPRING, given)
    tape: Any = Tape(given=[chance.repeat(9).unsqueeze(1)])
    ended = replicas(*solver.step(flow, state, carry, tape)[:2]).reshape(9, grid, 2)
    assert tape.asked == [("uniform", (9 * grid, 1))]
    weight = [math.exp(-energies[i] / temperatures[0] - energies[j] / temperatures[1]) for i, j in pairs]
    law = torch.tensor(weight, dtype=F64) / sum(weight)
    matrix = torch.zeros(9, 9, dtype=F64)
    for row, (i, j) in enumerate(pairs):
        for column, (k, m) in enumerate(pairs):
            there = torch.tensor([values[k], values[m]], dtype=F64)
            matrix[row, column] = (ended[row] == there).all(1).to(F64).mean()
        ratio = weight[pairs.index((j, i))] / weight[row]
        if i != j:
            assert matrix[row, pairs.index((j, i))] == pytest.approx(min(1.0, ratio), abs=1 / grid)
    assert torch.allclose(matrix.sum(1), torch.ones(9, dtype=F64))
    flow_of_law = law.unsqueeze(1) * matrix
    assert torch.allclose(flow_of_law, flow_of_law.T, atol=1.0 / grid)
    assert torch.allclose(law @ matrix, law, atol=1.0 / grid)
    assert float(matrix.diagonal().min()) < 0.5 < float(matrix.diagonal().max())  # it does move


def test_even_and_odd_pairs_take_turns_and_carries_go_along() -> None:
    """Equal temperatures always swap: the permutations are known, and so is who comes home."""
    solver = en.ParallelTempering(Still(), [1.0] * 4)
    start = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2, dtype=F64)
    flow, state, carry = begun(solver, SPRING, start)
    order, expected = [0, 1, 2, 3], []
    for step in range(9):
        for i in range(step % 2, 3, 2):
            order[i], order[i + 1] = order[i + 1], order[i]
        expected.append(list(order))
    found, homes = [], []
    for _ in range(9):
        state, carry, _ = solver.step(flow, state, carry, None)
        found.append(replicas(state, carry).tolist())
        homes.append(carry["round_trips"].tolist())
        assert torch.equal(carry["sampler"]["mark"], replicas(state, carry))
    assert found == [[order] * 2 for order in expected]
    touched: set[int] = set()
    trips = 0
    for step, now in enumerate(expected):
        touched.add(now[3])
        if now[0] in touched:
            trips += 1
            touched.discard(now[0])
        assert homes[step] == [trips] * 2
    assert trips >= 2
    assert solver.statistics(carry)["swap"].tolist() == [[1.0] * 3] * 2
    assert solver.statistics(carry)["count"].tolist() == [9.0] * 2


def test_a_step_is_several_of_the_sampler_before_a_swap() -> None:
    solution = en.settle(
        SPRING,
        {"s": torch.ones(2, 1, dtype=F64)},
        solver=en.ParallelTempering(Still(), [1.0, 2.0], swap_every=3),
        max_steps=4,
    )
    assert solution.statistics["count"].tolist() == [12.0, 12.0]
    assert solution.statistics["swap"].tolist() == [[1.0], [1.0]]  # equal energies, at the two even turns


def test_a_rate_of_swaps_in_closed_form() -> None:
    """In two dimensions E / T is exponential. A swap flows as often either way: P = 2 P(E_cold > E_hot) = 2 T0 / (T0 + T1)."""
    n, steps = 400, 200
    solution = en.settle(
        Functional(spring, s=en.Real(2)),
        {"s": torch.zeros(n, 2, dtype=F64)},
        solver=en.ParallelTempering(en.HamiltonianMonteCarlo(0.5, 3), [1.0, 2.0, 4.0]),
        max_steps=steps,
        generator=torch.Generator().manual_seed(0),
    )
    rates = solution.statistics["swap"]
    error = rates.std(0) / n**0.5
    assert ((rates.mean(0) - 2 / 3).abs() < SIGMAS * error + 4 / steps).all()  # the start is cold
    assert float(error.max()) < 0.005


@pytest.mark.parametrize(
    "sampler",
    [en.MALA(0.3), en.HamiltonianMonteCarlo(0.4, 2), en.Underdamped(0.3, 1.0)],
    ids=["mala", "hmc", "underdamped"],
)
def test_what_a_sampler_knows_of_a_state_goes_with_it(sampler: en.Sampler) -> None:
    """Cached energies and forces are those of the states that they lie beside; fields differ by sample."""
    field = torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64)
    energy = Functional(
        lambda e, s, f: (s.pow(4) / 4 - f * s).sum(1),
        {"w": torch.ones((), dtype=F64)},
        s=en.Real(1),
        f=en.Real(1),
    )
    solver = en.ParallelTempering(sampler, [1.0, 1.5, 2.0])
    flow = solver.flow(energy, {"f": field}, {"s": field * 0})
    state, generator = flow.start, torch.Generator().manual_seed(0)
    carry = solver.init(flow, state)
    for _ in range(25):
        state, carry, _ = solver.step(flow, state, carry, generator)
    assert float(solver.statistics(carry)["swap"].min()) > 0
    s = replicas(state, carry)
    assert len(set(s.flatten().tolist())) == 9
    assert torch.allclose(carry["sampler"]["force"]["s"].squeeze(2), field - s.pow(3))
    if "energy" in carry["sampler"]:
        assert torch.allclose(carry["sampler"]["energy"], s.pow(4) / 4 - field * s)


def test_momenta_are_at_the_temperature_that_their_states_are_given() -> None:
    """BAOAB is exact on a spring, for momenta of variance T; those of another temperature would warm it."""
    n, temperatures = 12_000, (1.0, 4.0)
    solver = en.ParallelTempering(en.Underdamped(0.4, 0.3), temperatures)
    flow = solver.flow(SPRING, state={"s": torch.zeros(n, 1, dtype=F64)})
    state, carry, generator = flow.start, solver.init(flow, flow.start), torch.Generator().manual_seed(1)
    for _ in range(60):
        state, carry, _ = solver.step(flow, state, carry, generator)
    positions = replicas(state, carry).var(0)
    momenta = carry["sampler"]["momentum"]["s"].squeeze(2).var(0)
    for slot, temperature in enumerate(temperatures):
        for found in (positions[slot], momenta[slot]):
            # of momenta BAOAB has variance T (1 - dt^2 / 4) at the end of its step
            exact = temperature * (1 - 0.04 * (found is momenta[slot]))
            assert abs(float(found) / exact - 1) < SIGMAS * (2 / n) ** 0.5


def double_well(e: Any, s: Tensor) -> Tensor:
    return (8 * (s.square() - 1).square() + e.b * s).sum(1)


def ways(e: Any, s: Tensor) -> Tensor:
    return (4 * (4 * math.pi * s).cos() + e.b * s).sum(1)


def chi_square(samples: Tensor, density: Tensor, points: Tensor, bins: int) -> float:
    """The p-value of samples under a density on a fine grid, in bins of equal probability."""
    cumulative = density.cumsum(0) / density.sum()
    edges = [float(points[int((cumulative < k / bins).sum())]) for k in range(1, bins)]
    counts = torch.bucketize(samples.flatten(), torch.tensor(edges, dtype=F64)).bincount(minlength=bins)
    return float(stats.chisquare(counts.numpy()).pvalue)


@pytest.mark.parametrize(
    ("variable", "function", "low", "high", "start", "dt"),
    [
        (en.Real(1), double_well, -3.0, 3.0, 1.0, 0.02),
        (en.Unit(1, link=en.Sigmoid()), ways, 0.0, 1.0, 0.3, 0.05),
        (en.Unit(1), ways, 0.0, 1.0, 0.3, 0.002),
    ],
    ids=["double well", "link", "box"],
)
def test_the_first_replica_has_the_law_of_the_target_where_the_sampler_is_stuck(
    variable: en.Variable, function: Any, low: float, high: float, start: float, dt: float
) -> None:
    energy = Functional(function, {"b": torch.tensor(0.6, dtype=F64)}, s=variable)
    points = torch.linspace(low, high, 40_001, dtype=F64)
    density = (-energy.energy(s=points.unsqueeze(1))).detach().exp()
    n, steps, sampler = 1500, 250, en.MALA(dt)
    generator = torch.Generator().manual_seed(0)
    ends = {}
    for name, solver in {"plain": sampler, "tempered": en.ParallelTempering(sampler, [1, 2, 4, 8])}.items():
        ends[name] = en.settle(
            energy,
            {"s": torch.full((n, 1), start, dtype=F64)},
            solver=solver,
            max_steps=steps,
            generator=generator,
        ).state["s"]
    assert chi_square(ends["plain"], density, points, 20) < 1e-30
    assert chi_square(ends["tempered"], density, points, 20) > ALARM


def test_replicas_of_spins_have_the_law_of_enumeration_where_gibbs_is_stuck() -> None:
    """A ferromagnet of eight units with a weak field: two deep wells, whose states are counted."""
    energy = Functional(
        lambda e, s: -0.8 * 0.5 * (s.sum(1).square() - 8) - e.b * s.sum(1),
        {"b": torch.tensor(0.1, dtype=F64)},
        s=en.Spin(8),
    )
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 8)
    law = (-energy.energy(s=every)).softmax(0).detach()
    up = float(law[every.sum(1) > 0].sum())
    assert 0.7 < up < 0.9
    n, start = 1500, {"s": torch.full((1500, 8), -1.0, dtype=F64)}
    generator = torch.Generator().manual_seed(0)
    plain = en.settle(energy, start, solver=en.Gibbs(), max_steps=150, generator=generator).state["s"]
    assert float((plain.sum(1) > 0).to(F64).mean()) < 0.05
    solver = en.ParallelTempering(en.Gibbs(), [1.0, 1.7, 3.0, 5.0])
    tempered = en.settle(energy, start, solver=solver, max_steps=150, generator=generator)
    assert set(tempered.statistics) == {"flips", "swap", "round_trips"}
    size = [(8 + int(total)) // 2 for total in every.sum(1).tolist()]
    expected = torch.zeros(9, dtype=F64).index_add(0, torch.tensor(size), law) * n
    counts = ((8 + tempered.state["s"].sum(1)) / 2).long().bincount(minlength=9).to(F64)
    # cells with fewer than five expected go together
    rare = expected < 5
    pooled = [torch.cat([x[~rare], x[rare].sum(0, keepdim=True)]).numpy() for x in (counts, expected)]
    assert stats.chisquare(*pooled).pvalue > ALARM


class Descent(en.Sampler):
    """Gradient steps that are longer at higher temperatures, for energies of curvature 1e9."""

    def init(self, flow: Any, state: Any) -> Any:
        return ()

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        velocity = 1e-9 * flow.velocity(state)["s"]
        return {"s": state["s"] + 0.09 * temperature.unsqueeze(1) * velocity}, (), velocity.abs()[:, 0]


def test_replicas_follow_when_samples_are_dropped() -> None:
    """Energies are so large that swaps are certain either way: a sample alone takes the same path.

    Where the clamp is zero there is no force, and the sample settles at once.
    """
    energy = Functional(lambda e, s, f: 5e8 * (f * (s - f).square()).sum(1), s=en.Real(1), f=en.Real(1))
    solver = en.ParallelTempering(Descent(), [1.0, 3.0, 7.0])
    field = torch.tensor([[2.0], [0.0], [0.0], [3.0], [0.0], [0.0]], dtype=F64)

    def run(field: Tensor) -> en.Solution:
        return en.settle(
            energy,
            {"s": torch.ones_like(field)},
            clamp={"f": field},
            solver=solver,
            until=en.Stationary(atol=1e-12),
            max_steps=13,
            generator=torch.Generator().manual_seed(0),
        )

    together = run(field)
    assert together.steps.tolist() == [13, 5, 5, 13, 5, 5]
    for sample in (0, 3):
        alone = run(field[sample : sample + 1])
        assert torch.equal(alone.state["s"][0], together.state["s"][sample])
        assert torch.equal(alone.statistics["swap"][0], together.statistics["swap"][sample])
    assert 0.1 < float(together.statistics["swap"][3].mean()) < 0.9


def test_a_replica_that_diverges_marks_its_sample() -> None:
    class Broken(Still):
        def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
            state, carry, residual = super().sample(flow, state, carry, generator, temperature)
            bad = (carry["count"] > 2) & (carry["mark"] > 1.5) & (temperature > 1.5)
            return (
                {"s": state["s"].masked_fill(bad.unsqueeze(1), math.nan)},
                carry,
                residual.masked_fill(bad, math.nan),
            )

    start = {"s": torch.tensor([[1.0], [2.0], [1.0]], dtype=F64)}
    solver = en.ParallelTempering(Broken(), [1.0, 2.0])
    solution = en.settle(SPRING, start, solver=solver, max_steps=10)
    assert [en.Status(int(s)).name for s in solution.status] == ["MAX_STEPS", "DIVERGED", "MAX_STEPS"]


def test_a_batch_may_be_empty() -> None:
    solver = en.ParallelTempering(en.MALA(0.1), [1.0, 2.0, 4.0])
    solution = en.settle(SPRING, {"s": torch.zeros(0, 1, dtype=F64)}, solver=solver, max_steps=3)
    assert solution.state["s"].shape == (0, 1)
    assert {n: tuple(v.shape) for n, v in solution.statistics.items()} == {
        "acceptance": (0,),
        "swap": (0, 2),
        "round_trips": (0,),
    }


def test_the_temperature_of_the_sampler_is_not_used() -> None:
    start = {"s": torch.ones(4, 1, dtype=F64)}
    ends = [
        en.settle(
            SPRING,
            start,
            solver=en.ParallelTempering(en.Langevin(0.1, temperature=t), [1.0, 2.0]),
            max_steps=9,
            generator=torch.Generator().manual_seed(0),
        ).state["s"]
        for t in (1.0, 5.0)
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "temperatures", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]]
)
def test_two_positive_temperatures_at_least(temperatures: Any) -> None:
    with pytest.raises(ValueError, match="at least two positive temperatures"):
        en.ParallelTempering(en.Langevin(0.1), temperatures)


@pytest.mark.parametrize("swap_every", [0, -1, 1.5])
def test_swap_every_is_a_positive_whole_number(swap_every: Any) -> None:
    with pytest.raises(ValueError, match="swap_every must be a whole number above 0"):
        en.ParallelTempering(en.Langevin(0.1), [1.0, 2.0], swap_every=swap_every)


@pytest.mark.parametrize("solver", [en.Euler(0.1), en.Annealed(en.Langevin(0.1), [1.0])])
def test_a_solver_without_a_temperature_is_refused(solver: Any) -> None:
    with pytest.raises(TypeError, match="no Sampler, so it has no temperature"):
        en.ParallelTempering(solver, [1.0, 2.0])


def test_no_step_asks_a_tensor_for_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = en.ParallelTempering(en.MALA(0.1), [1.0, 2.0, 4.0])
    flow = solver.flow(SPRING, state={"s": torch.ones(3, 1, dtype=F64)})
    state, carry, generator = flow.start, solver.init(flow, flow.start), torch.Generator().manual_seed(0)
    for _ in range(2):
        state, carry, _ = solver.step(flow, state, carry, generator)

    def refuse(*args: Any) -> Any:
        raise AssertionError("a step asked a tensor for a number")

    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "nonzero"):
        monkeypatch.setattr(Tensor, name, refuse)
    solver.step(flow, state, carry, generator)
