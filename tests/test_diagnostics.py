"""Diagnostics of recorded chains, against laws of autoregressions and against arviz-stats called directly."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from torch import Tensor

import energynet as en
from helpers.functional import Functional

F64 = torch.float64


def spring(e: Any, s: Tensor) -> Tensor:
    return 0.5 * s.square().sum(1)


SPRING = Functional(spring, s=en.Real(2))


class Autoregression(en.Sampler):
    """s <- rho s + sqrt(1 - rho^2) xi: the law N(0, 1), with autocorrelation rho^k; one rho for each unit."""

    def __init__(self, *rho: float) -> None:
        super().__init__()
        self.rho = torch.tensor(rho, dtype=F64)

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        s = state["s"]
        noise = torch.randn(s.shape, generator=generator, dtype=s.dtype)
        s = self.rho * s + (1 - self.rho.square()).sqrt() * noise
        return {"s": s}, carry, torch.ones_like(s[:, 0])


def chains(*rho: float, steps: int, batch: int = 4, record: Any = "state", every: int = 1) -> en.Solution:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(batch, 2, generator=generator, dtype=F64)  # stationary from the start
    return en.settle(
        SPRING,
        {"s": start},
        solver=Autoregression(*rho),
        max_steps=steps,
        record=record,
        record_every=every,
        generator=generator,
    )


def test_the_effective_sample_size_of_autoregressions() -> None:
    """n (1 - rho) / (1 + rho) for each unit.

    The estimator's relative deviation is of the order of sqrt(window / n): at rho = 0.9 correlations matter for
    about 40 of 20,004 records, which gives 5 %; the bound is at 25 %. An axis taken for another misses it by far.
    """
    solution = chains(0.5, 0.9, steps=5000)
    n = 4 * 5001
    found = solution.effective_sample_size()["s"]
    assert found.shape == (2,)
    assert found.dtype == F64
    assert found.tolist() == pytest.approx([n / 3, n / 19], rel=0.25)
    assert float(found[0]) == pytest.approx(n / 3, rel=0.1)


def test_thinned_chains_are_worth_less_and_correlate_less() -> None:
    """Every 8th record of an autoregression of rho is one of rho^8."""
    rho = 0.9**8
    solution = chains(0.9, 0.9, steps=16_000, every=8)
    n = 4 * 2001
    assert solution.trajectory["s"].shape == (2001, 4, 2)
    expected = n * (1 - rho) / (1 + rho)
    assert solution.effective_sample_size()["s"].tolist() == pytest.approx([expected] * 2, rel=0.2)


def test_r_hat_tells_chains_of_one_law_from_others() -> None:
    solution = chains(0.5, 0.5, steps=2000)
    assert solution.r_hat()["s"].tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    shift = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64).unsqueeze(1)
    moved = chains(0.5, 0.5, steps=2000, record=lambda state: state["s"] + shift)
    # halves of the chains lie half a unit off the mean: sqrt(1 + 1/3) within 2 sigma, and ranks tell as much
    assert (moved.r_hat() > 1.1).all()
    assert moved.r_hat().tolist() == pytest.approx([(4 / 3) ** 0.5] * 2, abs=0.05)


def test_a_drift_that_all_chains_share_shows_until_it_is_discarded() -> None:
    """From 1e30 a rho of 1/5 takes 43 of 100 records: the upper ranks are all in the first halves of the chains.

    Normal scores then have mean +-0.69 in the halves: R-hat = sqrt(1 + 0.69^2 16 / 15 / (1 - 0.69^2)) = 1.40.
    """
    solution = en.settle(
        SPRING,
        {"s": torch.full((8, 2), 1e30, dtype=F64)},
        solver=Autoregression(0.2, 0.2),
        max_steps=99,
        record="state",
        generator=torch.Generator().manual_seed(0),
    )
    assert solution.r_hat()["s"].tolist() == pytest.approx([1.40] * 2, abs=0.1)
    assert (solution.r_hat(discard=44)["s"] < 1.1).all()


@pytest.mark.parametrize("discard", [0, 7])
def test_numbers_are_those_of_arviz_chain_by_chain(discard: int) -> None:
    solution = chains(0.3, 0.8, steps=60, batch=5)
    kept = solution.trajectory["s"][discard:].numpy()
    for unit in range(2):
        by_chain = np.ascontiguousarray(kept[:, :, unit].T)  # (chain, draw)
        assert by_chain.shape == (5, 61 - discard)
        assert float(solution.effective_sample_size(discard)["s"][unit]) == array_stats.ess(by_chain)
        assert float(solution.r_hat(discard)["s"][unit]) == array_stats.rhat(by_chain)


def test_what_a_function_records_has_its_shape() -> None:
    """A reduced record is kept in place of the states."""
    one = chains(0.5, 0.5, steps=20, every=5, record=lambda state: state["s"].mean(1))
    assert one.trajectory.shape == (5, 4)
    assert one.effective_sample_size().shape == ()
    named = {"mean": lambda state: state["s"].mean(1), "square": lambda state: state["s"].square()}
    several = chains(0.5, 0.5, steps=20, record=named)
    found = several.r_hat(discard=2)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"mean": (), "square": (2,)}
    assert torch.equal(several.trajectory["mean"][::5], one.trajectory)
    matrix = chains(0.5, 0.5, steps=20, record=lambda state: state["s"].unsqueeze(2) * torch.ones(3))
    assert matrix.effective_sample_size().shape == (2, 3)
    assert matrix.effective_sample_size().T.tolist() == [matrix.effective_sample_size()[:, 0].tolist()] * 3
    assert chains(0.5, 0.5, steps=20, record="energy").r_hat().shape == ()


def test_constants_and_what_is_not_finite_are_not_judged() -> None:
    def record(state: Any) -> Tensor:
        return torch.stack([state["s"][:, 0] * 0 + 3, state["s"][:, 0] * float("nan"), state["s"][:, 0]], 1)

    solution = chains(0.5, 0.5, steps=40, record=record)
    assert solution.r_hat()[:2].isnan().all()
    assert bool(solution.r_hat()[2].isfinite())
    assert float(solution.effective_sample_size()[0]) == 4 * 40  # by arviz: two halves of 20 each
    assert bool(solution.effective_sample_size()[1].isnan())


def test_what_cannot_be_judged_is_refused() -> None:
    short = chains(0.5, 0.5, steps=10)
    with pytest.raises(ValueError, match=r"effective_sample_size needs at least 4 records, got 11 less 8"):
        short.effective_sample_size(discard=8)
    assert short.effective_sample_size(discard=7)["s"].shape == (2,)
    for discard in (-1, 1.5):
        with pytest.raises(ValueError, match="discard is a whole number from 0 up"):
            short.r_hat(discard=discard)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'needs a trajectory .* record="state".*nothing was recorded'):
        chains(0.5, 0.5, steps=10, record=None).r_hat()
    with pytest.raises(ValueError, match="got list"):
        chains(0.5, 0.5, steps=10, record=lambda state: float(state["s"].mean())).r_hat()
    with pytest.raises(ValueError, match=r"got shape \(11,\)"):
        chains(0.5, 0.5, steps=10, record=lambda state: state["s"].mean()).r_hat()
    with pytest.raises(ValueError, match="a batch of at least two, got one"):
        chains(0.5, 0.5, steps=10, batch=1).r_hat()
    assert chains(0.5, 0.5, steps=10, batch=1).effective_sample_size()["s"].shape == (2,)


def test_without_arviz_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = chains(0.5, 0.5, steps=10)
    monkeypatch.setitem(sys.modules, "arviz_stats", None)
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'energynet\[diagnostics\]'"):
        solution.effective_sample_size()


def test_a_tempered_chain_mixes_where_the_plain_one_does_not() -> None:
    """Chains that start in either well of s^4: R-hat tells that they do not meet, and that replicas do."""
    energy = Functional(lambda e, s: (8 * (s.square() - 1).square()).sum(1), s=en.Real(1))
    start = {"s": torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=F64)}
    found = {}
    for name, solver in {
        "plain": en.MALA(0.02),
        "tempered": en.ParallelTempering(en.MALA(0.02), [1, 2, 4, 8]),
    }.items():
        solution = en.settle(
            energy,
            start,
            solver=solver,
            max_steps=1500,
            record="state",
            record_every=3,
            generator=torch.Generator().manual_seed(0),
        )
        found[name] = float(solution.r_hat(discard=20)["s"])
    assert found["plain"] > 1.5
    assert found["tempered"] < 1.05
