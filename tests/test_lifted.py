"""The flow of samplers against autograd of the energy of potentials and log-determinants of Jacobians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from helpers.functional import Functional

F64 = torch.float64
LINKS = {"a": en.Sigmoid(), "b": en.Tanh()}


def function(e: Any, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    rest = (a.flatten(1).sum(1) * b.sum(1)).tanh() + (b[:, :1] * c).square().sum(1)
    return rest + (a.square().flatten(1).sum(1) - c.sum(1)).pow(2)


def energy() -> en.Energy:
    return Functional(
        function,
        a=en.Unit(2, 2, link=LINKS["a"], tau=0.5),
        b=en.Interval(3, low=-1, high=1, link=LINKS["b"]),
        c=en.Interval(2, low=-0.5, high=1.0, tau=2.0),
    )


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    uniform = {n: torch.rand(3, *s, dtype=F64, generator=generator) for n, s in (("a", (2, 2)), ("b", (3,)))}
    return {
        "a": 0.1 + 0.8 * uniform["a"],
        "b": 1.6 * uniform["b"] - 0.8,
        "c": torch.full((3, 2), 0.3, dtype=F64),
    }


MASK = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])


@pytest.fixture(params=["free", "held"], scope="module")
def flow(request: pytest.FixtureRequest) -> en.LiftedFlow:
    clamp = {"b": en.Partial(start()["b"], MASK)} if request.param == "held" else {}
    return en.LiftedFlow(energy(), clamp, start())


def free(flow: en.LiftedFlow, name: str, value: Tensor) -> Tensor:
    return value.masked_fill(flow.held[name], 0.0) if name in flow.held else value


def lifted(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: LINKS[n].value(v) if n in LINKS else v for n, v in leaves.items()}


def test_the_velocity_is_the_gradient_by_the_potential(flow: en.LiftedFlow) -> None:
    leaves = {n: v.clone().requires_grad_() for n, v in flow.start.items()}
    slopes = torch.autograd.grad(function(None, **lifted(leaves)).sum(), list(leaves.values()))
    velocity = flow.velocity(flow.start)
    for (name, variable), slope in zip(flow.variables.items(), slopes, strict=True):
        assert torch.allclose(velocity[name] * variable.tau, free(flow, name, -slope), atol=1e-12)
        assert (flow.metric(flow.start)[name] == variable.tau).all()


def log_determinant(flow: en.LiftedFlow, point: dict[str, Tensor], sample: int) -> Tensor:
    """Of the map from the free potentials of one sample to values."""
    total = torch.zeros((), dtype=F64)
    for name, value in point.items():
        link, one = LINKS.get(name), value[sample].flatten()
        if link is None:
            continue
        jacobian = torch.autograd.functional.jacobian(link.value, one, create_graph=True)
        keep = ~flow.held[name][sample].flatten() if name in flow.held else torch.ones_like(one).bool()
        total = total + torch.linalg.slogdet(jacobian[keep][:, keep]).logabsdet
    return total


def test_the_volume_is_the_log_determinant_and_its_force_the_gradient(flow: en.LiftedFlow) -> None:
    leaves = {n: v.clone().requires_grad_() for n, v in flow.start.items()}
    expected = torch.stack([log_determinant(flow, leaves, i) for i in range(3)])
    volume = flow.volume(flow.start)
    assert volume is not None
    assert torch.allclose(volume, expected.detach(), atol=1e-10)
    slopes = torch.autograd.grad(expected.sum(), [leaves["a"], leaves["b"]])
    force = flow.volume_force(flow.start)
    assert set(force) == {"a", "b"}
    for name, slope in zip(("a", "b"), slopes, strict=True):
        assert torch.allclose(force[name], slope, atol=1e-10)


def test_without_links_there_is_no_volume() -> None:
    flow = en.LiftedFlow(en.terms.Leak(s=en.Unit(2)), state={"s": torch.full((1, 2), 0.5)})
    assert flow.volume(flow.start) is None
    assert flow.volume_force(flow.start) == {}


def test_a_soft_threshold_has_none_either_and_says_so() -> None:
    variable = en.Real(2, link=en.SoftThreshold(0.1))
    flow = en.LiftedFlow(en.terms.Sparsity(0.1, a=variable), state={"a": torch.ones(1, 2)})
    with pytest.raises(en.SettlingError, match="no density"):
        flow.volume(flow.start)


def test_walls_reflect_and_potentials_do_not_meet_them(flow: en.LiftedFlow) -> None:
    point = {**flow.start, "c": torch.tensor([[1.2, -0.6], [0.3, 2.6], [-2.2, 5.5]], dtype=F64)}
    moved, signs = flow.reflect(point)
    assert torch.equal(moved["a"], point["a"])
    assert torch.equal(moved["b"], point["b"])
    # between -0.5 and 1: 2.6 -> -0.6 -> -0.4; -2.2 -> 1.2 -> 0.8; 5.5 is 6 = 2 * 3 from the lower end
    expected = torch.tensor([[0.8, -0.4], [0.3, -0.4], [0.8, -0.5]], dtype=F64)
    assert torch.allclose(moved["c"], expected, atol=1e-12)
    assert set(signs) == {"c"}
    assert signs["c"][:2].tolist() == [[-1, -1], [1, 1]]
    assert signs["c"][2, 0] == 1
