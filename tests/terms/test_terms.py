"""Terms against their formulas, for variables of any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import energynet as en
from energynet.terms import Bilinear, Field, Leak, Reconstruction, Sparsity
from helpers.functional import autograd_force, traced_force

F64 = torch.float64
SHAPES = [(), (3,), (2, 3), (1, 2, 2)]


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(4, *shape, dtype=F64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("target", SHAPES, ids=str)
@pytest.mark.parametrize("source", SHAPES, ids=str)
def test_bilinear_is_minus_target_weight_source(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    term = Bilinear("a", "b", a=en.Real(*source), b=en.Unit(*target)).double()
    state = {"a": draw(*source), "b": draw(*target)}
    rows = {name: value.reshape(4, -1) for name, value in state.items()}
    assert term.weight.shape == (rows["b"].shape[1], rows["a"].shape[1])
    expected = -torch.einsum("bi,ij,bj->b", rows["b"], term.weight, rows["a"])
    assert torch.allclose(term(state), expected)
    force = traced_force(term, state, ["a", "b"])
    assert torch.allclose(force["a"].reshape(4, -1), rows["b"] @ term.weight)
    assert torch.allclose(force["b"].reshape(4, -1), rows["a"] @ term.weight.T)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_field_is_minus_the_product_with_the_bias(shape: tuple[int, ...]) -> None:
    term = Field(s=en.Real(*shape)).double()
    assert not term.bias.any()
    with torch.no_grad():
        term.bias.copy_(draw(*shape)[0])
    s = draw(*shape)
    expected = -torch.stack([(one * term.bias).sum() for one in s])
    assert torch.allclose(term({"s": s}), expected)
    assert torch.allclose(traced_force(term, {"s": s}, ["s"])["s"], term.bias.detach().expand_as(s))


@pytest.mark.parametrize("link", [None, en.Sigmoid(), en.Tanh()], ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_leak_pulls_by_the_inverse_of_the_link(shape: tuple[int, ...], link: Any) -> None:
    variable = en.Unit(*shape, link=link) if isinstance(link, en.Sigmoid) else en.Real(*shape, link=link)
    term, s = Leak(s=variable), 0.9 * draw(*shape) + 0.01
    expected = {None: s, en.Sigmoid(): torch.log(s / (1 - s)), en.Tanh(): torch.atanh(s)}[link]
    for force in (autograd_force(term, {"s": s}, ["s"]), traced_force(term, {"s": s}, ["s"])):
        shift = force["s"] + expected  # an integral may differ by a linear function, here by none
        assert float(shift.abs().max()) < 1e-12
    if link is None:
        assert torch.allclose(term({"s": s}), 0.5 * s.reshape(4, -1).square().sum(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_unit_under_a_field_settles_at_its_activation(shape: tuple[int, ...]) -> None:
    for variable, activation in (
        (en.Unit(*shape), lambda u: u.clamp(0, 1)),
        (en.Unit(*shape, link=en.Sigmoid()), torch.sigmoid),
        (en.NonNegative(*shape), torch.relu),
        (en.Interval(*shape, low=-1, high=1, link=en.Tanh()), torch.tanh),
    ):
        energy = (Leak(s=variable) + Bilinear("x", "s", x=en.Real(2), s=variable)).double()
        x = 3 * torch.randn(5, 2, dtype=F64)
        weight = next(energy.parameters()).detach()
        found = en.settle(energy, clamp={"x": x}, throw=True).state["s"]
        assert torch.allclose(found.reshape(5, -1), activation(x @ weight.T), atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bilinear("a", "a", a=en.Real(2)),
        lambda: Bilinear("a", "b", a=en.Real(2)),
        lambda: Bilinear("a", "b", a=en.Real(2), c=en.Real(2)),
        Field,
        lambda: Field(a=en.Real(2), b=en.Real(2)),
        lambda: Leak(a=en.Real(2), b=en.Real(2)),
        lambda: Leak(s=en.Bit(2)),  # type: ignore[arg-type]
    ],
    ids=["self", "missing", "other", "no field", "two fields", "two leaks", "discrete"],
)
def test_bad_declarations_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Bilinear|Field|Leak"):
        make()


@pytest.mark.parametrize("target", SHAPES, ids=str)
@pytest.mark.parametrize("source", SHAPES, ids=str)
def test_reconstruction_is_the_square_of_the_error(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    term = Reconstruction("a", "x", variance=0.4, a=en.Real(*source), x=en.Real(*target)).double()
    state = {"a": draw(*source), "x": 2 * draw(*target)}
    a, x = (state[n].reshape(4, -1).numpy() for n in ("a", "x"))
    weight = term.weight.detach().numpy()
    assert weight.shape == (x.shape[1], a.shape[1])
    error = x - a @ weight.T
    assert term(state).detach().numpy() == pytest.approx((error**2).sum(1) / 0.8, abs=1e-12)
    force = traced_force(term, state, ["a", "x"])
    assert force["a"].reshape(4, -1).numpy() == pytest.approx(error @ weight / 0.4, abs=1e-12)
    assert force["x"].reshape(4, -1).numpy() == pytest.approx(-error / 0.4, abs=1e-12)


def test_atoms_have_unit_norm_at_first() -> None:
    term = Reconstruction("a", "x", a=en.Real(7), x=en.Real(5))
    assert torch.allclose(term.weight.detach().norm(dim=0), torch.ones(7))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparsity_is_the_sum_of_absolute_values(shape: tuple[int, ...]) -> None:
    term = Sparsity(0.3, a=en.Real(*shape))
    a = draw(*shape) - 0.5
    expected = 0.3 * np.abs(a.reshape(4, -1).numpy()).sum(1)
    assert term({"a": a}).numpy() == pytest.approx(expected, abs=1e-14)
    for force in (autograd_force(term, {"a": a}, ["a"]), traced_force(term, {"a": a}, ["a"])):
        assert torch.equal(force["a"], -0.3 * a.sign())
    assert torch.equal(term.slope(a), 0.3 * a.sign())
    assert not term.slope(torch.zeros(2)).any()


@pytest.mark.parametrize("step", [0.1, 1.0, 5.0])
def test_the_proximal_map_of_sparsity_is_the_minimum_that_scipy_finds(step: float) -> None:
    term = Sparsity(0.3, a=en.Real(1))
    value = torch.tensor([[-3.0], [-0.2], [0.0], [0.02], [0.31], [1.7]], dtype=F64)
    found = term.proximal(value, step)
    assert torch.allclose(term.proximal(value, torch.full((6, 1), step, dtype=F64)), found)
    for one, v in zip(found.flatten().tolist(), value.flatten().tolist(), strict=True):

        def cost(s: float, v: float = v) -> float:
            return step * 0.3 * abs(s) + 0.5 * (s - v) ** 2

        best = minimize_scalar(cost, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
        assert one == pytest.approx(best.x, abs=1e-6)
        assert cost(one) <= best.fun + 1e-15


def test_through_its_link_the_force_of_sparsity_is_exact() -> None:
    """a - u: what mirror flow adds to the drive, in the dead zone too (Rozell et al. 2008, eq. 2.3)."""
    a = en.Real(3, link=en.SoftThreshold(0.5))
    flow = en.MirrorFlow(Sparsity(0.5, a=a), state={"a": torch.zeros(1, 3)})
    u = torch.tensor([[-2.0, 0.3, 0.9]])
    value = torch.tensor([[-1.5, 0.0, 0.4]])
    assert torch.allclose(flow.velocity({"a": u})["a"], value - u)
    assert flow.proximal == {}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Reconstruction("a", "x", a=en.Real(2)), TypeError, "'a' and 'x'"),
        (lambda: Reconstruction("a", "a", a=en.Real(2), x=en.Real(2)), TypeError, "Reconstruction: expected"),
        (
            lambda: Reconstruction("a", "x", variance=0.0, a=en.Real(2), x=en.Real(2)),
            ValueError,
            "variance is a positive number, got 0",
        ),
        (lambda: Sparsity(0.1), TypeError, "one variable"),
        (lambda: Sparsity(0.1, a=en.Real(2), b=en.Real(2)), TypeError, "one variable"),
        (lambda: Sparsity(0.1, a=en.Bit(2)), TypeError, "continuous"),  # type: ignore[arg-type]
        (lambda: Sparsity(-0.1, a=en.Real(2)), ValueError, "strength is a number from 0 up"),
        (lambda: Sparsity(float("nan"), a=en.Real(2)), ValueError, "strength is a number from 0 up"),
        (
            lambda: Sparsity(0.1, a=en.Real(2, link=en.SoftThreshold(0.2))),
            ValueError,
            r"strength is 0.1.*SoftThreshold\(0.1.*'a' is SoftThreshold\(0.2",
        ),
    ],
    ids=["missing", "self", "variance", "none", "two", "discrete", "negative", "nan", "other threshold"],
)
def test_bad_sparse_codes_are_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("masked", [False, True])
def test_the_units_of_several_variables_are_coupled_as_those_of_one(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(6, 6, generator=generator) < 0.6
    mask = mask & mask.T if masked else None
    together = en.terms.Coupling(mask, s=en.Spin(6)).double()
    apart = en.terms.Coupling(mask, a=en.Spin(2), b=en.Spin(1, 3), c=en.Spin()).double()
    for term in (together, apart):
        with torch.no_grad():
            term.weight.copy_(torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(1)))
    s = torch.randn(4, 6, dtype=F64, generator=generator)
    state = {"a": s[:, :2], "b": s[:, 2:5].unsqueeze(1), "c": s[:, 5]}
    assert torch.allclose(apart.energy(**state), together.energy(s=s))
    force = apart.force(state, ["a", "b", "c"])
    assert torch.allclose(
        torch.cat([f.reshape(4, -1) for f in force.values()], 1), together.force({"s": s}, ["s"])["s"]
    )
    found, expected = (
        torch.autograd.grad(e.sum(), term.weight)[0]
        for e, term in ((apart.energy(**state), apart), (together.energy(s=s), together))
    )
    assert torch.allclose(found, expected)


def test_variables_that_a_mask_leaves_apart_do_not_read_each_other() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 2] = mask[2, 0] = True
    term = en.terms.Coupling(mask, a=en.Bit(1), b=en.Bit(1), c=en.Bit(2))
    flow = en.ConditionalFlow(term, state={"a": torch.ones(1, 1)})
    assert flow.forces.groups == (("a", "b"), ("c",))
    with pytest.raises(TypeError, match="got none"):
        en.terms.Coupling()
