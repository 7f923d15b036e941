"""Priors: slopes against autograd, maps against a search on a grid, links against maps."""

from __future__ import annotations

from typing import final

import numpy as np
import pytest
import torch

import energynet as en
from energynet.prior import PRIORS, prior_of

F64 = torch.float64
AWAY = torch.tensor([-6.0, -1.3, -0.4, 0.2, 0.9, 2.5], dtype=F64)
EVERY = list(PRIORS.values())


def cost(prior: en.Prior, value: np.ndarray) -> np.ndarray:
    """The formulas of the docstrings."""
    formulas = {
        en.Laplace(): np.abs,
        en.L0(): lambda a: (a != 0).astype(float),
        en.Cauchy(): lambda a: np.log(1 + a**2),
        en.LogCosh(): lambda a: np.log(np.cosh(a)),
    }
    return formulas[prior](value)


@pytest.mark.parametrize("prior", EVERY, ids=repr)
def test_penalties_are_their_formulas_and_slopes_their_derivatives(prior: en.Prior) -> None:
    value = torch.cat([AWAY, torch.zeros(1, dtype=F64)])
    assert prior.penalty(value).numpy() == pytest.approx(cost(prior, value.numpy()), abs=1e-14)
    step = 1e-6
    measured = (prior.penalty(AWAY + step) - prior.penalty(AWAY - step)) / (2 * step)
    assert torch.allclose(prior.slope(AWAY), measured, atol=1e-8)
    assert not prior.slope(torch.zeros(2)).any()
    far = torch.tensor([1e4, -1e4])
    assert bool(prior.penalty(far).isfinite().all())


@pytest.mark.parametrize("step", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("prior", EVERY, ids=repr)
def test_proximal_maps_are_minima_on_a_grid(prior: en.Prior, step: float) -> None:
    value = torch.tensor([-5.0, -2.0, -0.3, 0.0, 0.1, 0.8, 1.9, 4.0], dtype=F64)
    found = prior.proximal(value, step)
    many = prior.proximal(value.unsqueeze(1), torch.full((8, 1), step, dtype=F64)).squeeze(1)
    assert torch.allclose(found, many, atol=1e-12)
    grid = np.linspace(-6, 6, 240_001)  # zero is on it
    grid[120_000] = 0.0
    for one, v in zip(found.tolist(), value.tolist(), strict=True):
        total = step * cost(prior, grid) + 0.5 * (grid - v) ** 2
        mine = step * float(cost(prior, np.array(one))) + 0.5 * (one - v) ** 2
        assert mine <= total.min() + 1e-12
        assert one == pytest.approx(grid[total.argmin()], abs=6e-5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("prior", [en.Laplace(), en.L0()], ids=repr)
def test_links_are_the_maps_at_a_step_of_one(prior: en.Prior, strength: float, nonnegative: bool) -> None:
    link = prior.link(strength, nonnegative=nonnegative)
    assert link is not None
    potential = torch.linspace(-4, 4, 161, dtype=F64) + 1e-3
    value = prior.proximal(potential, strength)
    value = value.clamp(min=0) if nonnegative else value
    assert torch.allclose(link.value(potential), value, atol=1e-14)
    # the integral is what mirror flow of the error and the penalty needs beside the leak
    expected = 0.5 * value.square() + strength * prior.penalty(value)
    assert torch.allclose(link.integral(value), expected, atol=1e-14)
    assert torch.allclose(link.value(link.potential(value)), value, atol=1e-12)


def test_smooth_priors_have_no_link() -> None:
    for prior in (en.Cauchy(), en.LogCosh()):
        assert prior.smooth
        assert prior.link(0.3) is None


def test_convexity_is_as_declared() -> None:
    grid = torch.linspace(-4, 4, 801, dtype=F64)
    grid[400] = 0.0
    for prior in EVERY:
        penalty = prior.penalty(grid)
        bent = penalty[2:] - 2 * penalty[1:-1] + penalty[:-2]
        assert prior.convex == bool((bent >= -1e-12).all())


def test_hard_thresholds_have_a_slope_and_no_density() -> None:
    link = en.HardThreshold(0.5)
    assert link.slope(torch.tensor([-1.0, 0.2, 0.7])).tolist() == [1, 0, 1]
    assert en.HardThreshold(0.5, nonnegative=True).slope(torch.tensor([-1.0, 0.7])).tolist() == [0, 1]
    with pytest.raises(en.SettlingError, match=r"HardThreshold.*no density"):
        link.log_slope(AWAY)
    with pytest.raises(ValueError, match="HardThreshold: the threshold is a number from 0 up"):
        en.HardThreshold(-0.1)


def test_priors_by_name() -> None:
    assert prior_of(None, "l0") == en.L0()
    assert prior_of(None, en.Cauchy()) == en.Cauchy()
    assert len({*EVERY, en.Laplace()}) == 4
    with pytest.raises(ValueError, match="one of 'laplace', 'l0', 'cauchy', 'logcosh' or a Prior, got 'x'"):
        prior_of(None, "x")


@final
class Logarithmic(en.Prior):
    """S = log(1 + scale |a|): a kink at zero, and by its slope alone."""

    smooth, convex = False, False

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        return (self.scale * value.abs()).log1p()

    def slope(self, value: torch.Tensor) -> torch.Tensor:
        return self.scale * value.sign() / (1 + self.scale * value.abs())


def test_a_prior_of_ones_own_with_a_kink_has_exact_zeros_and_its_numbers_tell_it_apart() -> None:
    """Against a grid, where s + step * slope(s) rises: step * scale^2 is below 1."""
    prior, value = Logarithmic(0.9), torch.tensor([-3.0, -0.9, -0.3, 0.0, 0.5, 0.88, 0.95, 2.0], dtype=F64)
    found = prior.proximal(value, 1.0)
    assert (found == 0).tolist() == (value.abs() <= 0.9).tolist()
    grid = torch.linspace(-4, 4, 160_001, dtype=F64)
    least = (prior.penalty(grid) + 0.5 * (grid - value.unsqueeze(1)).square()).argmin(1)
    assert torch.allclose(found, grid[least], atol=1e-4)
    assert prior == Logarithmic(0.9)
    assert prior != Logarithmic(0.8)
