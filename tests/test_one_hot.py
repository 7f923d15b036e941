"""Choices among categories: their checks, initial values, strategies and exact moments by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

import energynet as en
from energynet.testing import strategies
from helpers.discrete import F64, boltzmann
from helpers.functional import Functional
from helpers.mixed import all_states, mixed


def test_a_state_must_have_one_1_in_every_row() -> None:
    variable = en.OneHot(2, 3)
    variable.check("s", torch.eye(3)[[0, 2]].unsqueeze(0))
    for bad, why in [
        (
            torch.zeros(1, 2, 3),
            r"'s'.*one 1 and else zeros along the last dimension of OneHot\(2, 3\).*\[0, 0\]",
        ),
        (torch.ones(1, 2, 3), "one 1 and else zeros"),
        (torch.full((1, 2, 3), 1 / 3), "one 1 and else zeros"),
        (torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]), r"got \[0.5, 0.5, 0.0\] at index \[0, 0\]"),
        (2 * torch.eye(3)[[0, 2]].unsqueeze(0), r"in \[0, 1\]"),
        (torch.eye(3).unsqueeze(0), r"shape \(batch, 2, 3\)"),
    ]:
        with pytest.raises(en.StateError, match=why):
            variable.check("s", bad)


def test_a_choice_needs_two_categories() -> None:
    for shape in ((), (1,), (4, 1)):
        with pytest.raises(ValueError, match="number, of the categories, is at least 2"):
            en.OneHot(*shape)
    assert en.OneHot(3) == en.OneHot(3)
    assert en.OneHot(3) != en.OneHot(4)
    assert repr(en.OneHot(28, 10)) == "OneHot(28, 10)"


def test_the_nearest_choice_is_at_the_largest_entry() -> None:
    value = torch.tensor([[0.2, 0.9, 0.8], [-1.0, -2.0, -3.0], [0.5, 0.5, 0.1]])
    choices = torch.eye(3)
    nearest = torch.cdist(value, choices).argmin(1)
    assert torch.equal(en.OneHot(3).project(value), choices[nearest])


def test_initial_choices_are_uniform_and_of_the_generator() -> None:
    draw = {"dtype": torch.float32, "device": torch.device("cpu")}
    value = en.OneHot(2, 5).initial(30_000, generator=torch.Generator().manual_seed(0), **draw)
    en.OneHot(2, 5).check("s", value)
    assert value.dtype == torch.float32
    found = value.sum(0)
    assert float(((found - 6000) ** 2 / 6000).sum()) < chi2.isf(1e-6, 8)
    again = en.OneHot(2, 5).initial(30_000, generator=torch.Generator().manual_seed(0), **draw)
    assert torch.equal(value, again)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_the_strategies_of_the_kit_draw_every_choice(data: st.DataObject) -> None:
    variable = en.OneHot(2, 2)
    drawn = [data.draw(strategies.values(variable, 40)) for _ in range(3)]
    for value in drawn:
        variable.check("s", value)
    assert 0 < float(torch.cat(drawn)[..., 0].mean()) < 1


@pytest.mark.parametrize("name", ["softmax", "potts", "cube"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_moments_are_sums_over_all_states(name: str, temperature: float) -> None:
    energy = mixed(name)
    states = all_states(energy)
    with torch.no_grad():
        value = energy.energy(**states).numpy()
        found = en.exact.moments(energy, temperature=temperature)
        distribution = en.exact.distribution(energy, temperature=temperature)
    weights = torch.from_numpy(boltzmann(value, temperature))
    assert float(found.log_partition) == pytest.approx(np.logaddexp.reduce(-value / temperature), abs=1e-12)
    for key, expected in states.items():
        assert torch.equal(distribution.states[key], expected)
        mean = torch.einsum("s,s...->...", weights, expected)
        assert torch.allclose(found.mean[key][0], mean, rtol=0, atol=1e-12)
        low, high = energy.variables[key].low, energy.variables[key].high
        assert torch.allclose(found.marginals[key][0], (mean - low) / (high - low), rtol=0, atol=1e-12)
        for other, more in states.items():
            second = torch.einsum("s,si,sj->ij", weights, expected.flatten(1), more.flatten(1))
            assert torch.allclose(found.second[key, other].reshape(second.shape), second, rtol=0, atol=1e-12)
    assert torch.allclose(distribution.probabilities[0], weights, rtol=0, atol=1e-12)


def test_held_choices_are_summed_once() -> None:
    """One sample holds a choice and the other does not: its states are counted several times and divided out."""
    energy = mixed("potts")
    states = all_states(energy)["s"]
    value = states[[5, 20]]
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[1, 1] = True
    with torch.no_grad():
        clamp = {"s": en.Partial(value, mask)}
        found = en.exact.log_partition(energy, clamp=clamp)
        minus = -energy.energy(s=states)
        allowed = (states[:, 1] == value[1, 1]).all(1)
        expected = torch.stack([minus.logsumexp(0), minus[allowed].logsumexp(0)])
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        probabilities = en.exact.distribution(energy, clamp=clamp).probabilities
        assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=F64))
        assert torch.equal(probabilities[1] > 0, allowed)
        means = en.exact.moments(energy, clamp=clamp).mean["s"]
        assert torch.allclose(means[1, 1], value[1, 1], rtol=0, atol=1e-14)
        assert torch.allclose(means.sum(-1), torch.ones(2, 3, dtype=F64))


def test_the_partition_function_has_a_gradient_and_a_limit() -> None:
    energy = mixed("softmax")
    energy.zero_grad()
    en.exact.log_partition(energy).sum().backward()
    with torch.no_grad():
        moments = en.exact.moments(energy)
    assert torch.allclose(energy.b.grad, moments.mean["v"][0])  # -dE/db = v
    energy.zero_grad()
    with pytest.raises(en.SettlingError, match=r"13 free units have about 2\*\*20.6 states.*2\*\*20"):
        en.exact.log_partition(en.terms.Field(s=en.OneHot(13, 3)))


def test_annealed_importance_sampling_sums_over_choices() -> None:
    """The default base is uniform over choices, and bits and choices are annealed together."""
    energy = mixed("softmax")
    annealing = en.AnnealedImportanceSampling(energy, steps=60, chains=400)
    found = annealing.estimate(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = en.exact.log_partition(energy)
    assert float(found.standard_error) < 0.1
    assert float((found.log_partition - exact).abs()) < 6 * float(found.standard_error)


@pytest.mark.parametrize("held", [False, True])
def test_a_base_of_independent_choices_and_bits_is_tractable(held: bool) -> None:
    """Fields on choices: log Z against enumeration, with a choice held in some samples."""
    energy = mixed("softmax")
    both = Functional(
        lambda e, v, h: -(v * e.b).sum((1, 2)) - h @ e.c,
        {"b": energy.b.detach().clone(), "c": energy.c.detach().clone()},
        v=en.OneHot(2, 3),
        h=en.Bit(2),
    )
    clamp = {}
    if held:
        mask = torch.tensor([[False, True], [False, False]]).unsqueeze(2).expand(2, 2, 3)
        clamp = {"v": en.Partial(all_states(energy, ["v"])["v"][[2, 4]], mask)}
    annealing = en.AnnealedImportanceSampling(energy, base=both, steps=100, chains=300)
    found = annealing.estimate(clamp, generator=torch.Generator().manual_seed(0))
    none = en.AnnealedImportanceSampling(both, base=both, betas=[0.0, 1.0], chains=20_000)
    exactly = none.estimate(clamp, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(exactly.log_partition, en.exact.log_partition(both, clamp=clamp), atol=1e-12)
        exact = en.exact.log_partition(energy, clamp=clamp)
    assert ((found.log_partition - exact).abs() < 6 * found.standard_error).all()
    drawn = none._path(clamp).base.draw({}, torch.zeros(20_000, dtype=F64), torch.Generator().manual_seed(2))
    both.check(drawn)
    with torch.no_grad():
        means = en.exact.moments(both).mean["v"][0]
    bound = 5.5 * (means * (1 - means) / 20_000).sqrt()
    assert ((drawn["v"].mean(0) - means).abs() < bound).all()  # 6 numbers at 5.5 sigma: 2.3e-7
    with pytest.raises(ValueError, match="couples its units"):
        en.AnnealedImportanceSampling(energy, base=mixed("softmax"), steps=2).estimate()
