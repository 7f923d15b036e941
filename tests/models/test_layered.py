"""The layered Hopfield network: its fixed point and its energy, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.models import LayeredHopfield
from helpers.functional import autograd_force
from helpers.networks import layered

F64 = torch.float64
ACTIVATIONS = {
    "hardsigmoid": lambda u: u.clamp(0, 1),
    "sigmoid": lambda u: 1 / (1 + torch.exp(-u)),
    "tanh": torch.tanh,
}


def field(model: LayeredHopfield, state: dict[str, Tensor], name: str) -> Tensor:
    """W s_below + W' s_above + b, over every connection of a layer."""
    total = model.get_parameter(f"fields.{name}.bias").expand_as(state[name])
    for pair, coupling in model.couplings.items():
        source, target = pair.split("_")
        weight = coupling.get_parameter("weight")
        if target == name:
            total = total + state[source] @ weight.T
        elif source == name:
            total = total + state[target] @ weight
    return total.detach()


@pytest.mark.parametrize("skips", [(), (("x", "h2"), ("h1", "y"), ("x", "y"))], ids=["chain", "skips"])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 3), (4, 5, 6, 3), (4, 3, 3, 3, 3, 2)], ids=len)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_layer_is_the_activation_of_its_field(activation: str, sizes: Any, skips: Any) -> None:
    names = ["x", *(f"h{i}" for i in range(1, len(sizes) - 1)), "y"]
    far = [p for p in skips if p[1] in names and p[0] in names and names.index(p[1]) - names.index(p[0]) > 1]
    model = layered(activation, *sizes, gain=0.8, skips=far)
    assert list(model.variables) == names
    x = torch.randn(6, sizes[0], dtype=F64)
    for solver in (en.BlockDescent(), en.Euler(0.5)):
        state = en.settle(model, clamp={"x": x}, solver=solver, throw=True).state
        for name in names[1:]:
            expected = ACTIVATIONS[activation](field(model, state, name))
            assert torch.allclose(state[name], expected, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_energy_is_the_formula(activation: str) -> None:
    """With the leak integrated numerically: the integral of the inverse activation from rest to s."""
    model = layered(activation, 4, 5, 3)
    generator = torch.Generator().manual_seed(0)
    state = {
        n: v.project(torch.rand(2, *v.shape, dtype=F64, generator=generator) * 0.9 + 0.05)
        for n, v in model.variables.items()
    }
    inverse = {"hardsigmoid": lambda s: s, "sigmoid": torch.logit, "tanh": torch.atanh}[activation]
    rest = 0.5 if activation == "sigmoid" else 0.0
    # integral of logit from 1/2: a log a + (1 - a) log(1 - a) + log 2, whose constant the model leaves out
    constant = -torch.log(torch.tensor(2.0, dtype=F64)) if activation == "sigmoid" else 0.0
    expected = torch.zeros(2, dtype=F64)
    nodes = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    for name in ("h1", "y"):
        s = state[name]
        grid = rest + (s - rest).unsqueeze(-1) * nodes
        leak = (inverse(grid).mean(-1) * (s - rest) + constant).sum(1)
        expected = expected + leak - (s * model.get_parameter(f"fields.{name}.bias")).sum(1)
    for pair, coupling in model.couplings.items():
        source, target = pair.split("_")
        weight = coupling.get_parameter("weight")
        expected = expected - torch.einsum("bi,ij,bj->b", state[target], weight, state[source])
    assert torch.allclose(model(state), expected, atol=1e-6)
    assert torch.allclose(sum(model.terms(state).values()), model(state))  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_force_is_zero_inside_and_outward_at_the_ends(activation: str) -> None:
    model = layered(activation, 4, 6, 3, gain=2.0)
    state = en.settle(model, clamp={"x": torch.randn(20, 4, dtype=F64)}, throw=True).state
    for name, force in autograd_force(model, state, ["h1", "y"]).items():
        s, variable = state[name], model.variables[name]
        inside = (s > variable.low + 1e-9) & (s < variable.high - 1e-9)
        assert inside.any()
        assert float(force[inside].abs().max()) < 1e-6
        assert (force[s == variable.low] <= 0).all()
        assert (force[s == variable.high] >= 0).all()


def test_names_of_parameters() -> None:
    model = LayeredHopfield([4, 5, 3], skips=[("x", "y")])
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "couplings.x_h1.weight": (5, 4),
        "couplings.h1_y.weight": (3, 5),
        "couplings.x_y.weight": (3, 4),
        "fields.h1.bias": (5,),
        "fields.y.bias": (3,),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([4],), "at least an input and an output"),
        (([],), "at least an input and an output"),
        (([4, 0, 3],), "positive integers"),
        (([4, 2.5, 3],), "positive integers"),
        (([4, 5, 3], "relu"), "hardsigmoid, sigmoid, tanh, got 'relu'"),
        (([4, 5, 3], "tanh", [("x", "h1")]), "over at least one layer"),
        (([4, 5, 3], "tanh", [("y", "x")]), "upwards"),
        (([4, 5, 3], "tanh", [("x", "h7")]), "'h7'"),
        (([4, 5, 3], "tanh", [("x", "y"), ("x", "y")]), "twice"),
    ],
    ids=["one", "none", "zero", "fraction", "activation", "adjacent", "down", "unknown", "twice"],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LayeredHopfield(*arguments[:2], **({"skips": arguments[2]} if len(arguments) > 2 else {}))
