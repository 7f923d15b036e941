"""Products with the Hessian, smooth parts and joint evaluations, traced and eager, on either flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.forces import EagerForces, Forces
from energynet.terms import Leak, Sparsity
from helpers.functional import Functional

F64 = torch.float64


def bent(e: Any, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    coupled = ((s @ e.W).tanh() * t.flatten(1)).sum(1)
    return coupled + 0.25 * s.pow(4).sum(1) + (x * s).sum(1) + 0.5 * t.flatten(1).square().sum(1)


def model(kink: bool, link: bool) -> tuple[en.Energy, en.Energy]:
    """An energy, and its smooth part; s has a kink, t a link."""
    s = en.Real(3, tau=2.0)
    t = en.Unit(2, 2, link=en.Sigmoid()) if link else en.Real(2, 2)
    generator = torch.Generator().manual_seed(0)
    tensors = {"W": torch.randn(3, 4, dtype=F64, generator=generator)}
    smooth: en.Energy = Functional(bent, tensors, x=en.Real(3), s=s, t=t)
    if link:
        smooth = smooth + Leak(t=t)
    return (smooth + 0.5 * Sparsity(0.6, s=s) if kink else smooth), smooth


def values(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (3,), "s": (3,), "t": (2, 2)}
    drawn = {n: torch.rand(4, *shape, dtype=F64, generator=generator) for n, shape in shapes.items()}
    return {"x": drawn["x"], "s": 2 * drawn["s"] - 1, "t": 0.1 + 0.8 * drawn["t"]}


CASES = [(kink, link, eager) for kink in (False, True) for link in (False, True) for eager in (False, True)]


@pytest.fixture(params=CASES, ids=str, scope="module")  # so that what is traced once serves every test
def case(request: pytest.FixtureRequest) -> tuple[en.Energy, en.flow.EnergyFlow, Forces]:
    kink, link, eager = request.param
    energy, smooth = model(kink, link)
    state = values()
    kind = en.MirrorFlow if link else en.GradientFlow
    flow = kind(energy, {"x": state.pop("x")}, state)
    forces = EagerForces(flow.conditioned, flow.links) if eager else flow.forces
    return smooth, flow, forces


def states(flow: en.flow.EnergyFlow, point: dict[str, Tensor]) -> dict[str, Tensor]:
    at = {n: flow.links[n].value(v) if n in flow.links else v for n, v in point.items()}
    return {**at, "x": flow.conditioned.clamp["x"]}


def by_autograd(
    energy: en.Energy, flow: en.flow.EnergyFlow, point: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Energy and force on values, by autograd of the scalar."""
    at = {n: v.detach().clone().requires_grad_() for n, v in states(flow, point).items()}
    total = energy.energy(**at)
    slopes = torch.autograd.grad(total.sum(), [at[n] for n in flow.names])
    return total.detach(), {n: -g for n, g in zip(flow.names, slopes, strict=True)}


def test_energy_and_force_are_those_of_the_scalar(case: Any) -> None:
    _, flow, forces = case
    expected, pushes = by_autograd(flow.conditioned.base, flow, flow.start)
    energy, force = forces.energy_and_force(flow.start)
    assert torch.allclose(energy, expected, atol=1e-12)
    assert torch.allclose(forces.energy(flow.start), expected, atol=1e-12)
    for name in flow.names:
        assert torch.allclose(force[name], pushes[name], atol=1e-11)
        assert torch.allclose(forces.force(flow.start)[name], pushes[name], atol=1e-11)


def test_the_smooth_part_leaves_out_what_has_a_proximal_map(case: Any) -> None:
    smooth, flow, forces = case
    expected, pushes = by_autograd(smooth, flow, flow.start)
    energy, force = forces.smooth(flow.start)
    assert torch.allclose(energy, expected, atol=1e-12)
    for name in flow.names:
        assert torch.allclose(force[name], pushes[name], atol=1e-11)


@pytest.mark.parametrize("method", ["product", "smooth_product"])
def test_the_product_is_minus_the_gradient_of_force_times_direction(case: Any, method: str) -> None:
    """By finite differences of the force in the point: it is symmetric up to the slope of the link."""
    _, flow, forces = case
    generator = torch.Generator().manual_seed(2)
    direction = {n: torch.randn(v.shape, dtype=F64, generator=generator) for n, v in flow.start.items()}
    probe = {n: torch.randn(v.shape, dtype=F64, generator=generator) for n, v in flow.start.items()}
    found = getattr(forces, method)(flow.start, direction)
    step = 1e-5

    def pushed(sign: float) -> Tensor:
        moved = {n: v + sign * step * probe[n] for n, v in flow.start.items()}
        force = by_autograd(flow.conditioned.base, flow, moved)[1]
        return sum((force[n] * direction[n]).flatten(1).sum(1) for n in force)  # type: ignore[return-value]

    expected = -(pushed(1.0) - pushed(-1.0)) / (2 * step)
    total = sum((found[n] * probe[n]).flatten(1).sum(1) for n in found)
    assert torch.allclose(total, expected, atol=1e-7)  # type: ignore[arg-type]


