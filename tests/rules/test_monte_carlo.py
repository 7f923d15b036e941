"""MonteCarloEM against exact posteriors: linear and Gaussian, by quadrature, by enumeration; and its chains.

Means over independent calls are compared with exact gradients by Student's test; a right rule fails any of a
test's comparisons in a run with a probability below 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import t as student
from sklearn.decomposition import PCA
from torch import Tensor

import energynet as en
from helpers.networks import F64, gradient

ALARM = 1e-6
CALLS = 24


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factor_model(inputs: int, factors: int, variance: float = 0.5) -> en.Energy:
    """z standard normal, x = W z + noise, as -log p(x, z) but for the constant of z."""
    torch.manual_seed(0)
    x, z = en.Real(inputs), en.Real(factors)
    likelihood = en.terms.Reconstruction("z", "x", variance=variance, learn_variance=True, z=z, x=x)
    return (likelihood + en.terms.Leak(z=z)).double()


def check_unbiased(rule: en.MonteCarloEM, exact: dict[str, Tensor], **data: Tensor) -> None:
    """Student's test of each entry of the gradient over calls that begin anew."""
    found: dict[str, list[Tensor]] = {}
    for _ in range(CALLS):
        for name, value in gradient(rule, **data).items():
            found.setdefault(name.removeprefix("energy."), []).append(value.clone())
    assert found.keys() == exact.keys()
    entries = sum(value.numel() for value in exact.values())
    limit = float(student.isf(ALARM / (2 * entries), CALLS - 1))
    for name, values in found.items():
        stacked = torch.stack(values)
        error = stacked.std(0) / CALLS**0.5
        assert float(((stacked.mean(0) - exact[name]).abs() / error).max()) < limit, name
        # or the test could not fail
        assert float(error.norm()) < 0.1 * float(exact[name].norm()) + 0.01, name


def test_linear_and_gaussian_is_the_gradient_of_the_likelihood() -> None:
    """x is normal with covariance W W' + variance: its density by torch.distributions."""
    model = factor_model(3, 2)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)
    weight, log_variance = (
        model.get_parameter("energies.0.weight"),
        model.get_parameter("energies.0.log_variance"),
    )
    covariance = weight @ weight.mT + log_variance.exp() * torch.eye(3, dtype=F64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), covariance)
    slopes = torch.autograd.grad(-normal.log_prob(x).mean(), [weight, log_variance])
    exact = dict(zip(["energies.0.weight", "energies.0.log_variance"], slopes, strict=True))
    sampler = en.HamiltonianMonteCarlo(0.4, 3)
    rule = en.MonteCarloEM(
        model, sampler=sampler, steps=20, burn_in=20, every=2, chains=60, generator=seeded(2)
    )
    check_unbiased(rule, exact, x=x)


def test_it_learns_probabilistic_pca() -> None:
    """From a random start to the closed form of Tipping and Bishop (1999), by scikit-learn's likelihood."""
    x = torch.randn(300, 2, generator=seeded(0), dtype=F64) @ torch.tensor(
        [[2.0, 0.5, -1.0, 0.3], [0.2, 1.5, 0.8, -0.7]], dtype=F64
    )
    x = x + 0.5 * torch.randn(300, 4, generator=seeded(1), dtype=F64)
    x = x - x.mean(0)
    best = PCA(2).fit(x.numpy()).score(x.numpy())
    model = factor_model(4, 2, variance=2.0)
    rule = en.MonteCarloEM(
        model,
        sampler=en.MALA(0.05),
        steps=10,
        burn_in=0,
        every=5,
        persistent=True,
        generator=seeded(3),
    )
    optimiser = torch.optim.Adam(rule.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 300)
    for _ in range(300):
        optimiser.zero_grad()
        rule(x=x).backward()
        optimiser.step()
        schedule.step()
    weight, variance = model.get_parameter("energies.0.weight"), model.energies[0].variance  # type: ignore[index]
    covariance = (weight @ weight.mT + variance * torch.eye(4, dtype=F64)).detach()
    found = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=F64), covariance).log_prob(x).mean()
    assert best - 0.01 < float(found) < best + 0.01


def evidence(model: en.Energy, x: Tensor, hidden: str) -> float:
    """-log of the integral of exp(-E) over the one hidden unit, averaged over the data."""
    total = 0.0
    for value in x:

        def density(z: float, value: Tensor = value) -> float:
            state = {"x": value[None], hidden: torch.tensor([[z]], dtype=F64)}
            return math.exp(-float(model(state)))

        kinks = [-0.4, 0.0, 0.4]
        ends = [-12.0, *kinks, 12.0]
        with torch.no_grad():
            pieces = [quad(density, a, b, epsabs=1e-11)[0] for a, b in pairwise(ends)]
        total -= math.log(sum(pieces)) / len(x)
    return total


