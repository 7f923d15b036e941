"""The lattice against a list of its bonds, and its samples against the transfer matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import energynet as en
from energynet.terms import Field, Lattice
from helpers.functional import autograd_force, traced_force

F64 = torch.float64
SHAPES = [(5,), (2,), (3, 4), (2, 3), (1, 4), (2, 3, 3), (1,)]


def bonds(shape: tuple[int, ...], *, periodic: bool) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = []
    for place in itertools.product(*map(range, shape)):
        for axis, length in enumerate(shape):
            then = place[axis] + 1
            if length > 1 and (periodic or then < length):
                found.append((place, (*place[:axis], then % length, *place[axis + 1 :])))
    return found


def lattice(coupling: float, *, periodic: bool, variable: en.Variable) -> Lattice:
    term = Lattice(periodic=periodic, s=variable).double()
    with torch.no_grad():
        term.coupling.fill_(coupling)
    return term


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_energy_is_a_sum_over_bonds(shape: tuple[int, ...], periodic: bool) -> None:
    term = lattice(0.7, periodic=periodic, variable=en.Real(*shape))
    s = torch.randn(4, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    pairs = bonds(shape, periodic=periodic)
    expected = -0.7 * sum((s[:, *a] * s[:, *b] for a, b in pairs), torch.zeros(4, dtype=F64))
    assert torch.allclose(term({"s": s}), expected, rtol=0, atol=1e-13)
    pull = torch.zeros_like(s)
    for a, b in pairs:
        pull[:, *a] += 0.7 * s[:, *b]
        pull[:, *b] += 0.7 * s[:, *a]
    for force in (autograd_force(term, {"s": s}, ["s"]), traced_force(term, {"s": s}, ["s"])):
        assert torch.allclose(force["s"], pull, rtol=0, atol=1e-13)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_grid_is_that_of_the_boltzmann_machine(periodic: bool) -> None:
    machine = en.models.BoltzmannMachine.grid(3, 4, periodic=periodic, spins=True).double()
    mask = machine.coupling.mask
    assert mask is not None
    with torch.no_grad():
        machine.weight.copy_(0.3 * mask)
    term = lattice(0.3, periodic=periodic, variable=en.Spin(3, 4))
    s = en.Spin(3, 4).initial(
        5, dtype=F64, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(term({"s": s}), machine({"v": s.flatten(1)}))


def test_new_lattices_have_no_coupling_and_learn_it() -> None:
    term = Lattice(s=en.Spin(4, 4))
    assert term.coupling.shape == () and term.coupling == 0
    s = torch.ones(2, 4, 4)
    term({"s": s}).sum().backward()
    assert term.coupling.grad == -2 * 32


def transfer(rows: int, columns: int, coupling: float, field: float) -> float:
    """log Z of spins on a torus."""
    line = np.array(list(itertools.product([-1, 1], repeat=columns)))
    within = coupling * (line * np.roll(line, 1, 1)).sum(1) + field * line.sum(1)
    matrix = np.exp(coupling * line @ line.T + 0.5 * (within[:, None] + within[None]))
    return float(np.log(np.linalg.matrix_power(matrix, rows).trace()))


@pytest.mark.parametrize("scan", ["block", "systematic"])
@pytest.mark.parametrize(("coupling", "field"), [(0.3, 0.0), (-0.3, 0.2), (0.15, -0.4)])
def test_samples_have_the_moments_of_the_transfer_matrix(coupling: float, field: float, scan: str) -> None:
    """Mean bond and mean spin, each within five standard errors over independent chains."""
    term = lattice(coupling, periodic=True, variable=en.Spin(8, 4))
    bias = Field(s=en.Spin(8, 4)).double()
    with torch.no_grad():
        bias.bias.fill_(field)
    chains = 4000
    solution = en.settle(
        term + bias, {"s": torch.ones(chains, 8, 4, dtype=F64)}, solver=en.Gibbs(scan=scan), max_steps=60,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    s = solution.state["s"]
    step = 1e-4
    for found, (more, less) in (
        (
            term.bonds(s),
            (transfer(8, 4, coupling + step, field), transfer(8, 4, coupling - step, field)),
        ),
        (s.sum((1, 2)), (transfer(8, 4, coupling, field + step), transfer(8, 4, coupling, field - step))),
    ):
        expected = (more - less) / (2 * step)
        error = float(found.std()) / chains**0.5
        assert abs(float(found.mean()) - expected) < 5 * error


def test_what_is_no_lattice_is_refused() -> None:
    with pytest.raises(TypeError, match="expected one variable"):
        Lattice()
    with pytest.raises(TypeError, match="expected one variable"):
        Lattice(a=en.Spin(2), b=en.Spin(2))
    with pytest.raises(TypeError, match=r"OneHot.*last dimension.*categories"):
        Lattice(s=en.OneHot(4, 3))
    with pytest.raises(ValueError, match=r"one dimension for each.*Spin\(64, 64\)"):
        Lattice(s=en.Spin())
