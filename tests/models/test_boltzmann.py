"""Boltzmann machines on any graph against their formula, enumerated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.machines import BIT, F64, SPIN, randomised, states

GRAPHS = {
    "full": None,
    "restricted": torch.tensor([[i < 3 <= j or j < 3 <= i for j in range(5)] for i in range(5)]),
    "semi-restricted": torch.tensor([[i < 3 or j < 3 for j in range(5)] for i in range(5)]),
    "chain": torch.tensor([[abs(i - j) == 1 for j in range(5)] for i in range(5)]),
    "apart": torch.tensor([[i // 3 == j // 3 for j in range(5)] for i in range(5)]),
}


def formula(machine: en.models.BoltzmannMachine, s: Tensor) -> Tensor:
    raw = machine.weight.detach()
    weight = 0.5 * (raw + raw.T)
    weight.fill_diagonal_(0.0)
    if machine.coupling.mask is not None:
        weight = weight * machine.coupling.mask
    bias = torch.cat([field.bias.detach() for field in machine.fields.values()])  # type: ignore[misc]
    return torch.stack([-0.5 * one @ weight @ one - bias @ one for one in s])


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_energy_free_energy_likelihood(graph: str, spins: bool) -> None:
    machine = en.models.BoltzmannMachine(3, 2, mask=GRAPHS[graph], spins=spins)
    randomised(machine)
    values = SPIN if spins else BIT
    every = states(5, values)
    energies = formula(machine, every)
    state = {"v": every[:, :3], "h": every[:, 3:]}
    assert torch.allclose(machine(state), energies, atol=1e-12)
    force = machine.condition().force(state, ["v", "h"])
    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
    slopes = torch.autograd.grad(machine.energy(**leaves).sum(), list(leaves.values()))
    for name, slope in zip(leaves, slopes, strict=True):
        assert torch.allclose(force[name], -slope, atol=1e-12)
    marginal = energies.reshape(8, 4).neg().logsumexp(1)
    v = states(3, values)
    assert torch.allclose(machine.free_energy(v), -marginal, atol=1e-12)
    total = energies.neg().logsumexp(0)
    assert torch.allclose(machine.log_likelihood(v), marginal - total, atol=1e-12)
    law = marginal.softmax(0).reshape(2, 2, 2)
    expected = sum((law / law.sum(unit, keepdim=True)).log() for unit in range(3))
    assert isinstance(expected, Tensor)
    assert torch.allclose(machine.pseudo_likelihood(v), expected.flatten(), atol=1e-12)


@pytest.mark.parametrize("graph", ["full", "restricted"])
def test_the_gradient_of_the_free_energy_is_right_whether_or_not_it_is_in_closed_form(graph: str) -> None:
    machine = en.models.BoltzmannMachine(3, 2, mask=GRAPHS[graph])
    randomised(machine)
    v = states(3)[[1, 6]]
    found = torch.autograd.grad(machine.free_energy(v).sum(), list(machine.parameters()))
    pairs = {"v": v.repeat_interleave(4, 0), "h": states(2).repeat(2, 1)}
    value = -machine.energy(**pairs).reshape(2, 4).neg().logsumexp(1).sum()
    for one, other in zip(found, torch.autograd.grad(value, list(machine.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_without_hidden_units() -> None:
    machine = en.models.BoltzmannMachine(4)
    randomised(machine)
    v = states(4)
    assert list(machine.variables) == ["v"]
    assert torch.allclose(machine.free_energy(v), formula(machine, v), atol=1e-12)
    assert float(machine.log_likelihood(v).exp().sum().detach()) == pytest.approx(1.0)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_grid_couples_neighbours_and_has_two_colours(periodic: bool) -> None:
    machine = en.models.BoltzmannMachine.grid(4, 6, periodic=periodic, spins=True).double()
    mask = machine.coupling.mask
    assert mask is not None
    for i in range(24):
        for j in range(24):
            rows, columns = abs(i // 6 - j // 6), abs(i % 6 - j % 6)
            if periodic:
                rows, columns = min(rows, 4 - rows), min(columns, 6 - columns)
            assert bool(mask[i, j]) == (rows + columns == 1)
    with torch.no_grad():
        machine.weight.fill_(0.4)
    flow = en.ConditionalFlow(machine, state={"v": torch.ones(2, 24, dtype=F64)})
    couplings = flow.couplings(("v",))
    assert couplings is not None
    assert len(couplings.colours) == 2


def test_a_small_grid_is_the_ising_model() -> None:
    """The two-spin ring with free ends: Z = 4 cosh(J) on each of its four edges around a 2x2 square."""
    machine = en.models.BoltzmannMachine.grid(2, 2, spins=True).double()
    with torch.no_grad():
        machine.weight.fill_(0.4)
    c, s = torch.tensor(0.4, dtype=F64).cosh(), torch.tensor(0.4, dtype=F64).sinh()
    expected = (16 * (c**4 + s**4)).log()  # high-temperature expansion of a ring of four
    assert float(machine.log_partition().log_partition.detach()) == pytest.approx(float(expected), rel=1e-12)


def test_annealing_meets_enumeration_where_hidden_units_are_coupled() -> None:
    machine = en.models.BoltzmannMachine(4, 3)
    randomised(machine, 0.7)
    found = machine.log_partition("ais", steps=100, chains=2000, generator=torch.Generator().manual_seed(0))
    exact = machine.log_partition("exact").log_partition
    assert abs(float((found.log_partition - exact).detach())) < 6 * float(found.standard_error)


def test_a_mask_of_other_shape_is_refused_and_too_many_hidden_units_are_told() -> None:
    with pytest.raises(ValueError, match=r"\(5, 5\)"):
        en.models.BoltzmannMachine(3, 2, mask=torch.ones(3, 3, dtype=torch.bool))
    machine = en.models.BoltzmannMachine(2, 21)
    with pytest.raises(en.SettlingError, match="21 free units"):
        machine.free_energy(torch.zeros(1, 2))
