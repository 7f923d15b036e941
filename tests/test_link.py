"""Links against closed forms, autograd, finite differences and the defaults of their base class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import energynet as en

F64 = torch.float64
SMOOTH = [en.Sigmoid(), en.Tanh()]
THRESHOLDS = [en.SoftThreshold(0.3), en.SoftThreshold(0.3, nonnegative=True), en.SoftThreshold(0.0)]
EVERY = [*SMOOTH, *THRESHOLDS]
AWAY = torch.tensor([-7.0, -2.5, -0.9, -0.31, -0.2, 0.11, 0.29, 0.31, 1.4, 6.0], dtype=F64)  # from every kink


def by_autograd(link: en.Link, u: Tensor) -> Tensor:
    leaf = u.clone().requires_grad_()
    return torch.autograd.grad(link.value(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("link", EVERY, ids=repr)
def test_the_slope_is_the_derivative_of_the_value(link: en.Link) -> None:
    step = 1e-6
    measured = (link.value(AWAY + step) - link.value(AWAY - step)) / (2 * step)
    for slope in (link.slope(AWAY), en.Link.slope(link, AWAY), by_autograd(link, AWAY)):
        assert torch.allclose(slope, measured, atol=1e-9)
    assert bool((link.slope(AWAY) >= 0).all())


@pytest.mark.parametrize("link", SMOOTH, ids=repr)
def test_the_logarithm_of_the_slope_and_its_gradient(link: en.Link) -> None:
    step = 1e-6
    measured = (link.log_slope(AWAY + step) - link.log_slope(AWAY - step)) / (2 * step)
    assert torch.allclose(link.log_slope(AWAY), by_autograd(link, AWAY).log(), atol=1e-9)
    assert torch.allclose(link.log_slope(AWAY), en.Link.log_slope(link, AWAY), atol=1e-9)
    for gradient in (link.log_slope_gradient(AWAY), en.Link.log_slope_gradient(link, AWAY)):
        assert torch.allclose(gradient, measured, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_logarithm_of_the_slope_is_exact_where_units_saturate(dtype: torch.dtype) -> None:
    """log s(u) s(-u) = -|u| - 2 log(1 + exp(-|u|)), and 4 s(2u) s(-2u) for the hyperbolic tangent."""
    u = torch.tensor([-40.0, 40.0], dtype=dtype)
    assert en.Sigmoid().log_slope(u).tolist() == pytest.approx([-40.0] * 2, rel=1e-6)
    assert en.Tanh().log_slope(u).tolist() == pytest.approx([-80.0 + np.log(4)] * 2, rel=1e-6)
    assert en.Sigmoid().log_slope_gradient(u).tolist() == [1, -1]
    assert en.Tanh().log_slope_gradient(u).tolist() == [2, -2]
    for link in SMOOTH:
        assert bool((link.slope(u) >= 0).all())
        assert bool((link.slope(u) < 1e-6).all())


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.sampled_from(THRESHOLDS))
def test_soft_thresholds_shrink_towards_zero(values: list[float], link: en.SoftThreshold) -> None:
    u, threshold = np.array(values), link.threshold
    expected = np.where(u > threshold, u - threshold, np.where(u < -threshold, u + threshold, 0.0))
    expected = expected.clip(min=0) if link.nonnegative else expected
    value = link.value(torch.tensor(values, dtype=F64))
    assert value.numpy() == pytest.approx(expected, abs=1e-15)
    assert link.value(link.potential(value)).numpy() == pytest.approx(expected, abs=1e-12)
    assert link.low == (0.0 if link.nonnegative else -np.inf)
    assert link.high == np.inf


@pytest.mark.parametrize("link", THRESHOLDS, ids=repr)
def test_the_integral_of_a_soft_threshold_has_the_inverse_as_slope(link: en.SoftThreshold) -> None:
    u = AWAY[link.threshold < AWAY] if link.nonnegative else AWAY[AWAY.abs() > link.threshold]
    value = link.value(u).requires_grad_()
    (slope,) = torch.autograd.grad(link.integral(value).sum(), value)
    assert torch.allclose(slope, u, atol=1e-14)
    assert torch.allclose(link.potential(value.detach()), u, atol=1e-14)
    assert float(link.integral(torch.zeros((), dtype=F64))) == 0


@pytest.mark.parametrize("link", THRESHOLDS, ids=repr)
def test_values_of_a_soft_threshold_have_no_density(link: en.Link) -> None:
    with pytest.raises(en.SettlingError, match=r"SoftThreshold\(.*no density"):
        link.log_slope(AWAY)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_thresholds_are_not_negative(threshold: float) -> None:
    with pytest.raises(ValueError, match="SoftThreshold: the threshold is a number from 0 up"):
        en.SoftThreshold(threshold)


def test_links_of_other_options_are_other_links() -> None:
    links = {en.SoftThreshold(0.1), en.SoftThreshold(0.1, nonnegative=True), en.SoftThreshold(0.2), en.Tanh()}
    links.add(en.SoftThreshold(0.1))
    assert len(links) == 4


def test_a_non_negative_variable_needs_a_link_that_is_not_negative() -> None:
    en.NonNegative(2, link=en.SoftThreshold(0.1, nonnegative=True))
    with pytest.raises(ValueError, match=r"SoftThreshold.*outside the domain"):
        en.NonNegative(2, link=en.SoftThreshold(0.1))
