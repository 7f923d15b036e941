"""Backprop, and the network that a layered energy lends it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import energynet as en


def test_gradient_is_that_of_the_mean_cost() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x, target = torch.randn(5, 4), torch.randn(5, 2)
    rule = en.Backprop(network, en.SquaredError("y"))
    loss = rule(x=x, target=target)
    loss.backward()
    expected = 0.5 * (network(x) - target).square().sum(1).mean()
    assert torch.isclose(loss, expected)
    for parameter, slope in zip(
        network.parameters(), torch.autograd.grad(expected, network.parameters()), strict=True
    ):
        assert torch.allclose(parameter.grad, slope)


def test_class_indices_with_cross_entropy() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    label = torch.tensor([0, 2])
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    loss = en.Backprop(network, en.CrossEntropy("y"))(x=x, target=label)
    assert torch.isclose(loss, nn.functional.cross_entropy(network(x), label))


def test_bad_arguments() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(TypeError, match="expected a cost such as"):
        en.Backprop(network, nn.MSELoss())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a torch.nn.Sequential"):
        en.Backprop(lambda x: x, en.SquaredError("y"))  # type: ignore[arg-type]
    rule = en.Backprop(network, en.SquaredError("y"))
    with pytest.raises(ValueError, match="'target': expected shape"):
        rule(x=torch.zeros(2, 4), target=torch.zeros(2, 2))


@pytest.mark.parametrize("activation", ["hardsigmoid", "sigmoid", "tanh"])
def test_network_is_the_energy_without_feedback(activation: str) -> None:
    torch.manual_seed(0)
    model = en.models.LayeredHopfield([5, 4, 3], activation)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    network = model.network()
    x = torch.randn(6, 5)
    (first, second), (b1, b2) = (
        [c.weight for c in model.couplings.values()],
        [f.bias for f in model.fields.values()],
    )
    f = {"hardsigmoid": lambda u: u.clamp(0, 1), "sigmoid": torch.sigmoid, "tanh": torch.tanh}[activation]
    assert torch.allclose(network(x), f(f(x @ first.T + b1) @ second.T + b2))
    with torch.no_grad():
        second.zero_()  # no feedback: now the energy settles where the network answers
        before = network(x)
        assert not torch.allclose(before, model.network()(x))  # a copy, not the same tensors
        assert torch.allclose(en.settle(model, clamp={"x": x}).state["y"], model.network()(x), atol=1e-5)


def test_no_network_with_skips() -> None:
    model = en.models.LayeredHopfield([5, 4, 3], skips=[("x", "y")])
    with pytest.raises(ValueError, match="no skip connections, but this network has x_h1, h1_y, x_y"):
        model.network()
