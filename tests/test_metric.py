"""What a flow tells solvers of its geometry: the metric, what is left of a velocity, steps at kinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.terms import Bilinear, Leak, Sparsity
from helpers.functional import Functional
from helpers.lasso import STRENGTH, by_coordinate_descent, draw, lasso, with_dictionary

F64 = torch.float64


def network(link: bool) -> tuple[en.Energy, dict[str, Tensor]]:
    a = en.Unit(3, tau=0.5, link=en.Sigmoid()) if link else en.Unit(3, tau=0.5)
    b = en.Interval(2, 2, low=-1, high=1, tau=3.0, link=en.Tanh()) if link else en.Real(2, 2, tau=3.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        coupled = Bilinear("a", "b", a=a, b=b)
    bent = Functional(lambda e, a, b: (a.square().sum(1) * b.flatten(1).sum(1)).tanh(), a=a, b=b)
    energy = (2.0 * coupled + bent + Leak(a=a) + Leak(b=b)).double()
    random = torch.rand(4, 7, dtype=F64, generator=torch.Generator().manual_seed(1))
    return energy, {"a": 0.1 + 0.8 * random[:, :3], "b": 1.6 * random[:, 3:].view(4, 2, 2) - 0.8}


@pytest.fixture(params=["gradient", "mirror", "held"], scope="module")
def flow(request: pytest.FixtureRequest) -> en.flow.EnergyFlow:
    energy, start = network(request.param != "gradient")
    mask = torch.tensor([True, False, False])
    clamp = {"a": en.Partial(start["a"], mask)} if request.param == "held" else {}
    kind = en.GradientFlow if request.param == "gradient" else en.MirrorFlow
    return kind(energy, clamp, start)


@torch.no_grad()
def weighted(flow: en.flow.EnergyFlow, point: Any, first: Any, second: Any) -> Tensor:
    weight = flow.metric(point)
    return torch.stack([(weight[n] * first[n] * second[n]).flatten(1).sum(1) for n in point]).sum(0)


@torch.no_grad()
def along(flow: en.flow.EnergyFlow, function: Any, direction: Any, step: float = 1e-5) -> Any:
    """The derivative of a function of the point along a direction, by central differences."""
    up, down = (
        function({n: v + sign * step * direction[n] for n, v in flow.start.items()}) for sign in (1, -1)
    )
    if isinstance(up, Tensor):
        return (up - down) / (2 * step)
    return {n: (up[n] - down[n]) / (2 * step) for n in up}


def test_the_energy_falls_by_the_square_of_the_velocity_in_the_metric(flow: en.flow.EnergyFlow) -> None:
    velocity = flow.velocity(flow.start)
    fall = along(flow, flow.energy, velocity)
    assert torch.allclose(fall, -weighted(flow, flow.start, velocity, velocity), atol=1e-8)
    assert float(fall.max()) < -1e-3


def test_the_change_of_the_energy_is_minus_the_product_with_the_velocity(flow: en.flow.EnergyFlow) -> None:
    generator = torch.Generator().manual_seed(2)
    direction = {n: torch.randn(v.shape, dtype=F64, generator=generator) for n, v in flow.start.items()}
    for name, mask in flow.held.items():
        direction[name] = direction[name].masked_fill(mask, 0.0)
    change = along(flow, flow.energy, direction)
    velocity = flow.velocity(flow.start)
    assert torch.allclose(change, -weighted(flow, flow.start, velocity, direction), atol=1e-8)


def test_the_jacobian_of_the_velocity_is_self_adjoint_in_the_metric(flow: en.flow.EnergyFlow) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (
        {n: torch.randn(v.shape, dtype=F64, generator=generator) for n, v in flow.start.items()}
        for _ in range(2)
    )
    for name, mask in flow.held.items():
        first[name], second[name] = (d[name].masked_fill(mask, 0.0) for d in (first, second))
    left = weighted(flow, flow.start, along(flow, flow.velocity, first), second)
    right = weighted(flow, flow.start, first, along(flow, flow.velocity, second))
    assert torch.allclose(left, right, atol=1e-7)
    assert float(left.abs().min()) > 1e-3


def test_what_pushes_against_an_end_does_not_count() -> None:
    energy = Functional(lambda e, f, s: -(f * s).sum(1), f=en.Real(4), s=en.Interval(4, low=-1, high=2))
    point = {"s": torch.tensor([[2.0, 2.0, 1.5, -1.0]])}
    flow = en.GradientFlow(energy, {"f": torch.tensor([[5.0, -0.5, 4.0, -3.0]])}, point)
    inward = flow.inward(flow.start, flow.velocity(flow.start))
    assert inward["s"].tolist() == [[0.0, -0.5, 0.5, 0.0]]
    assert flow.residual(flow.start, flow.velocity(flow.start)).tolist() == [0.5]


@pytest.mark.parametrize("tau", [1.0, 4.0])
@torch.no_grad()
def test_the_residual_vanishes_at_a_code_where_the_force_does_not(tau: float) -> None:
    """The code is scikit-learn's. A unit at zero has a force, but zero is a subgradient."""
    weight, x = draw(3, 8, 5)
    x /= 4
    energy = with_dictionary(lasso(8, en.Real(5, tau=tau)), weight)
    code = by_coordinate_descent(weight, x)
    assert (code == 0).any()
    flow = en.GradientFlow(energy, {"x": torch.from_numpy(x)}, {"a": torch.from_numpy(code)})
    velocity = flow.velocity(flow.start)
    assert float(velocity["a"].abs().max()) > 0.01 / tau
    assert float(flow.residual(flow.start, velocity).max()) < 1e-9
    zero = {"a": torch.zeros(3, 5, dtype=F64)}
    found = flow.residual(zero, flow.velocity(zero)).detach().numpy()
    excess = (np.abs(x @ weight) - STRENGTH).max(1).clip(min=0)  # of the correlations over the threshold
    assert found == pytest.approx(excess / tau, abs=1e-12)


def test_a_forward_backward_step_shrinks_by_its_own_length() -> None:
    """In numpy, with a time constant, a factor, held entries, a wall and a step for each sample."""
    s = en.Interval(3, low=-0.5, high=10, tau=2.0)
    energy = 3.0 * Sparsity(0.2, s=s) + Leak(s=s)
    mask = torch.tensor([False, False, True])
    start = torch.tensor([[1.0, -0.4, 0.7], [0.05, 3.0, 0.7]], dtype=F64)
    flow = en.GradientFlow(energy, {"s": en.Partial(start, mask)}, {"s": start})
    push = torch.tensor([[-1.0, -2.0, 5.0], [1.0, 0.5, 5.0]], dtype=F64)
    moved = flow.forward_backward({"s": start}, {"s": push}, torch.tensor([0.5, 0.1], dtype=F64))["s"]
    dt = np.array([[0.5], [0.1]])
    ahead = start.numpy() + dt * push.numpy()
    expected = (np.sign(ahead) * (np.abs(ahead) - dt * 3 * 0.2 / 2).clip(min=0)).clip(-0.5, 10)
    expected[:, 2] = 0.7
    assert moved.numpy() == pytest.approx(expected, abs=1e-15)
    assert expected[0, 1] == -0.5


def test_two_terms_or_a_negative_one_have_no_common_map() -> None:
    s = en.Real(2)
    for energy in (Sparsity(0.1, s=s) + Sparsity(0.2, s=s), -1.0 * Sparsity(0.1, s=s)):
        assert en.GradientFlow(energy, state={"s": torch.ones(1, 2)}).proximal == {}
