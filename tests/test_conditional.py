"""Energy differences against flipping one unit after the other, and what is found about couplings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.conditional import Kind
from energynet.couplings import Dense, Sparse
from energynet.packing import packing_of
from energynet.samplers.noise import Tape
from energynet.samplers.sweep import Bath, Sweep
from helpers.discrete import dense, every_state, flips, grid, noise, other, restricted, torus
from helpers.functional import Functional

F64 = torch.float64


def gated(e: Any, x: Tensor, s: Tensor) -> Tensor:
    return -torch.einsum("bi,bi,ij,bj->b", x, s, e.W, s)


def two_layers(e: Any, v: Tensor, h: Tensor) -> Tensor:
    """Linear in h given v, but not quadratic in v."""
    return -((v @ e.W).tanh() * h).sum(1) - (v @ e.W).exp().sum(1)


def scalar(e: Any, s: Tensor, t: Tensor) -> Tensor:
    return s * t.sum((1, 2)) - 2.0 * s


FAMILIES: dict[str, Any] = {
    "bits": lambda: dense(en.Bit(5)),
    "spins": lambda: dense(en.Spin(5), own=True),
    "bits with themselves": lambda: dense(en.Bit(5), own=True),
    "two variables": lambda: restricted(en.Bit(4), en.Spin(3)),
    "torus": lambda: torus(3, 4),
    "grid of bits": lambda: torus(3, 3, kind=en.Bit),
    "quartic": lambda: other("quartic", en.Spin),
    "threshold": lambda: other("threshold", en.Bit),
    "third order": lambda: other("third", en.Bit),
    "half linear": lambda: Functional(two_layers, {"W": noise(3, 2)}, v=en.Spin(3), h=en.Bit(2)),
    "no dimension": lambda: Functional(scalar, {}, s=en.Bit(), t=en.Spin(1, 2)).double(),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_differences_are_those_of_flipping_each_unit(family: str) -> None:
    energy = family_of(family)
    state = every_state(energy)
    if len(next(iter(state.values()))) > 300:
        state = {name: value[::37] for name, value in state.items()}
    flow = en.ConditionalFlow(energy, None, state)
    found, expected = flow.fields(flow.start), flips(energy, state, list(energy.variables))
    assert list(found) == list(energy.variables)
    for name, value in expected.items():
        assert torch.allclose(-found[name], value, rtol=0, atol=1e-12)
    released = flow.velocity(flow.start)
    for name, value in expected.items():
        sign = torch.where(state[name] == energy.variables[name].high, 1.0, -1.0)
        assert torch.allclose(released[name], sign * value, rtol=0, atol=1e-12)
    most = torch.cat([v.reshape(len(v), -1) for v in released.values()], 1).amax(1)
    residual = flow.residual(flow.start, released)
    assert torch.allclose(residual, most.clamp(min=0), rtol=0, atol=1e-12)


def test_an_energy_that_cannot_be_traced_has_differences_too() -> None:
    energy = other("untraceable", en.Spin)
    state = every_state(energy)
    with pytest.warns(en.EagerFallback):
        flow = en.ConditionalFlow(energy, None, state)
    assert torch.allclose(-flow.fields(state)["s"], flips(energy, state, ["s"])["s"], rtol=0, atol=1e-12)


def test_many_differences_are_evaluated_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energynet.energies._REPLICAS", 3 * 16 * 4)  # three of the four units
    energy = other("quartic", en.Spin)
    state = every_state(energy)
    flow = en.ConditionalFlow(energy, None, state)
    assert torch.allclose(-flow.fields(state)["s"], flips(energy, state, ["s"])["s"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["spins", "two variables", "quartic"])
def test_held_units_release_nothing(family: str) -> None:
    energy = family_of(family)
    state = every_state(energy)
    name = next(iter(state))
    mask = noise(*state[name].shape) > 0
    flow = en.ConditionalFlow(energy, {name: en.Partial(state[name], mask)}, state)
    released = flow.velocity(flow.start)[name]
    assert (released[mask] == 0).all()
    assert (released[~mask] != 0).all()


def test_what_is_no_more_than_rounding_is_no_residual() -> None:
    flow = en.ConditionalFlow(family_of("spins"), None, {"s": torch.ones(3, 5, dtype=F64)})
    released = -torch.ones(3, 5, dtype=F64)
    released[:, 2] = torch.tensor([1e-16, 1e-12, -1e-16], dtype=F64)
    assert flow.residual(flow.start, {"s": released}).tolist() == [0.0, 1e-12, 0.0]


@pytest.mark.parametrize("held", ["v", "h"])
def test_a_clamped_variable_is_part_of_the_field(held: str) -> None:
    energy = restricted(en.Bit(4), en.Spin(3))
    state = every_state(energy)
    free = "h" if held == "v" else "v"
    flow = en.ConditionalFlow(energy, {held: state[held]}, {free: state[free]})
    assert torch.allclose(-flow.fields({free: state[free]})[free], flips(energy, state, [free])[free])


def test_coefficients_that_depend_on_a_clamp_need_energies() -> None:
    energy = Functional(gated, {"W": noise(3, 3)}, x=en.Real(3), s=en.Spin(3))
    s = every_state(energy, ["s"])["s"]
    x = noise(len(s), 3, seed=5)
    flow = en.ConditionalFlow(energy, {"x": x}, {"s": s})
    assert flow.kind("s") is Kind.OTHER
    assert torch.allclose(-flow.fields({"s": s})["s"], flips(energy, {"x": x, "s": s}, ["s"])["s"])


@cache
def family_of(name: str) -> Functional:
    """One energy for all tests, which is traced once."""
    return FAMILIES[name]()


KINDS = {
    "bits": {"s": Kind.COUPLED},
    "two variables": {"v": Kind.SEPARATE, "h": Kind.SEPARATE},
    "torus": {"s": Kind.COUPLED},
    "quartic": {"s": Kind.OTHER},
    "threshold": {"s": Kind.OTHER},
    "third order": {"s": Kind.OTHER},
    "half linear": {"v": Kind.OTHER, "h": Kind.SEPARATE},
    "no dimension": {"s": Kind.SEPARATE, "t": Kind.SEPARATE},
}


@pytest.mark.parametrize("family", KINDS)
def test_the_trace_tells_how_units_may_be_updated(family: str) -> None:
    flow = en.ConditionalFlow(family_of(family))
    assert {name: flow.kind(name) for name in flow.names} == KINDS[family]


def test_couplings_are_the_matrix_in_bits_and_follow_the_parameters() -> None:
    energy = dense(en.Spin(4), own=True)
    flow = en.ConditionalFlow(energy)
    for _ in range(2):
        found = flow.couplings(("s",))
        assert isinstance(found, Dense)
        weight = energy.W.detach()
        assert torch.allclose(found.own, weight.diagonal())
        assert torch.allclose(found.matrix, 4 * (weight - weight.diag().diag()))
        assert flow.couplings(("s",)) is found
        with torch.no_grad():
            energy.W.mul_(2.0)


def test_couplings_of_a_grid_are_a_list_of_neighbours() -> None:
    flow = en.ConditionalFlow(torus(8, 8, coupling=0.25))
    found = flow.couplings(("s",))
    assert isinstance(found, Sparse)
    assert found.others.shape == (64, 4)
    assert sorted(found.others[9].tolist()) == [1, 8, 10, 17]
    assert torch.allclose(found.strength, torch.ones(64, 4, dtype=F64))
    bits = noise(64, 3)
    index = torch.tensor([5, 9, 1, 8])
    matrix = found.among(torch.arange(64))
    assert torch.allclose(found.pull(index, bits), matrix[index] @ bits)
    assert torch.equal(found.among(index), matrix[index][:, index])


@pytest.mark.parametrize(
    ("energy", "colours"),
    [
        (torus(4, 6), 2), (torus(8, 8), 2), (torus(3, 4), 3), (torus(5, 5), 3), (torus(7, 9), 3), (torus(9), 3),
        (grid(3, 3), 2), (grid(5, 7), 2), (grid(4, 5), 2), (grid(9, 9), 2), (dense(en.Bit(6)), 6),
    ],
    ids=["4x6", "8x8", "3x4", "5x5", "7x9", "9", "open 3x3", "open 5x7", "open 4x5", "open 9x9", "complete"],
)  # fmt: skip
def test_colours_are_few_and_no_two_coupled_units_share_one(energy: en.Energy, colours: int) -> None:
    found = en.ConditionalFlow(energy).couplings(("s",))
    assert found is not None
    groups = found.colours
    assert len(groups) == colours
    assert sorted(torch.cat(groups).tolist()) == list(range(len(found.own)))
    for group in groups:
        assert not found.among(group).any()


def test_levels_keep_the_order_of_coupled_units() -> None:
    found = en.ConditionalFlow(torus(8, 9)).couplings(("s",))
    assert found is not None
    level = np.zeros(72, dtype=int)
    for number, group in enumerate(found.levels):
        assert not found.among(group).any()
        level[group.numpy()] = number
    matrix = found.among(torch.arange(72)).numpy()
    first, second = np.nonzero(np.triu(matrix))
    assert (level[first] < level[second]).all()
    assert len(found.levels) < 24


def test_a_pattern_of_couplings_that_stays_is_coloured_once() -> None:
    energy = torus(8, 8)
    flow = en.ConditionalFlow(energy)
    first = flow.couplings(("s",))
    assert first is not None
    colours = first.colours
    with torch.no_grad():
        energy.J.mul_(3.0)
    second = flow.couplings(("s",))
    assert second is not None and second is not first
    assert second.colours is colours
    with torch.no_grad():
        energy.J.zero_()
    third = flow.couplings(("s",))
    assert third is not None
    assert len(third.colours) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("order", ["colours", "levels"])
def test_groups_do_what_one_unit_after_the_other_does(temperature: float, order: str) -> None:
    energy = torus(4, 4)
    start = {"s": noise(9, 4, 4).sign()}
    flow = en.ConditionalFlow(energy, None, start)
    couplings = flow.couplings(("s",))
    assert couplings is not None
    groups = getattr(couplings, order)
    sequence = torch.cat(groups) if order == "colours" else torch.arange(16)
    uniform = torch.rand(16, 9, dtype=F64, generator=torch.Generator().manual_seed(1))
    first = Sweep(flow, start, Bath(temperature, Tape(given=[uniform[torch.cat(groups)]])))
    first.groups("s", packing_of(couplings, order))
    second = Sweep(flow, start, Bath(temperature, Tape(given=[uniform[sequence]])))
    second.sequence(["s"], couplings, sequence, repeats=False)
    third = Sweep(flow, start, Bath(temperature, Tape(given=[uniform[sequence]])))
    third.energies(["s"], sequence)
    fourth = Sweep(flow, start, Bath(temperature, Tape(given=[uniform])))
    fourth.one_by_one("s", couplings, sequence)
    for sweep in (second, third, fourth):
        assert torch.equal(first.state["s"], sweep.state["s"])
        assert torch.equal(first.changed, sweep.changed)
        assert torch.allclose(first.released, sweep.released, atol=1e-12)
    assert first.changed.min() > 0


def test_a_long_sequence_is_cut_into_panels_that_see_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = dense(en.Spin(7), own=True)
    start = {"s": noise(50, 7).sign()}
    flow = en.ConditionalFlow(energy, None, start)
    couplings = flow.couplings(("s",))
    assert couplings is not None
    order = torch.tensor([3, 3, 0, 6, 3, 1, 0, 5, 5, 2, 3, 1])
    uniform = torch.rand(12, 50, dtype=F64, generator=torch.Generator().manual_seed(1))
    found = []
    for panel in (1, 2, 5, 48):
        monkeypatch.setattr("energynet.samplers.sweep._PANEL", panel)
        sweep = Sweep(flow, start, Bath(0.8, Tape(given=[uniform])))
        sweep.sequence(["s"], couplings, order, repeats=True)
        found.append(sweep)
    monkeypatch.undo()
    reference = Sweep(flow, start, Bath(0.8, Tape(given=[uniform])))
    reference.energies(["s"], order)
    for sweep in found:
        assert torch.equal(sweep.state["s"], reference.state["s"])
        assert torch.equal(sweep.changed, reference.changed)
        assert torch.allclose(sweep.released, reference.released, atol=1e-12)


def quartic(e: Any, v: Tensor, h: Tensor) -> Tensor:
    return (h.square() * h.square() - h).sum(1) * (1 + v.sum(1))


def stretched(e: Any, v: Tensor, h: Tensor) -> Tensor:
    """Quadratic in h, with couplings that depend on v."""
    return 0.5 * (1 + v.sum(1)) * (h.square().sum(1) + (h[:, 0] * h[:, 1]))


@pytest.mark.parametrize(
    "solver", [en.Gibbs(), en.Glauber(), en.Synchronous()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize(
    ("energy", "why"),
    [
        (
            restricted(en.Bit(2), en.Real(3)),
            r"'h'.*curvature.*not positive, but 0; add a Leak.*clamp it.*Langevin",
        ),
        (
            Functional(quartic, v=en.Bit(2), h=en.Real(3)),
            r"does not show.*quadratic in 'h'.*Real\(3\).*clamp it",
        ),
        (
            Functional(stretched, v=en.Bit(2), h=en.Real(3)),
            r"couplings of its units that depend on param.*clamp",
        ),
        (
            restricted(en.Bit(2), en.Real(3, link=en.Tanh())),
            r"'h'.*curvature.*not positive, but 0; add a Leak",
        ),
    ],
    ids=["flat", "quartic", "stretched", "link"],
)
def test_continuous_variables_are_refused(solver: en.Solver, energy: en.Energy, why: str) -> None:
    with pytest.raises(en.SettlingError, match=why):
        en.settle(energy, {"v": torch.ones(2, 2, dtype=F64)}, solver=solver)
    with pytest.raises(en.SettlingError, match=why):  # the default, too
        en.settle(energy, {"v": torch.ones(2, 2, dtype=F64)})
    en.settle(energy, solver=solver, clamp={"h": noise(2, 3)}, max_steps=1)


def test_an_ode_refuses_discrete_variables_and_says_why() -> None:
    with pytest.raises(
        en.SettlingError, match=r"cannot move 's', which is Bit\(3\).*no direction.*Gibbs\(\) or Glauber"
    ):
        en.settle(dense(en.Bit(3)), solver=en.Euler(0.1))
    with pytest.raises(en.SettlingError, match=r"cannot move 'v', which is OneHot\(2\)"):
        en.settle(restricted(en.OneHot(2), en.Real(3)), solver=en.Euler(0.1))


def test_jumps_have_no_derivative() -> None:
    energy = restricted(en.Bit(2), en.Bit(1))
    rule = en.ImplicitDifferentiation(energy, en.SquaredError("h"))
    with pytest.raises(en.SettlingError, match="no derivative"):
        rule(v=torch.ones(1, 2, dtype=F64), target=torch.ones(1, 1, dtype=F64))
    with pytest.raises(en.SettlingError, match="no derivative"):
        en.ConditionalFlow(energy, differentiable=True)


def test_a_sampler_of_units_needs_their_flow() -> None:
    flow = en.GradientFlow(dense(en.Real(2)))
    with pytest.raises(en.SettlingError, match=r"Gibbs draws one unit.*ConditionalFlow.*GradientFlow"):
        en.Gibbs().init(flow, flow.start)


def test_what_is_clamped_drives_each_sample_and_nothing_else_one_column_for_all() -> None:
    s, v = en.Spin(4, 4), en.Bit(3)
    clamped = torus(4, 4) + en.terms.Bilinear("v", "s", v=v, s=s).double()
    state = {"s": noise(5, 4, 4).sign(), "v": (noise(5, 3, seed=1) > 0).double()}
    flow = en.ConditionalFlow(clamped, {"v": state["v"]}, {"s": state["s"]})
    down = {"s": -torch.ones_like(state["s"]), "v": state["v"]}
    expected = -flips(clamped, down, ["s"])["s"].flatten(1).T
    drive = flow.drive(("s",), flow.start)
    assert torch.allclose(drive, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(drive[:, :1].expand_as(drive), drive)
    index = torch.tensor([3, 0])
    taken = flow.take(index)
    assert isinstance(taken, en.ConditionalFlow)
    assert torch.equal(taken.drive(("s",), taken.start), drive[:, index])
    free = en.ConditionalFlow(torus(4, 4), None, {"s": state["s"]})
    column = free.drive(("s",), free.start)
    assert column.shape == (16, 1)
    expected = -flips(torus(4, 4), {"s": down["s"]}, ["s"])["s"].flatten(1).T
    assert torch.allclose(column.expand_as(expected), expected, rtol=0, atol=1e-12)
    none = en.ConditionalFlow(torus(4, 4), None, {"s": state["s"][:0]})
    assert none.drive(("s",), none.start).shape == (16, 0)
    fewer = free.take(index)
    assert isinstance(fewer, en.ConditionalFlow)
    assert torch.equal(fewer.drive(("s",), fewer.start), column)