def by_differences(model: en.Energy, x: Tensor, hidden: str) -> dict[str, Tensor]:
    """The gradient of `evidence`, by central differences."""
    exact = {}
    for name, parameter in model.named_parameters():
        slope = torch.zeros_like(parameter)
        for index in np.ndindex(*parameter.shape):
            values = []
            for shift in (1e-4, -1e-4):
                with torch.no_grad():
                    parameter[index] += shift
                    values.append(evidence(model, x, hidden))
                    parameter[index] -= shift
            slope[index] = (values[0] - values[1]) / 2e-4
        exact[name] = slope.detach()
    return exact


LEARNED: dict[str, tuple[str, Callable[[], en.Energy]]] = {
    "laplace": (
        "a",
        lambda: en.models.SparseCoding(2, 1, 2.0, variance=0.25, learn_sparsity=True, learn_variance=True),
    ),
    "cauchy": (
        "a",
        lambda: en.models.SparseCoding(
            2, 1, 2.0, "cauchy", variance=0.25, learn_sparsity=True, learn_variance=True
        ),
    ),
    "spike and slab": (
        "u",
        lambda: en.models.SpikeSlabCoding(
            2, 1, 2.0, 0.4, variance=0.25, learn_sparsity=True, learn_threshold=True, learn_variance=True
        ),
    ),
}


@pytest.mark.parametrize("name", LEARNED)
def test_sparse_priors_by_quadrature(name: str) -> None:
    """The gradient of -log p(x) in the dictionary, the sparsity, the noise and the threshold."""
    hidden, make = LEARNED[name]
    torch.manual_seed(1)
    model = make().double()
    x = torch.tensor([[0.6, -0.3], [-0.2, 0.9]], dtype=F64)
    rule = en.MonteCarloEM(
        model,
        sampler=en.MALA(0.1),
        steps=40,
        burn_in=40,
        every=4,
        chains=150,
        generator=seeded(4),
    )
    check_unbiased(rule, by_differences(model, x, hidden), x=x)


def test_discrete_codes_by_enumeration() -> None:
    """`Gibbs` by default: the mean of -v h' under p(h | v), which `exact` enumerates."""
    torch.manual_seed(2)
    model = en.terms.Bilinear("v", "h", v=en.Bit(3), h=en.Bit(2)) + en.terms.Field(h=en.Bit(2))
    model = model.double()
    v = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=F64)
    mean = torch.stack(
        [en.exact.moments(model.condition(v=row[None])).mean["h"].flatten() for row in v]
    ).detach()
    outer = -torch.einsum("bi,bj->ij", v, mean) / 2
    weight = model.get_parameter("energies.0.weight")
    exact = {
        "energies.0.weight": outer if weight.shape == outer.shape else outer.mT,
        "energies.1.bias": -mean.mean(0),
    }
    rule = en.MonteCarloEM(model, steps=20, burn_in=2, every=1, chains=40, generator=seeded(5))
    check_unbiased(rule, exact, v=v)


def chain(model: en.Energy, x: Tensor, steps: int, generator: torch.Generator, start: Any = None) -> Tensor:
    solver = en.Langevin(0.05)
    return en.settle(
        model, start, clamp={"x": x}, solver=solver, max_steps=steps, record="state", generator=generator
    ).trajectory["z"]


@pytest.mark.parametrize("persistent", [False, True])
def test_phases_are_the_states_of_a_chain(persistent: bool) -> None:
    """Every third after the burn-in, of one weight; the next call begins where this ended, or anew."""
    model = factor_model(3, 2)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)
    rule = en.MonteCarloEM(
        model,
        sampler=en.Langevin(0.05),
        steps=6,
        burn_in=6,
        every=3,
        persistent=persistent,
        generator=seeded(7),
    )
    generator = seeded(7)
    start = None
    for _ in range(2):
        expected = chain(model, x, 12, generator, start)
        phases = rule.phases(x=x)
        assert [phase.weight for phase in phases] == [0.5, 0.5]
        for phase, step in zip(phases, (9, 12), strict=True):
            assert torch.equal(phase.solution.state["z"], expected[step])
            assert torch.equal(phase.solution.state["x"], x)
            assert torch.allclose(phase.solution.energy, model(phase.solution.state), atol=1e-12)
        energies = torch.stack([model(phase.solution.state).mean() for phase in phases])
        assert torch.allclose(rule.value(phases), energies.mean(), atol=1e-12)
        if persistent:
            assert torch.equal(rule.held.get()["z"], expected[12])
            start = {"z": expected[12]}
        else:
            assert not rule.held.get()


