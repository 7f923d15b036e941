"""Couplings as the trace finds them, row by row and anew, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.couplings import Dense, Sparse, probed
from helpers.discrete import F64, noise
from helpers.functional import Functional


def star(e: Any, s: Tensor) -> Tensor:
    return -(s[:, -1:] * e.W * s[:, :-1]).sum(1)


def test_one_unit_that_is_coupled_to_all_others_makes_the_matrix_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows are found a few at a time: the first ones are listed, until the last one is too long."""
    monkeypatch.setattr("energynet.couplings._PROBES", 5 * 32)
    energy = Functional(star, {"W": noise(31)}, s=en.Bit(32))
    found = en.ConditionalFlow(energy).couplings(("s",))
    assert isinstance(found, Dense)
    expected = torch.zeros(32, 32, dtype=F64)
    expected[-1, :-1] = expected[:-1, -1] = energy.W.detach()
    assert torch.equal(found.matrix, expected)


def uneven(e: Any, s: Tensor) -> Tensor:
    """A chain with a coupling for each bond, a curvature for each unit and one coupling that is far away."""
    return -(e.J * s[:, 1:] * s[:, :-1]).sum(1) - e.far * s[:, 3] * s[:, 90] + (e.own * s * s).sum(1)


@pytest.mark.parametrize("variable", [en.Spin(150), en.Bit(150), en.Real(150)], ids=repr)
def test_other_strengths_of_the_same_couplings_take_few_products(
    variable: en.Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the formula; a coupling that was none is noticed, and then all are found anew."""
    tensors = {"J": noise(149), "far": torch.zeros((), dtype=F64), "own": 1 + noise(150, seed=1).abs()}
    energy = Functional(uneven, tensors, s=variable)
    calls = []
    monkeypatch.setattr(
        "energynet.quadratic.probed",
        lambda *args: calls.append(args) or probed(*args),  # type: ignore[func-returns-value]
    )
    flow = en.ConditionalFlow(energy, None, {"s": variable.project(noise(2, 150).sign())})
    width = flow.units["s"].width

    def check() -> Sparse:
        found = flow.couplings(("s",))
        assert isinstance(found, Sparse)
        expected = torch.zeros(150, 150, dtype=F64)
        place = torch.arange(149)
        expected[place, place + 1] = expected[place + 1, place] = energy.J.detach()
        expected[3, 90] += energy.far.detach()
        expected[90, 3] += energy.far.detach()
        everything = torch.arange(150)
        assert torch.allclose(found.among(everything), width**2 * expected, rtol=0, atol=1e-13)
        assert torch.allclose(found.own, -2 * energy.own.detach(), rtol=0, atol=1e-13)
        return found

    first = check()
    assert len(calls) == 1
    with torch.no_grad():
        energy.J.mul_(-0.3)
        energy.own.add_(0.1)
    assert check() is not first
    with torch.no_grad():
        energy.J[7] = 0.0  # gone, which needs no new pattern
    check()
    assert len(calls) == 1
    with torch.no_grad():
        energy.far.fill_(1e-9)
    check()
    assert len(calls) == 2
    with torch.no_grad():
        energy.far.fill_(2.0)
        energy.J[7] = 0.5
    check()
    assert len(calls) == 3
    with torch.no_grad():
        energy.J.add_(0.1)
    group = check().apart
    assert len(calls) == 3
    assert len(group.unique()) < 8
