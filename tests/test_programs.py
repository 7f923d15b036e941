"""Traces are kept while they are right, and only then."""

from __future__ import annotations

import torch

import energynet as en
from energynet.terms import Field, Leak


def test_sums_that_differ_only_in_nesting_settle_alike() -> None:
    leak, first, second = Leak(s=en.Real(3)), Field(s=en.Real(3)), Field(s=en.Real(3))
    with torch.no_grad():
        first.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        second.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    expected = (first.bias + second.bias).detach().expand(2, 3)
    start = {"s": torch.zeros(2, 3)}
    for energy in ((leak + first) + second, leak + (first + second), 1.0 * (leak + first) + second):
        assert torch.allclose(en.settle(energy, start).state["s"], expected)