def test_value_and_gradient_are_those_of_its_phases() -> None:
    model = factor_model(3, 2)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)

    def made() -> en.MonteCarloEM:
        return en.MonteCarloEM(
            model, sampler=en.Langevin(0.05), steps=4, burn_in=3, every=2, chains=3, generator=seeded(8)
        )

    phases = made().phases(x=x)
    assert len(phases[0].solution.state["z"]) == 12
    assert torch.equal(phases[0].solution.state["x"], x.repeat_interleave(3, 0))
    mean = torch.stack([model(phase.solution.state).mean() for phase in phases]).mean()
    slopes = torch.autograd.grad(mean, list(model.parameters()))
    rule = made()
    loss = rule(x=x)
    loss.backward()
    assert torch.allclose(loss.detach(), mean.detach(), atol=1e-12)
    for parameter, slope in zip(rule.parameters(), slopes, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, slope, atol=1e-12)


def test_persistent_chains_are_saved_and_evaluation_leaves_them() -> None:
    model = factor_model(3, 2)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)
    rule, twin = (
        en.MonteCarloEM(
            model,
            sampler=en.Langevin(0.05),
            steps=4,
            burn_in=0,
            every=2,
            persistent=True,
            generator=seeded(s),
        )
        for s in (1, 2)
    )
    rule(x=x).backward()
    held = rule.held.get()["z"].clone()
    with torch.no_grad():
        rule(x=x)
    assert torch.equal(rule.held.get()["z"], held)
    twin.load_state_dict(rule.state_dict())
    assert torch.equal(twin.held.get()["z"], held)
    with pytest.raises(en.StateError, match="persistent chains are 4"):
        rule(x=x[:3])
    rule.held.put({})
    rule(x=x[:3]).backward()


def test_the_default_sampler_of_continuous_variables_accepts() -> None:
    """Of the largest curvature k its step is 1 / (k units^(1/3)): on |z|^2 k / 2 it is known."""
    model = factor_model(3, 2)
    x = torch.randn(50, 3, generator=seeded(1), dtype=F64)
    rule = en.MonteCarloEM(model, generator=seeded(9))
    with torch.no_grad():
        _, sampler = rule._flow({"x": x})
    assert isinstance(sampler, en.MALA)
    weight = model.get_parameter("energies.0.weight").detach()
    largest = float(torch.linalg.eigvalsh(weight.mT @ weight / 0.5 + torch.eye(2, dtype=F64)).max())
    assert sampler.dt == pytest.approx(1 / (largest * 2 ** (1 / 3)), rel=0.05)
    rates = en.settle(model, clamp={"x": x}, solver=sampler, max_steps=100, generator=seeded(1)).statistics
    assert 0.5 < float(rates["acceptance"].mean()) < 0.99


def test_errors_say_what_to_do() -> None:
    model = factor_model(3, 2)
    for wrong, message in (
        ({"steps": 0}, "steps is a whole number from 1 up"),
        ({"burn_in": -1}, "burn_in is a whole number from 0 up"),
        ({"chains": True}, "chains is a whole number"),
        ({"steps": 4, "every": 5}, "none in 4"),
    ):
        with pytest.raises(ValueError, match=message):
            en.MonteCarloEM(model, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a normaliser that learning moves.* ContrastiveDivergence"):
        en.MonteCarloEM(en.models.RestrictedBoltzmannMachine(3, 2))
    with pytest.raises(TypeError, match="a minimiser settles in one state"):
        en.MonteCarloEM(model, sampler=en.Proximal())  # type: ignore[arg-type]
    with pytest.raises(en.StateError, match="no data"):
        en.MonteCarloEM(model)()
    with pytest.raises(en.StateError, match="no variable 'y'"):
        en.MonteCarloEM(model)(y=torch.zeros(1, 3))
    with pytest.raises(en.SettlingError, match="diverged"):
        en.MonteCarloEM(model, sampler=en.Langevin(100.0), steps=400, every=400)(
            x=torch.ones(1, 3, dtype=F64)
        )
    linked = en.terms.Leak(z=en.Unit(2, link=en.Sigmoid())) + en.terms.Field(x=en.Real(1))
    with pytest.raises(ValueError, match="through a link"):
        en.MonteCarloEM(linked)(x=torch.zeros(1, 1))
