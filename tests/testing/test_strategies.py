"""What the public strategies promise of their examples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import energynet as en
from energynet.testing import strategies as sts
from energynet.testing.strategies import LEAST_CURVATURE
from energynet.variable import Unspecified

BOUNDED = [en.Unit(5), en.NonNegative(5), en.Interval(5, low=-0.5, high=2.0)]


@settings(max_examples=40)
@given(st.data())
def test_states_fit_their_energy(data: st.DataObject) -> None:
    energy = data.draw(sts.energies())
    ends = data.draw(st.booleans())
    state = data.draw(sts.states(energy, ends=ends))
    energy.check(state)
    assert all(value.dtype == torch.float64 for value in state.values())
    assert 1 <= len(next(iter(state.values()))) <= 4


@given(st.data())
def test_values_are_inside_the_domain_and_of_the_dtype(data: st.DataObject) -> None:
    variable, batch = data.draw(sts.variables()), data.draw(sts.batches())
    value = data.draw(sts.values(variable, batch, dtype=torch.float32))
    variable.check("v", value)
    assert value.shape == (batch, *variable.shape)
    assert value.dtype == torch.float32
    if not isinstance(variable, (en.Bit, en.Spin)):
        assert bool(((value > variable.low) & (value < variable.high)).all())


@pytest.mark.parametrize("variable", BOUNDED, ids=repr)
def test_ends_are_met_where_they_are_asked_for(variable: en.Variable) -> None:
    value = sts._value(variable, 40, torch.float64, "cpu", ends=True, seed=0)
    variable.check("v", value)
    assert bool((value == variable.low).any())
    assert bool((value == variable.high).any()) == (variable.high < torch.inf)
    assert bool(((value > variable.low) & (value < variable.high)).any())


def test_unspecified_variable_has_no_values_and_says_what_to_do() -> None:
    with pytest.raises(en.StateError, match="declare="):
        sts._value(Unspecified(), 2, torch.float64, "cpu", ends=False, seed=0)


@settings(max_examples=15)
@given(sts.layered_networks(coupling=(0.1, 0.5)), sts.generators())
def test_coupled_networks_are_as_convex_as_promised(
    network: en.models.LayeredHopfield, generator: torch.Generator
) -> None:
    """Judged by the Hessian of the scalar energy, at a random state."""
    names = [name for name in network.variables if name != "x"]
    sizes = [network.variables[name].shape[0] for name in names]
    x = torch.zeros(1, network.variables["x"].shape[0], dtype=torch.float64)
    point = 0.05 + 0.9 * torch.rand(sum(sizes), generator=generator, dtype=torch.float64)

    def energy(flat: torch.Tensor) -> torch.Tensor:
        layers = dict(zip(names, flat[None].split(sizes, 1), strict=True))
        return network.energy(x=x, **layers).sum()

    least = LEAST_CURVATURE["sigmoid" if isinstance(network.variables["y"].link, en.Sigmoid) else "tanh"]
    hessian = torch.autograd.functional.hessian(energy, point)
    assert torch.linalg.eigvalsh(hessian).min() >= 0.5 * least - 1e-9


@settings(max_examples=15)
@given(sts.layered_networks())
def test_networks_are_generic(network: en.models.LayeredHopfield) -> None:
    for parameter in network.parameters():
        assert parameter.dtype == torch.float64
        assert bool((parameter != 0).all())
        assert len(parameter.detach().unique()) == parameter.numel()


@settings(max_examples=10)
@given(st.data())
def test_supervised_data_fit_network_and_cost(data: st.DataObject) -> None:
    network = data.draw(sts.layered_networks())
    batch = data.draw(sts.supervised(network))
    assert set(batch) == {"x", "target"}
    (network + en.SquaredError("y")).check(batch, partial=True)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()

    @settings(max_examples=5)
    @given(sts.energies())
    def draw(energy: en.Energy) -> None:
        assert torch.equal(torch.get_rng_state(), before)

    draw()
