"""Networks of neurons with Lagrangians against integrating hidden neurons out, and convolutions by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import energynet as en

F64 = torch.float64


def memory(beta: float = 1.5) -> tuple[en.models.HierarchicalMemory, torch.Tensor]:
    patterns = 2 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    return en.models.ModernHopfield(patterns, beta).hierarchical(), patterns


def test_hidden_memory_neurons_integrated_out_are_a_modern_network() -> None:
    """min over h of E(s, h) is the modern energy, up to its constant; it is at the softmax."""
    model, patterns = memory()
    s = torch.randn(4, 12, generator=torch.Generator().manual_seed(1), dtype=F64)
    best = (1.5 * s @ patterns.t()).softmax(1)
    modern = en.models.ModernHopfield(patterns, beta=1.5)
    constant = torch.log(torch.tensor(5.0, dtype=F64)) / 1.5 + 0.5 * patterns.square().sum(1).max()
    assert torch.allclose(model({"s": s, "h": best}) + constant, modern({"s": s}), rtol=0, atol=1e-10)
    others = torch.rand(4, 5, generator=torch.Generator().manual_seed(2), dtype=F64)
    worse = model({"s": s, "h": others / others.sum(1, keepdim=True)})
    assert (worse > model({"s": s, "h": best})).all()


def test_recall_with_hidden_neurons_kept_ends_where_attention_does() -> None:
    model, patterns = memory()
    cues = patterns + 0.3 * torch.randn(5, 12, generator=torch.Generator().manual_seed(3), dtype=F64)
    solution = model.recall(s=cues, record="energy")
    assert (solution.status == en.Status.CONVERGED).all()
    assert solution.trajectory.diff(dim=0).max() <= 1e-10
    modern = en.models.ModernHopfield(patterns, beta=1.5).recall(cues)
    assert torch.allclose(solution.state["s"], modern.state["s"], rtol=0, atol=1e-7)
    assert torch.allclose(solution.state["h"].sum(1), torch.ones(5, dtype=F64), rtol=0, atol=1e-12)


def test_three_layers_with_a_convolution_rest_where_each_has_what_the_others_send() -> None:
    torch.manual_seed(0)
    layers = {
        "x": en.Interval(1, 6, 6, low=-1, high=1, link=en.Tanh()),
        "f": en.Unit(3, 4, 4, link=en.Sigmoid()),
        "m": en.Unit(7, link=en.Softmax(2.0)),
    }
    filters = nn.Conv2d(1, 3, 3, bias=False)
    model = en.models.HierarchicalMemory(layers, {("x", "f"): filters, ("f", "m"): None}).double()
    start = 0.9 * torch.rand(2, 1, 6, 6, dtype=F64)
    solution = model.recall(x=start, record="energy")
    assert (solution.status == en.Status.CONVERGED).all()
    assert solution.trajectory.diff(dim=0).max() <= 1e-10
    x, f, m = (solution.state[name] for name in "xfm")
    W = model.synapses["f_m"].weight.detach()
    back = nn.functional.conv_transpose2d(f, filters.weight.detach())
    assert torch.allclose(x, back.tanh(), rtol=0, atol=1e-7)
    sent = filters(x).detach() + (m @ W).reshape(f.shape)
    assert torch.allclose(f, sent.sigmoid(), rtol=0, atol=1e-7)
    assert torch.allclose(m, (2.0 * f.flatten(1) @ W.t()).softmax(1), rtol=0, atol=1e-7)


def test_recall_leaves_no_graph() -> None:
    model, patterns = memory()
    spins = en.models.DenseAssociativeMemory(patterns.sign(), power=2).hierarchical()
    for solution in (model.recall(s=patterns), spins.recall(s=patterns.sign())):
        assert not any(value.requires_grad for value in solution.state.values())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the layers are s"):
        en.models.HierarchicalMemory({"s": en.Real(3)}, {("s", "h"): None})
    with pytest.raises(TypeError, match="declarations of these two"):
        en.terms.Synapse("a", "a", nn.Identity(), a=en.Real(2))
    with pytest.raises(ValueError, match="beta must be"):
        en.Softmax(-1.0)
    _, patterns = memory()
    with pytest.raises(en.SettlingError, match="moves all units"):
        en.Softmax().slope(patterns)
