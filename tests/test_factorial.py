"""Independent units: their means against enumeration, draws, entropy, and when there is no such law."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from scipy.stats import entropy as reference
from torch import Tensor

import energynet as en
from energynet.factorial import check_means, drawn, entropy, factorial
from energynet.terms import Bilinear, Coupling, Field
from helpers.functional import Functional
from helpers.machines import F64, frequencies, randomised, restricted, states, surprise

LEVEL = 1e-6


def machine(hidden: en.Variable) -> en.Energy:
    v = en.Bit(3)
    return randomised(Bilinear("v", "h", v=v, h=hidden) + 2.0 * Field(h=hidden) + Field(v=v))


@pytest.mark.parametrize("hidden", [en.Bit(2), en.Spin(2, 2), en.OneHot(3), en.OneHot(2, 3)], ids=repr)
def test_means_and_free_energy_are_those_of_enumeration(hidden: en.Variable) -> None:
    energy, v = machine(hidden), states(3)
    law = factorial(energy, ["h"], {"v": v})
    assert law is not None
    with torch.no_grad():
        means = law.means()
        exact = en.exact.moments(energy, clamp={"v": v})
        assert torch.allclose(means["h"], exact.mean["h"], atol=1e-12)
        at = energy.energy(v=v, **means)
        assert torch.allclose(entropy(energy.variables, means, at) - at, exact.log_partition, atol=1e-12)


def test_it_follows_the_parameters_and_the_energy() -> None:
    rbm, v = restricted(3, 2), states(3)

    def means() -> Tensor:
        law = factorial(rbm, ["h"], {"v": v})
        assert law is not None
        with torch.no_grad():
            return law.means()["h"]

    for _ in range(2):
        assert torch.allclose(means(), torch.sigmoid(v @ rbm.weight.T + rbm.hidden_bias))
        with torch.no_grad():
            rbm.weight.mul_(-0.5)
    scaled = 1.0 * restricted(3, 2)
    assert factorial(scaled, ["h"], {"v": v}) is not None
    scaled.factor = 3.0  # type: ignore[assignment]
    law = factorial(scaled, ["h"], {"v": v})
    assert law is not None
    base = restricted(3, 2)
    expected = torch.sigmoid(3 * (v @ base.weight.T + base.hidden_bias))
    with torch.no_grad():
        assert torch.allclose(law.means()["h"], expected)
    for twin in (copy.deepcopy(rbm), pickle.loads(pickle.dumps(rbm))):
        again = factorial(twin, ["h"], {"v": v})
        assert again is not None
        with torch.no_grad():
            assert torch.equal(again.means()["h"], means())


def test_there_is_none_where_units_depend_on_each_other_or_on_themselves() -> None:
    v, bits = states(3), {"v": en.Bit(3), "h": en.Bit(2), "g": en.Bit(2)}
    coupled = Bilinear("v", "h", v=bits["v"], h=bits["h"]) + Coupling(h=bits["h"])
    between = Bilinear("v", "h", v=bits["v"], h=bits["h"]) + Bilinear("h", "g", h=bits["h"], g=bits["g"])
    square = Functional(
        lambda e, v, h: (h.square() * e.w).sum(1) + (h * v[:, :2]).sum(1), {"w": torch.ones(2)}, v=en.Bit(3), h=en.Bit(2)
    )  # fmt: skip
    real = Bilinear("v", "h", v=bits["v"], h=en.Real(2))
    for energy, free in ((coupled, ["h"]), (between, ["h", "g"]), (square, ["h"]), (real, ["h"])):
        assert factorial(randomised(energy), free, {"v": v}) is None
    assert factorial(randomised(coupled), [], {"v": v}) is None
    jumps = (
        lambda e, v, h: ((h > 0.5).to(h.dtype) * v[:, :2]).sum(1),
        lambda e, v, h: ((h.round() + h) * v[:, :2]).sum(1),
        lambda e, v, h: (h * v[:, :2]).sum(1) + (h.sum(1) > 1.5).to(h.dtype),
    )
    for jump in jumps:  # of which the force tells nothing
        assert factorial(Functional(jump, v=en.Bit(3), h=en.Bit(2)), ["h"], {"v": v}) is None
    given = {"v": v, "g": states(2).repeat(2, 1)}
    assert factorial(randomised(between), ["h"], given) is not None


def test_draws_have_the_means() -> None:
    means = {
        "b": torch.tensor([0.0, 0.3, 1.0], dtype=F64).expand(40_000, 3),
        "s": torch.tensor([-1.0, -0.2, 1.0], dtype=F64).expand(40_000, 3),
        "c": torch.tensor([[0.2, 0.0, 0.8], [0.0, 0.0, 1.0]], dtype=F64).expand(40_000, 2, 3),
        "x": torch.rand(40_000, 1, dtype=F64),
    }
    variables = {"b": en.Bit(3), "s": en.Spin(3), "c": en.OneHot(2, 3), "x": en.Real(1)}
    found = drawn(variables, means, torch.Generator().manual_seed(0))
    for name, variable in variables.items():
        variable.check(name, found[name])
    assert torch.equal(found["x"], means["x"])
    law = torch.zeros(8, dtype=F64)
    law[[1, 3]] = torch.tensor([0.7, 0.3], dtype=F64)
    for name, values in (("b", (0.0, 1.0)), ("s", (-1.0, 1.0))):
        law[1], law[3] = (0.7, 0.3) if name == "b" else (0.6, 0.4)
        counts = frequencies(found[name], values)
        assert not counts[law == 0].any()
        assert surprise(counts[law > 0], law[law > 0]) > LEVEL / 3
    first = found["c"][:, 0].sum(0)
    assert first[1] == 0
    assert surprise(first[[0, 2]], torch.tensor([0.2, 0.8], dtype=F64)) > LEVEL / 3
    assert found["c"][:, 1, 2].all()


def test_entropy_is_that_of_scipy() -> None:
    p = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.75, 0.1]], dtype=F64)
    c = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=F64)
    pairs = [sum(float(reference([float(q), 1 - float(q)])) for q in row) for row in p]
    like = torch.zeros(2, dtype=F64)
    for variable, means in ((en.Bit(3), p), (en.Spin(3), 2 * p - 1)):
        assert entropy({"b": variable}, {"b": means}, like).tolist() == pytest.approx(pairs, abs=1e-12)
    choices = [float(reference(row.tolist())) for row in c]
    assert entropy({"c": en.OneHot(3)}, {"c": c}, like).tolist() == pytest.approx(choices, abs=1e-12)
    assert entropy({"x": en.Real(3)}, {"x": p}, like).tolist() == [0.0, 0.0]


def test_means_are_checked_but_for_being_values() -> None:
    rbm = restricted(3, 2)
    check_means(rbm, {"v": torch.full((2, 3), 0.3, dtype=F64)})
    for wrong, message in (
        (torch.full((2, 3), 1.3, dtype=F64), "from 1.3 to 1.3"),
        (torch.full((2, 4), 0.3, dtype=F64), "expected shape"),
        (torch.full((2, 3), float("nan"), dtype=F64), "finite"),
        (torch.zeros(2, 3), "dtype"),
    ):
        with pytest.raises(en.StateError, match=message):
            check_means(rbm, {"v": wrong})


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_means_of_choices_have_the_sum_one(dtype: torch.dtype) -> None:
    energy = Field(c=en.OneHot(2, 3)).to(dtype)
    thirds = torch.full((4, 2, 3), 1 / 3, dtype=dtype)
    check_means(energy, {"c": thirds})
    check_means(energy, {"c": thirds[:0]})
    for wrong in (torch.zeros_like(thirds), torch.ones_like(thirds), thirds * 0.99):
        with pytest.raises(en.StateError, match="with the sum 1"):
            check_means(energy, {"c": wrong})