def test_forces_of_some_samples_are_theirs(case: Any) -> None:
    _, flow, forces = case
    index = torch.tensor([2, 0, 2])
    some = {n: v[index] for n, v in flow.start.items()}
    taken = forces.take(index)
    for method in ("force", "energy_and_force", "smooth"):
        whole, part = getattr(forces, method)(flow.start), getattr(taken, method)(some)
        whole, part = (pair if isinstance(pair, dict) else pair[1] for pair in (whole, part))
        for name in flow.names:
            assert torch.allclose(part[name], whole[name][index], atol=1e-13)
    product = taken.product(some, some)
    for name, value in forces.product(flow.start, flow.start).items():
        assert torch.allclose(product[name], value[index], atol=1e-13)


def test_products_where_torch_cannot_trace_a_second_derivative() -> None:
    """Of abs torch fixes the size of the batch; autograd gives what the trace does not."""
    energy = Functional(lambda e, f, s: (f * s.square() + s.abs()).sum(1), f=en.Real(2), s=en.Real(2))
    f, s = values()["x"][:, :2], values()["s"][:, :2]
    flow = en.GradientFlow(energy, {"f": f}, {"s": s})
    assert not isinstance(flow.forces, EagerForces)
    index = torch.tensor([3, 1])
    for method in ("product", "smooth_product"):
        assert torch.allclose(getattr(flow.forces, method)({"s": s}, {"s": s})["s"], 2 * f * s)
        taken = getattr(flow.forces.take(index).take(torch.tensor([1])), method)
        assert torch.allclose(taken({"s": s[1:2]}, {"s": s[1:2]})["s"], 2 * f[1:2] * s[1:2])
    other = flow.rebind({"s": s}, f=3 * f)
    assert torch.allclose(other.forces.product({"s": s}, {"s": s})["s"], 6 * f * s)


def test_an_energy_that_is_all_kink_has_no_smooth_part() -> None:
    flow = en.GradientFlow(Sparsity(0.5, s=en.Real(2)), state={"s": torch.ones(3, 2)})
    for forces in (flow.forces, EagerForces(flow.conditioned, {})):
        energy, force = forces.smooth(flow.start)
        assert energy.tolist() == [0, 0, 0]
        assert not force["s"].any()
        assert not forces.product(flow.start, flow.start)["s"].any()
        assert forces.energy(flow.start).tolist() == [1, 1, 1]


SHAPES = {
    "sum of squares": (lambda e, x, s: (s.square() * x).sum(1) + (s @ e.W).square().sum(1), True),
    "couplings": (lambda e, x, s: s[:, 0] * s[:, 1] - (s @ e.W @ torch.ones(3)) + x.exp().sum(1), True),
    "stacked": (lambda e, x, s: torch.cat([s, 2 * x], 1).square().sum(1) + (s.roll(1, 1) * s).sum(1), True),
    "mean": (lambda e, x, s: (s - s.mean(1, keepdim=True)).square().sum(1) / (1 + x[:, 0].square()), True),
    "linear": (lambda e, x, s: (x.exp() * s).sum(1), True),
    "nothing": (lambda e, x, s: x.sum(1), True),
    # one operator of torch, which the trace does not look into
    "squared error": (lambda e, x, s: torch.nn.functional.mse_loss(s, x, reduction="none").sum(1), False),
    "cube": (lambda e, x, s: s.pow(3).sum(1), False),
    "product of three": (lambda e, x, s: s[:, 0] * s[:, 1] * s[:, 2], False),
    "rectified": (lambda e, x, s: torch.relu(s).square().sum(1), False),
    "absolute": (lambda e, x, s: s.square().sum(1) + s.abs().sum(1), False),
    "kinked": (lambda e, x, s: (s.square() + torch.relu(s)).sum(1), False),
    "clamped": (lambda e, x, s: (s.square() - s.clamp(-5, 5)).sum(1), False),
    "maximum": (lambda e, x, s: s.max(1).values.square() + s.square().sum(1), False),
    "chosen": (lambda e, x, s: torch.where(s > 7, 2 * s, s).sum(1), False),
    "tanh": (lambda e, x, s: (s.square() - s.tanh()).sum(1), False),
    "quotient": (lambda e, x, s: (x / (1 + s.square())).sum(1), False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_trace_shows_which_energies_are_quadratic(shape: str) -> None:
    """What it takes for quadratic must be; the reverse it may miss, but not in these."""
    function, quadratic = SHAPES[shape]
    energy = Functional(
        function,
        {"W": torch.randn(3, 3, generator=torch.Generator().manual_seed(0))},
        x=en.Real(3),
        s=en.Real(3),
    )
    flow = en.GradientFlow(energy, {"x": torch.ones(2, 3)}, {"s": torch.ones(2, 3)})
    assert flow.forces.affine == quadratic
    both = en.GradientFlow(energy, {}, {"s": torch.ones(2, 3), "x": torch.ones(2, 3)})
    if shape in ("sum of squares", "couplings", "mean", "linear"):
        assert not both.forces.affine  # the same is a cubic, or has an exponential, where x moves too
    assert not EagerForces(flow.conditioned, {}).affine


def test_a_kink_that_is_told_leaves_the_rest_quadratic() -> None:
    s = en.Real(2)
    for energy in (Leak(s=s) + Sparsity(0.1, s=s), Sparsity(0.1, s=s)):
        assert en.GradientFlow(energy, state={"s": torch.ones(1, 2)}).forces.affine
