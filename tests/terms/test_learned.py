"""What is learned of a prior and of a noise comes with its normaliser: densities integrate to one."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import dblquad, quad

import energynet as en
from energynet.prior import Cauchy, Laplace, LogCosh, Prior

F64 = torch.float64


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("strength", [0.7, 1.3, 5.0])
@pytest.mark.parametrize("prior", [Laplace(), Cauchy(), LogCosh()])
def test_log_partition_is_the_integral(prior: Prior, strength: float, nonnegative: bool) -> None:
    def density(value: float) -> float:
        return math.exp(-strength * float(prior.penalty(torch.tensor(value, dtype=F64))))

    half = quad(density, 0, math.inf, limit=500)[0]
    found = prior.log_partition(torch.tensor(strength, dtype=F64), nonnegative=nonnegative)
    assert float(found) == pytest.approx(math.log(half if nonnegative else 2 * half), abs=1e-6)


def test_cauchy_has_no_density_at_half() -> None:
    assert float(Cauchy().log_partition(torch.tensor(0.5))) == math.inf
    with pytest.raises(ValueError, match=r"no density at a strength of 0\.4"):
        en.terms.Sparsity(0.4, "cauchy", learn_strength=True, a=en.Real(2))


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("prior", ["laplace", "cauchy"])
def test_sparse_coding_is_a_density(prior: str, nonnegative: bool) -> None:
    """The integral of exp(-E) over one input and one code is one."""
    model = en.models.SparseCoding(
        1, 1, 6.0, prior, nonnegative, variance=0.3, learn_sparsity=True, learn_variance=True
    ).double()
    assert model.variables["a"].link is None  # type: ignore[attr-defined]

    def density(x: float, a: float) -> float:
        state = {"x": torch.tensor([[x]], dtype=F64), "a": torch.tensor([[a]], dtype=F64)}
        return math.exp(-float(model.energy(**state)))

    with torch.no_grad():
        low = 0.0 if nonnegative else -4.0
        total = dblquad(density, low, 4, lambda a: -9, lambda a: 9, epsabs=1e-4, epsrel=1e-4)[0]
    assert total == pytest.approx(1, abs=2e-3)


def test_many_units_count_each() -> None:
    """The normaliser of n inputs and K codes is n and K times that of one."""
    model = en.models.SparseCoding(3, 5, 3.0, variance=0.3, learn_sparsity=True, learn_variance=True).double()
    state = {"x": torch.zeros(2, 3, dtype=F64), "a": torch.zeros(2, 5, dtype=F64)}
    expected = 1.5 * math.log(2 * math.pi * 0.3) + 5 * math.log(2 / 3)
    assert torch.allclose(model(state), torch.full((2,), expected, dtype=F64), atol=1e-7)
    image = en.terms.Sparsity(3.0, learn_strength=True, a=en.Real(2, 4))
    zero = image({"a": torch.zeros(1, 2, 4)})
    assert float(zero.detach()) == pytest.approx(8 * math.log(2 / 3), rel=1e-5)


def test_what_is_learned_is_a_parameter_and_starts_where_told() -> None:
    model = en.models.SparseCoding(3, 5, 2.0, variance=0.3, learn_sparsity=True, learn_variance=True)
    assert {name for name, _ in model.named_parameters()} == {
        "reconstruction.weight",
        "reconstruction.log_variance",
        "penalty.log_strength",
    }
    assert float(torch.as_tensor(model.penalty.strength).detach()) == pytest.approx(2.0)
    assert float(torch.as_tensor(model.reconstruction.variance).detach()) == pytest.approx(0.3)
    fixed = en.models.SparseCoding(3, 5, 2.0, variance=0.3)
    assert [name for name, _ in fixed.named_parameters()] == ["reconstruction.weight"]
    assert fixed.penalty.strength == 2.0
    assert fixed.reconstruction.variance == 0.3


def test_settling_takes_the_strength_of_now() -> None:
    """`Proximal` on a learned strength is that on the same number given; also after it has changed."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=F64)
    learned = en.models.SparseCoding(
        3, 5, 0.3, variance=0.5, learn_sparsity=True, learn_variance=True
    ).double()
    for strength, variance in ((0.3, 0.5), (0.6, 0.4)):
        with torch.no_grad():
            learned.get_parameter("penalty.log_strength").fill_(math.log(strength))
            learned.get_parameter("reconstruction.log_variance").fill_(math.log(variance))
        given = en.models.SparseCoding(3, 5, strength, variance=variance).double()
        given.load_state_dict({"reconstruction.weight": learned.weight})
        until = en.Stationary(atol=1e-11)
        codes = [
            en.settle(model, clamp={"x": x}, solver=en.Proximal(), until=until, max_steps=5000).state["a"]
            for model in (learned, given)
        ]
        assert torch.allclose(*codes, atol=1e-9)
        assert bool((codes[0] == 0).any())
        assert not bool((codes[0] == 0).all())


def test_errors() -> None:
    with pytest.raises(ValueError, match="starts above 0"):
        en.terms.Sparsity(0.0, learn_strength=True, a=en.Real(2))
    with pytest.raises(ValueError, match=r"L0.*cannot be learned"):
        en.terms.Sparsity(1.0, "l0", learn_strength=True, a=en.Real(2))
    with pytest.raises(ValueError, match="cannot follow"):
        en.terms.Sparsity(1.0, learn_strength=True, a=en.Real(2, link=en.SoftThreshold(1.0)))
    for bounded in (en.Unit(2), en.Interval(2, low=-1, high=1), en.Interval(2, low=0.5, high=math.inf)):
        with pytest.raises(ValueError, match=r"the normaliser of Laplace.* is not known"):
            en.terms.Sparsity(1.0, learn_strength=True, a=bounded)
    with pytest.raises(ValueError, match="the threshold is a positive number"):
        en.terms.Shrinkage(0.0)


def test_samplers_refuse_a_prior_that_jumps() -> None:
    """The force of the L0 prior is zero almost everywhere: it would sample the likelihood alone."""
    model = en.models.SparseCoding(3, 4, prior="l0", link=False)
    for sampler in (en.Langevin(0.01), en.MALA(0.01), en.HamiltonianMonteCarlo(0.1, 2)):
        with pytest.raises(en.SettlingError, match="SpikeSlabCoding"):
            en.settle(model, clamp={"x": torch.zeros(1, 3)}, solver=sampler, max_steps=1)
