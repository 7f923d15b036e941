"""Energies form a vector space, whatever they are made of."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import energynet as en
from energynet.terms import Bilinear, Field, Leak
from helpers.functional import Functional, autograd_force, traced_force

STATE = {
    "x": torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3),
    "s": torch.linspace(0, 1, 10, dtype=torch.float64).view(5, 2),
}


def atoms() -> list[en.Energy]:
    torch.manual_seed(0)
    x, s = en.Real(3), en.Unit(2)
    found = [Bilinear("x", "s", x=x, s=s), Leak(x=x), Leak(s=s), Field(s=s)]
    torch.nn.init.normal_(found[-1].bias)
    return [energy.double() for energy in found]


ATOMS = atoms()
WHOLE = sum(ATOMS)  # so that both sides of a comparison have the same variables
assert isinstance(WHOLE, en.Energy)
energies = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, k: k * a, inner, st.floats(-3, 3)),
        st.builds(lambda a: -a, inner),
    ),
    max_leaves=3,
).map(lambda energy: energy + WHOLE)
numbers = st.floats(-3, 3)


def same(first: en.Energy, second: en.Energy) -> None:
    assert torch.allclose(first(STATE), second(STATE), rtol=1e-10, atol=1e-10)


@settings(max_examples=8)
@given(energies, energies)
def test_the_force_of_a_sum_is_that_of_its_scalar(a: en.Energy, b: en.Energy) -> None:
    """The same term occurs several times in such sums, and its parameters must come back from the trace."""
    for energy in (a + b, b - 2 * a):
        found, expected = traced_force(energy, STATE, ["s"]), autograd_force(energy, STATE, ["s"])
        assert torch.allclose(found["s"], expected["s"], rtol=1e-10, atol=1e-10)
    assert all(type(p) is nn.Parameter for p in (a + b).parameters())


@given(energies, energies)
def test_addition_commutes(a: en.Energy, b: en.Energy) -> None:
    same(a + b, b + a)


@given(energies, energies, energies)
def test_addition_associates(a: en.Energy, b: en.Energy, c: en.Energy) -> None:
    same((a + b) + c, a + (b + c))


@given(energies, energies, numbers, numbers)
def test_scaling_distributes(a: en.Energy, b: en.Energy, j: float, k: float) -> None:
    same(k * (a + b), k * a + k * b)
    same((j + k) * a, j * a + k * a)
    same(j * (k * a), (j * k) * a)


@given(energies)
def test_there_are_a_zero_and_inverses(a: en.Energy) -> None:
    same(1 * a, a)
    same(sum([a]), a)  # type: ignore[arg-type]
    same(a / 2, 0.5 * a)
    assert torch.allclose((a - a)(STATE), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose((a + -a)(STATE), (0 * a)(STATE), atol=1e-12)


@given(energies)
def test_the_terms_sum_to_the_energy(a: en.Energy) -> None:
    terms = a.terms(STATE)
    assert len(terms) == len(a.parts())
    assert torch.allclose(torch.stack(list(terms.values())).sum(0), a(STATE), rtol=1e-10, atol=1e-10)


def test_a_shared_variable_is_one_variable() -> None:
    both = Bilinear("x", "h", x=en.Real(3), h=en.Unit(2)) + Bilinear("h", "y", h=en.Unit(2), y=en.Real(4))
    assert dict(both.variables) == {"x": en.Real(3), "h": en.Unit(2), "y": en.Real(4)}


@pytest.mark.parametrize(
    "other", [en.Unit(3), en.Real(2), en.Unit(2, tau=2.0), en.Unit(2, link=en.Sigmoid())]
)
def test_contradicting_declarations_are_refused(other: en.Variable) -> None:
    with pytest.raises(en.StateError, match="'s'"):
        Field(s=en.Unit(2)) + Field(s=other)


@pytest.mark.parametrize("factor", ["2", None, torch.ones(2)], ids=["str", "None", "tensor"])
def test_only_numbers_scale(factor: object) -> None:
    with pytest.raises(TypeError):
        ATOMS[0] * factor  # type: ignore[operator]


def coupled(energy: en.Energy, x: Tensor, s: Tensor) -> Tensor:
    return 0.5 * (s - x).square().sum(1)


def test_a_conditioned_energy_stays_in_the_space() -> None:
    """|s - x|^2 / 2 + |s|^2 / 2 has its minimum at x / 2, for every x of the batch."""
    energy, x = Functional(coupled, x=en.Real(4), s=en.Real(4)), torch.randn(5, 4)
    held, leak = energy.condition(x=x), Leak(s=en.Real(4))
    for whole in (held + leak, leak + held, 2 * held - (-2) * leak, (held + leak) / 3):
        assert torch.allclose(en.settle(whole).state["s"], x / 2, atol=1e-5)
    assert torch.allclose((held + held)({"s": x + 1}), torch.full((5,), 4.0))


def test_a_sum_does_not_hold_and_free_a_variable() -> None:
    energy, x = Functional(coupled, x=en.Real(4), s=en.Real(4)), torch.randn(5, 4)
    with pytest.raises(en.StateError, match="'x'"):
        energy.condition(x=x) + energy
    with pytest.raises(en.StateError, match="'x'"):
        energy.condition(x=x) + energy.condition(x=x + 1)


@pytest.mark.parametrize("split", [("x",), ("s",), ("x", "s"), ()])
def test_conditioning_keeps_energy_and_force(split: tuple[str, ...]) -> None:
    clamp = {name: STATE[name] for name in split}
    rest = {name: value for name, value in STATE.items() if name not in split}
    held = WHOLE.condition(**clamp)
    assert set(held.variables) == set(rest)
    assert torch.allclose(held(rest), WHOLE(STATE))
    if rest:
        expected = autograd_force(WHOLE, STATE, list(rest))
        for name, value in held.force(rest, list(rest)).items():
            assert torch.allclose(value, expected[name])


def test_conditioning_in_steps_is_conditioning_at_once() -> None:
    x, s = STATE["x"], STATE["s"]
    step = WHOLE.condition(x=x).condition(s=s)
    assert torch.allclose(step({}), WHOLE(STATE))


@pytest.mark.parametrize("change", ["in place", "replaced", "data"])
def test_a_conditioned_energy_follows_its_parameters(change: str) -> None:
    energy = copy.deepcopy(ATOMS[0])
    assert isinstance(energy, Bilinear)
    held = energy.condition(x=STATE["x"])
    held.force({"s": STATE["s"]}, ["s"])
    if change == "in place":
        with torch.no_grad():
            energy.weight.mul_(3)
    elif change == "replaced":
        energy.weight = torch.nn.Parameter(3 * energy.weight.detach())
    else:
        energy.weight.data = 3 * energy.weight.data
    found = held.force({"s": STATE["s"]}, ["s"])["s"]
    assert torch.allclose(found, STATE["x"] @ energy.weight.detach().T)


def test_energies_survive_copies_pickles_and_state_dicts() -> None:
    model = en.models.LayeredHopfield([3, 4, 2])
    clamp = {"x": torch.randn(5, 3)}
    expected = en.settle(model, clamp=clamp).state["y"]
    twin = en.models.LayeredHopfield([3, 4, 2])
    twin.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), twin):
        assert torch.equal(en.settle(other, clamp=clamp).state["y"], expected)


def test_a_subclass_without_an_energy_says_so() -> None:
    class Empty(en.Energy):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define energy\(s\)"):
        Empty(s=en.Real(2))({"s": torch.zeros(1, 2)})
    with pytest.raises(TypeError, match="'s' must be declared by a Variable"):
        Empty(s=3)  # type: ignore[arg-type]
