"""oneDNN's products: the same numbers to rounding, only where asked for, and only where they fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet import backends

pytestmark = pytest.mark.skipif(not backends.onednn_available(), reason="torch was built without oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The operands that oneDNN gets."""
    seen: list[tuple[Tensor, Tensor]] = []
    operator = torch.ops.mkldnn._linear_pointwise

    class Spy:
        @staticmethod
        def _linear_pointwise(first: Tensor, second: Tensor, *rest: object) -> Tensor:
            seen.append((first, second))
            return operator(first, second, *rest)

    monkeypatch.setattr(torch.ops, "mkldnn", Spy)
    return seen


def close(found: Tensor, exact: Tensor, scale: float) -> bool:
    """Within the rounding of float32 sums: n terms of size at most `scale` in some order."""
    return bool((found - exact).abs().max() <= scale * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize(("turned", "other"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_products_are_those_of_float64(calls: list, turned: bool, other: bool, alpha: float) -> None:
    m, k, n = 101, 203, 107
    a = torch.randn(k, m).t() if turned else torch.randn(m, k)
    b = torch.randn(n, k).t() if other else torch.randn(k, n)
    wide, row = torch.randn(m, n), torch.randn(n)
    exact = a.double() @ b.double()
    # the error of a sum of k products is at most k eps times the sum of their sizes
    scale = k * float((a.double().abs() @ b.double().abs()).max() + wide.abs().max() + row.abs().max())
    with en.backends.onednn():
        assert close(backends.mm(a, b), exact, scale)
        assert close(backends.addmm(wide, a, b, alpha=alpha), wide + alpha * exact, scale)
        assert close(backends.addmm(row, a, b, alpha=alpha), row + alpha * exact, scale)
        assert close(
            backends.addmm(torch.full((), torch.nan), a, b, beta=0, alpha=alpha), alpha * exact, scale
        )
        assert close(backends.addmm(wide, a, b, beta=0.5), 0.5 * wide + exact, scale)
        assert close(backends.addmm(row, a, b, beta=0.5), 0.5 * row + exact, scale)
        total = wide.clone()
        found = backends.addmm_(total, a, b, alpha=alpha)
    assert found is total
    assert close(total, wide + alpha * exact, scale)
    assert len(calls) == 7


def test_only_where_asked_for_and_where_it_fits(calls: list) -> None:
    a, b = torch.randn(128, 128), torch.randn(128, 128)
    backends.mm(a, b)
    with en.backends.onednn():
        with en.backends.onednn(False):
            backends.mm(a, b)
        backends.mm(a.double(), b.double())
        backends.mm(a[:8], b)  # small
        backends.mm(torch.randn(128, 256)[:, ::2], b)  # with gaps
        backends.mm(torch.randn(128, 1).expand(128, 128), b)
        weight = b.clone().requires_grad_()
        backends.mm(a, weight).sum().backward()  # autograd goes through it
        assert not calls
        assert weight.grad is not None
        with torch.no_grad():
            backends.mm(a, weight)
        assert len(calls) == 1
    backends.mm(a, b)
    assert len(calls) == 1


def test_derivatives_of_any_kind_go_through_the_product_of_torch(calls: list) -> None:
    a, da, b = (torch.randn(128, 128) for _ in range(3))
    with en.backends.onednn():
        tangent = torch.func.jvp(lambda x: backends.mm(x, b), (a,), (da,))[1]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(a, da)
            other = torch.autograd.forward_ad.unpack_dual(backends.mm(dual, b)).tangent
        many = torch.func.vmap(lambda x: backends.mm(x, b))(torch.stack([a, da]))
        slope = torch.func.grad(lambda x: backends.mm(x, b).sum())(a)
    exact = da @ b
    assert other is not None
    torch.testing.assert_close(tangent, exact)
    torch.testing.assert_close(other, exact)
    torch.testing.assert_close(many[1], exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slope, b.sum(1).expand(128, 128))
    assert not calls


def test_a_context_left_by_an_error_is_left() -> None:
    with pytest.raises(ZeroDivisionError), en.backends.onednn():
        _ = 1 / 0
    assert backends._ONEDNN.get() is None


def test_the_rule_of_a_machine_is_the_same(calls: list) -> None:
    v = (torch.rand(100, 196) < 0.3).float()
    found = []
    for chosen in (False, True):
        torch.manual_seed(0)
        model = en.models.RestrictedBoltzmannMachine(196, 128)
        rule = en.ContrastiveDivergence(model, generator=torch.Generator().manual_seed(0))
        with en.backends.onednn(chosen):
            rule(v=v).backward()
        found.append([p.grad for p in model.parameters()])
    assert len(calls) >= 4  # both phases up, one down, and the gradient
    for plain, other in zip(*found, strict=True):
        assert plain is not None
        torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-6)


def test_says_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no oneDNN"), en.backends.onednn():
        pass
    with en.backends.onednn(False):
        pass
