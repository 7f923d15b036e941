"""Domains, and the one clear error for each kind of bad value."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import energynet as en
from energynet.state import merge
from energynet.variable import Unspecified

CPU = torch.device("cpu")


class Pair(en.Energy):
    """E = s.W x with x real and s in [0, 1]."""

    def __init__(self) -> None:
        super().__init__(x=en.Real(3), s=en.Unit(2))
        self.weight = nn.Parameter(torch.zeros(2, 3))

    def energy(self, x: Tensor, s: Tensor) -> Tensor:
        return -(s * (x @ self.weight.T)).sum(1)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, float(value))


BAD = {
    "name": ({"x": filled(0, 4, 3), "z": filled(0, 4, 2)}, ["'z'", "'x', 's'"]),
    "missing": ({"x": filled(0, 4, 3)}, ["'s'"]),
    "shape": ({"x": filled(0, 4, 2), "s": filled(0, 4, 2)}, ["'x'", "(batch, 3)", "(4, 2)"]),
    "no batch": ({"x": filled(0, 3), "s": filled(0, 4, 2)}, ["'x'", "(batch, 3)", "(3,)"]),
    "batch": ({"x": filled(0, 4, 3), "s": filled(0, 5, 2)}, ["'s'", "batch of 4", "5"]),
    "dtype": ({"x": filled(0, 4, 3).double(), "s": filled(0, 4, 2)}, ["'x'", "float32", "float64"]),
    "integers": ({"x": filled(0, 4, 3).long(), "s": filled(0, 4, 2)}, ["'x'", "float32", "int64"]),
    "booleans": ({"x": filled(0, 4, 3).bool(), "s": filled(0, 4, 2)}, ["'x'", "float", "bool"]),
    "device": ({"x": filled(0, 4, 3).to("meta"), "s": filled(0, 4, 2)}, ["'x'", "cpu", "meta"]),
    "above": ({"x": filled(0, 4, 3), "s": filled(1.5, 4, 2)}, ["'s'", "[0, 1]", "1.5"]),
    "below": ({"x": filled(0, 4, 3), "s": filled(-0.25, 4, 2)}, ["'s'", "[0, 1]", "-0.25"]),
    "nan": ({"x": filled(math.nan, 4, 3), "s": filled(0, 4, 2)}, ["'x'", "finite", "nan", "[0, 0]"]),
    "infinity": ({"x": filled(math.inf, 4, 3), "s": filled(0, 4, 2)}, ["'x'", "finite", "inf"]),
    "list": ({"x": [[0.0] * 3] * 4, "s": filled(0, 4, 2)}, ["'x'", "ensor", "list"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_states_name_the_variable_what_was_expected_and_what_came(kind: str) -> None:
    state, words = BAD[kind]
    with pytest.raises(en.StateError) as caught:
        Pair()(state)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("missing", "below", "above")])
def test_bad_clamps_are_refused_in_the_same_words(kind: str) -> None:
    state, words = BAD[kind]
    with pytest.raises(en.StateError) as caught:
        en.settle(Pair(), clamp=state)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", ["name", "shape", "dtype", "device", "above", "nan"])
def test_bad_starts_are_refused(kind: str) -> None:
    state, words = BAD[kind]
    with pytest.raises(en.StateError, match=re.escape(words[0])):
        en.settle(Pair(), state)  # type: ignore[arg-type]


def test_a_whole_model_on_the_meta_device_is_checked_by_shape() -> None:
    model = Pair().to("meta")
    model.check({"x": filled(0, 4, 3).to("meta"), "s": filled(0, 4, 2).to("meta")})
    with pytest.raises(en.StateError, match=r"expected device meta .* got cpu"):
        model.check({"x": filled(0, 4, 3)}, partial=True)


@pytest.mark.parametrize(
    ("variable", "inside", "outside"),
    [
        (en.NonNegative(1), [0.0, 1e30], [-1e-3]),
        (en.Unit(1), [0.0, 1.0], [-1e-3, 1.001]),
        (en.Interval(1, low=-2, high=3), [-2.0, 3.0], [-2.01, 3.01]),
        (en.Interval(1, low=-math.inf, high=3), [-1e30, 3.0], [3.01]),
        (en.Bit(1), [0.0, 1.0], [0.5, -1.0]),
        (en.Spin(1), [-1.0, 1.0], [0.0]),
        (en.Real(1), [-1e30, 1e30], []),
    ],
    ids=repr,
)
def test_domains_hold_their_ends_and_nothing_beyond(
    variable: en.Variable, inside: list[float], outside: list[float]
) -> None:
    variable.check("s", torch.tensor(inside).unsqueeze(1))
    for value in outside:
        with pytest.raises(en.StateError, match="'s'"):
            variable.check("s", torch.tensor([inside[0], value]).unsqueeze(1))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_projection_is_the_nearest_point_of_the_domain(values: list[float]) -> None:
    point = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
    for variable in (en.Real(1), en.NonNegative(1), en.Unit(1), en.Interval(1, low=-2, high=3)):
        projected = variable.project(point)
        variable.check("s", projected)
        ends = [max(v, variable.low) if v < variable.low else min(v, variable.high) for v in values]
        assert projected.squeeze(1).tolist() == ends


@pytest.mark.parametrize(
    "variable",
    [
        en.Real(2),
        en.NonNegative(2),
        en.Unit(2),
        en.Interval(2, low=1, high=2),
        en.Unit(2, link=en.Sigmoid()),
        en.Interval(2, low=-1, high=1, link=en.Tanh()),
        en.Bit(2),
        en.Spin(2),
    ],
    ids=repr,
)
def test_initial_values_are_in_the_domain_and_repeat_with_the_seed(variable: en.Variable) -> None:
    draws = [
        variable.initial(50, dtype=torch.float64, device=CPU, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    variable.check("s", draws[0])
    assert draws[0].dtype == torch.float64
    assert torch.equal(*draws)


def test_declarations_are_values() -> None:
    assert en.Unit(3) == en.Unit(3)
    assert hash(en.Unit(3)) == hash(en.Unit(3))
    different = [
        en.Unit(3), en.Unit(4), en.Unit(3, tau=2.0), en.Unit(3, link=en.Sigmoid()), en.Real(3), en.Bit(3),
        en.Interval(3, low=0, high=1), en.Interval(3, low=0, high=2),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_unspecified_gives_way_and_contradictions_are_refused() -> None:
    assert merge("y", Unspecified(), en.Unit(3)) == en.Unit(3)
    assert merge("y", en.Unit(3), Unspecified()) == en.Unit(3)
    with pytest.raises(en.StateError, match="'y'"):
        merge("y", en.Unit(3), en.Unit(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: en.Real(0),
        lambda: en.Real(2.5),  # type: ignore[arg-type]
        lambda: en.Real(3, tau=0.0),
        lambda: en.Real(3, tau=math.nan),
        lambda: en.Interval(3, low=1, high=1),
        lambda: en.Unit(3, link=en.Tanh()),
        lambda: en.NonNegative(3, link=en.Tanh()),
    ],
    ids=["zero", "fraction", "tau", "nan", "empty", "unit of tanh", "non-negative of tanh"],
)
def test_bad_declarations_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"got|outside"):
        make()


@pytest.mark.parametrize("link", [en.Sigmoid(), en.Tanh()], ids=repr)
def test_links_invert_and_their_integral_has_the_inverse_as_slope(link: en.Link) -> None:
    u = torch.linspace(-8, 8, 33, dtype=torch.float64)
    value = link.value(u).requires_grad_()
    assert torch.allclose(link.potential(value), u, rtol=1e-8)
    (slope,) = torch.autograd.grad(link.integral(value).sum(), value)
    shift = slope - u  # the integral is given up to a linear function
    assert torch.allclose(shift, shift[0].expand_as(shift), atol=1e-8)
    assert torch.isfinite(link.potential(torch.tensor([link.low, link.high]))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_ends_of_a_domain_are_those_of_the_dtype(dtype: torch.dtype) -> None:
    """0.4 in float32 is above 0.4: what is clipped to an end is still within the domain."""
    variable = en.Interval(2, low=-0.3, high=0.4)
    ends = variable.project(torch.tensor([[-1.0, 1.0]], dtype=dtype))
    variable.check("s", ends)
    beyond = torch.nextafter(ends, ends * 2)
    with pytest.raises(en.StateError, match=r"in \[-0.3, 0.4\]"):
        variable.check("s", beyond)


def mirrored(value: float, low: float, high: float) -> tuple[float, int]:
    """Reflect at one wall after the other until the value is between them."""
    turns = 0
    while not low <= value <= high:
        value = 2 * low - value if value < low else 2 * high - value
        turns += 1
    return value, turns


WALLED = [
    en.NonNegative(1),
    en.Unit(1),
    en.Interval(1, low=-2, high=3),
    en.Interval(1, low=-math.inf, high=0.7),
    en.Interval(1, low=0.3, high=math.inf),
]


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=6), st.sampled_from(WALLED))
def test_walls_reflect_as_often_as_it_takes(values: list[float], variable: en.variable.Continuous) -> None:
    folded, sign = variable.reflect(torch.tensor(values, dtype=torch.float64).unsqueeze(1))
    assert sign is not None
    variable.check("s", folded)
    for found, turn, value in zip(folded.squeeze(1).tolist(), sign.squeeze(1).tolist(), values, strict=True):
        expected, turns = mirrored(value, variable.low, variable.high)
        assert found == pytest.approx(expected, abs=1e-9)
        near = min(abs(expected - variable.low), abs(expected - variable.high)) < 1e-9
        assert turn == (-1) ** turns or near  # on a wall either side of a reflection is right


def test_without_a_wall_nothing_reflects() -> None:
    value = torch.tensor([[1e9]])
    assert en.Real(1).reflect(value) == (value, None)
