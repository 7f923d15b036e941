"""Glauber dynamics: descent at T = 0 against flipping every unit, and the exact distribution above."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.samplers.noise import Tape
from helpers.discrete import F64, dense, flips, noise, other, restricted, torus
from helpers.functional import Functional
from helpers.transitions import (
    CHAINS,
    assert_distributed,
    eight,
    model,
    product,
    single_updates,
    sweep_matrix,
)


@pytest.mark.parametrize("name", ["spins", "two variables", "quartic"])
def test_a_sweep_visits_every_unit_in_an_order_by_lot(name: str) -> None:
    matrices, distribution = single_updates(model(name), 0.9)
    orders = list(itertools.permutations(range(3)))
    lots = [torch.tensor([order.index(i) / 3 for i in range(3)], dtype=F64) for order in orders]
    found = sweep_matrix(model(name), en.Glauber(0.9), 0.9, matrices, list(lots))
    expected = sum(product(matrices, order) for order in orders) / len(orders)
    assert found == pytest.approx(expected, abs=1e-12)
    assert distribution @ found == pytest.approx(distribution, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "temperature"), [("spins", 1.0), ("bits", 0.7), ("two variables", 1.0), ("ring", 1.5)]
)
def test_samples_are_distributed_as_enumeration_says(kind: str, temperature: float) -> None:
    energy = eight(kind)
    start = {n: torch.full((CHAINS, *v.shape), v.low, dtype=F64) for n, v in energy.variables.items()}
    generator = torch.Generator().manual_seed(12)
    solution = en.settle(energy, start, solver=en.Glauber(temperature), max_steps=40, generator=generator)
    assert_distributed(energy, solution.state, temperature)


@cache
def machines(kind: str) -> tuple[Functional, list[str]]:
    makers: dict[str, Any] = {
        "spins": lambda: dense(en.Spin(9), own=True),
        "bits": lambda: dense(en.Bit(9)),
        "two variables": lambda: restricted(en.Bit(5), en.Spin(4)),
        "torus": lambda: torus(3, 5),
        "quartic": lambda: other("quartic", en.Spin, 6),
        "threshold": lambda: other("threshold", en.Bit, 6),
    }
    energy = makers[kind]()
    return energy, list(energy.variables)


KINDS = ["spins", "bits", "two variables", "torus", "quartic", "threshold"]


@settings(max_examples=25)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000), whole=st.booleans())
def test_the_energy_never_rises_and_ends_where_no_flip_lowers_it(kind: str, seed: int, whole: bool) -> None:
    """``whole``: couplings of whole numbers, which have ties."""
    energy, names = machines(kind)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=F64))
            if whole:
                parameter.round_()
    solution = en.settle(
        energy, _random(energy, 6, generator), record="energy", generator=generator, throw=True
    )
    rises = solution.trajectory.diff(dim=0).max()
    assert rises <= 1e-12 * (1 + solution.trajectory.abs().max())
    differences = flips(energy, solution.state, names)
    for name in names:
        sign = torch.where(solution.state[name] == energy.variables[name].high, 1.0, -1.0)
        assert (sign * differences[name]).max() <= 1e-11
    assert (solution.residual == 0).all()
    assert (solution.status == en.Status.CONVERGED).all()


def _random(energy: en.Energy, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: variable.initial(count, dtype=F64, device=torch.device("cpu"), generator=generator)
        for name, variable in energy.variables.items()
    }


def test_an_energy_that_cannot_be_traced_descends_too() -> None:
    energy = other("untraceable", en.Spin, 5)
    with pytest.warns(en.EagerFallback):
        solution = en.settle(
            energy, {"s": noise(4, 5).sign()}, generator=torch.Generator().manual_seed(0), throw=True
        )
    sign = solution.state["s"]
    assert (sign * flips(energy, solution.state, ["s"])["s"]).max() <= 1e-12


def hopfield(patterns: Tensor) -> Functional:
    """E = -s.W s / 2, W = sum of outer products / n, without a diagonal (Hopfield 1982)."""
    n = patterns.shape[1]
    weight = patterns.T @ patterns / n
    weight.fill_diagonal_(0.0)
    return Functional(lambda e, s: -0.5 * (s * (s @ e.W)).sum(1), {"W": weight}, s=en.Spin(n)).to(
        patterns.dtype
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stored_orthogonal_patterns_are_fixed_points_and_are_recalled(dtype: torch.dtype) -> None:
    """The field on a stored pattern is (1 - p / n) times it; few flipped units are put right."""
    rows = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=dtype)
    matrix = torch.ones(1, 1, dtype=dtype)
    for _ in range(5):
        matrix = torch.kron(matrix, rows)  # Hadamard: 32 orthogonal patterns
    patterns = matrix[[3, 7, 12, 21]]
    energy = hopfield(patterns)
    generator = torch.Generator().manual_seed(0)
    same = en.settle(energy, {"s": patterns}, generator=generator)
    assert torch.equal(same.state["s"], patterns)
    assert (same.statistics["flips"] == 0).all()
    assert torch.allclose(same.energy, torch.full((4,), -0.5 * (32 - 4), dtype=dtype))
    cues = patterns.clone()
    cues[:, [2, 11, 30]] *= -1
    found = en.settle(energy, {"s": cues}, generator=generator, throw=True)
    assert torch.equal(found.state["s"], patterns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_stay_although_sums_round(dtype: torch.dtype) -> None:
    """Fields of 0.1 + 0.2 - 0.3 and the like are no reason to move."""
    weight = torch.tensor([0.1, 0.2, -0.3, 0.7, -0.7], dtype=dtype)

    def function(e: Any, s: Tensor) -> Tensor:
        return -s[:, 0] * (s[:, 1:] @ e.w) - 5 * s[:, 1:].sum(1)

    energy = Functional(function, {"w": weight}, s=en.Spin(6)).to(dtype)
    start = torch.ones(2, 6, dtype=dtype)
    start[1, 0] = -1
    solution = en.settle(energy, {"s": start}, generator=torch.Generator().manual_seed(0))
    assert torch.equal(solution.state["s"], start)
    assert solution.steps.tolist() == [5, 5]  # the first look
    assert solution.residual.tolist() == [0, 0]


def test_the_order_of_the_lot_is_the_order_of_the_updates() -> None:
    """Two spins that repel and are both high: the one that comes first moves."""
    energy = Functional(lambda e, s: e.J * s[:, 0] * s[:, 1], {"J": torch.ones((), dtype=F64)}, s=en.Spin(2))
    solver = en.Glauber()
    flow = solver.flow(energy, None, {"s": torch.ones(1, 2, dtype=F64)})
    carry = solver.init(flow, flow.start)
    for lot, expected in (([0.1, 0.9], [-1, 1]), ([0.9, 0.1], [1, -1])):
        tape: Any = Tape(given=[torch.tensor(lot, dtype=F64)])
        state, _, released = solver.step(flow, flow.start, carry, tape)
        assert state["s"].tolist() == [expected]
        assert released.tolist() == [2.0]
        assert tape.asked == [("uniform", (2,))]  # at T = 0 nothing else is by chance


@pytest.mark.parametrize("kind", ["spins", "two variables", "quartic"])
def test_updates_commute_with_relabelling_the_units(kind: str) -> None:
    """With the lots relabelled alike, the run of relabelled units is the relabelled run."""
    energy, names = machines(kind)
    generator = torch.Generator().manual_seed(3)
    start = _random(energy, 5, generator)
    sizes = [start[name].shape[1] for name in names]
    orders = [torch.randperm(size, generator=generator) for size in sizes]
    whole = torch.cat(
        [order + shift for order, shift in zip(orders, np.cumsum([0, *sizes[:-1]]), strict=True)]
    )
    axes = {
        "W": orders if len(orders) == 2 else orders * 2,
        "b": orders[:1],
        "c": orders[1:],
        "a": orders[:1],
    }
    tensors = {}
    for name, value in energy.named_parameters():
        for dim, order in enumerate(axes[name]):
            value = value.index_select(dim, order)
        tensors[name] = value.detach().clone()
    twin = Functional(energy.function, tensors, **energy.variables)
    for temperature in (0.0, 1.0):
        lots = torch.rand(sum(sizes), generator=generator, dtype=F64)
        chances = torch.rand(sum(sizes), 5, generator=generator, dtype=F64)
        solver = en.Glauber(temperature)
        ends = []
        for own, begin, lot in (
            (energy, start, lots),
            (twin, {n: start[n][:, o] for n, o in zip(names, orders, strict=True)}, lots[whole]),
        ):
            flow = solver.flow(own, None, begin)
            tape: Any = Tape(given=[lot, chances])
            ends.append(solver.step(flow, begin, solver.init(flow, begin), tape)[0])
        for name, order in zip(names, orders, strict=True):
            assert torch.equal(ends[0][name][:, order], ends[1][name])


def test_a_sample_does_not_see_its_companions() -> None:
    """At T = 0, also while settled samples are dropped."""
    energy = dense(en.Spin(40), scale=1.0, seed=6)
    start = noise(30, 40, seed=1).sign()
    together = en.settle(energy, {"s": start}, generator=torch.Generator().manual_seed(0))
    assert len(set(together.steps.tolist())) > 1
    for i in (0, 7, 29):
        alone = en.settle(energy, {"s": start[i : i + 1]}, generator=torch.Generator().manual_seed(0))
        assert torch.equal(alone.state["s"][0], together.state["s"][i])
        assert alone.steps[0] == together.steps[i]


def test_clamped_and_held_units_stay() -> None:
    energy, _ = machines("two variables")
    generator = torch.Generator().manual_seed(1)
    v, h = noise(6, 5).sign().clamp(min=0), noise(6, 4).sign()
    mask = noise(6, 4, seed=2) > 0
    solution = en.settle(energy, clamp={"v": v, "h": en.Partial(h, mask)}, generator=generator, throw=True)
    assert torch.equal(solution.state["v"], v)
    assert torch.equal(solution.state["h"][mask], h[mask])
    field = v @ energy.W + energy.c  # E = -h . field
    assert torch.equal(solution.state["h"][~mask], field.sign()[~mask])


def test_it_is_the_default_where_all_free_variables_are_discrete() -> None:
    energy = restricted(en.Bit(3), en.Real(2))
    h = noise(2, 2)
    solution = en.settle(energy, clamp={"h": h}, generator=torch.Generator().manual_seed(0), throw=True)
    field = h @ energy.W.T + energy.b
    assert torch.equal(solution.state["v"], (field > 0).double())
    assert set(solution.statistics) == {"flips"}


def test_a_rule_contrasts_states_that_it_finds() -> None:
    """Contrastive Hebbian learning at T = 0 with given v: dE/dW = -v h' at the two ends."""
    energy = restricted(en.Bit(3), en.Spin(2))
    v = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=F64)
    h = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=F64)
    rule = en.ContrastiveHebbian(energy, given="v")
    rule(v=v, h=h).backward()
    free = (v @ energy.W + energy.c).sign().detach()
    assert torch.allclose(energy.W.grad, v.T @ (free - h) / 2)


def test_above_zero_it_never_settles() -> None:
    assert isinstance(en.Glauber(0.5).until(), en.Never)
    assert isinstance(en.Glauber().until(), en.Stationary)
    solution = en.settle(eight("spins"), solver=en.Glauber(0.5), max_steps=7)
    assert solution.steps.tolist() == [7]
    assert solution.status.tolist() == [en.Status.MAX_STEPS]
