"""What every sampler of continuous variables does alike: laws at walls and through links, clamps, seeds."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

import energynet as en
from helpers.chains import F64, check_law, fed, flow_of
from helpers.functional import Functional

# Each with the steps after which a chain on [0, 1] has forgotten where it began. Those that have a bias take
# steps so small that it stays below what 4000 chains can tell, about 0.04 of probability.
CHAINS: dict[str, tuple[Any, int]] = {
    "Langevin": (lambda **k: en.Langevin(0.002, **k), 700),
    "Underdamped": (lambda **k: en.Underdamped(0.05, 3.0, **k), 120),
    "MALA": (lambda **k: en.MALA(0.04, **k), 80),
    "HMC": (lambda **k: en.HamiltonianMonteCarlo(0.2, 3, **k), 40),
}
HEAT = 0.7
LINKED: dict[str, tuple[Any, int]] = {
    "Langevin": (en.Langevin(0.05, HEAT), 400),
    "Underdamped": (en.Underdamped(0.4, 1.0, HEAT), 80),
    "MALA": (en.MALA(0.5, HEAT), 100),
    "HMC": (en.HamiltonianMonteCarlo(0.9, 3, HEAT), 30),
}


EVEN = Functional(lambda e, a: 0.0 * a, a=en.Interval(low=-0.25, high=0.75))
LINEAR = {tau: Functional(lambda e, a: 2 * a, a=en.Unit(tau=tau)) for tau in (1.0, 2.0)}
CURVED = Functional(lambda e, a: 2 * a, a=en.Unit(link=en.Sigmoid()))
PAIR = [
    Functional(lambda e, a: 2 * a[:, 0] * a[:, 1], a=en.Unit(2, link=link)) for link in (None, en.Sigmoid())
]
KINK = en.terms.Sparsity(4.0, a=en.Interval(low=-math.inf, high=0.5))
WALL = {
    "above": (Functional(lambda e, a: 5 * a, a=en.NonNegative()), (0.0, 4.0)),
    "below": (Functional(lambda e, a: -5 * a, a=en.Interval(low=-math.inf, high=0.0)), (-4.0, 0.0)),
}


def sampled(chain: str, energy: en.Energy, start: float, *, scale: float = 1.0, **more: Any) -> torch.Tensor:
    make, steps = CHAINS[chain]
    return en.settle(
        energy,
        {"a": torch.full((4000,), start, dtype=F64)},
        solver=make(temperature=HEAT),
        max_steps=round(steps * scale),
        generator=torch.Generator().manual_seed(7),
        **more,
    ).state["a"]


@pytest.mark.parametrize("chain", CHAINS)
def test_without_a_force_a_box_fills_evenly(chain: str) -> None:
    check_law(sampled(chain, EVEN, 0.7), lambda a: 1.0, -0.25, 0.75)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("chain", CHAINS)
def test_between_two_walls(chain: str, tau: float) -> None:
    """Time constants change how fast, not where."""
    check_law(sampled(chain, LINEAR[tau], 0.9, scale=tau), lambda a: math.exp(-2 * a / HEAT), 0.0, 1.0)


@pytest.mark.parametrize("side", WALL)
@pytest.mark.parametrize("chain", CHAINS)
def test_at_one_wall_the_law_is_exponential(chain: str, side: str) -> None:
    energy, ends = WALL[side]
    check_law(sampled(chain, energy, 0.0), lambda a: math.exp(-5 * abs(a) / HEAT), *ends)


@pytest.mark.parametrize("chain", LINKED)
def test_through_a_link_the_law_is_that_of_values(chain: str) -> None:
    """Without the volume it would be exp(-2 a / T) / (a (1 - a)), all of it at the ends."""
    sampler, steps = LINKED[chain]
    found = en.settle(
        CURVED,
        {"a": torch.full((4000,), 0.5, dtype=F64)},
        solver=sampler,
        max_steps=steps,
        generator=torch.Generator().manual_seed(8),
    )
    check_law(found.state["a"], lambda a: math.exp(-2 * a / HEAT), 0.0, 1.0)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("link", [None, en.Sigmoid()], ids=["wall", "link"])
def test_held_entries_stay_and_the_others_move_as_if_they_were_data(chain: str, link: Any) -> None:
    """The law of the rest given the held part: with E = 2 a0 a1 it is exponential of rate 2 a1 / T."""
    energy = PAIR[link is not None]
    value = torch.full((3000, 2), math.nan, dtype=F64)
    value[:, 1] = 0.7
    make, steps = CHAINS[chain]
    sampler, steps = (make(temperature=HEAT), steps) if link is None else LINKED[chain]
    found = en.settle(
        energy,
        clamp={"a": en.Partial(value, torch.tensor([[False, True]]))},
        solver=sampler,
        max_steps=steps,
        generator=torch.Generator().manual_seed(9),
    )
    assert found.state["a"][:, 1].eq(0.7).all()
    assert torch.equal(found.point["a"][:, 1], found.flow.start["a"][:, 1])
    check_law(found.state["a"][:, 0], lambda a: math.exp(-1.4 * a / HEAT), 0.0, 1.0)


@functools.cache
def two() -> Functional:
    return Functional(
        lambda e, x, a: x.pow(4).sum(1) + (x.sum(1) - 1) * a.cos().sum(1),
        x=en.Real(3, tau=0.5),
        a=en.Unit(2),
    )


@pytest.mark.parametrize("chain", CHAINS)
def test_a_seed_is_a_run(chain: str) -> None:
    def run(seed: int) -> torch.Tensor:
        state = {"x": torch.zeros(4, 3), "a": torch.full((4, 2), 0.5)}
        solution = en.settle(
            two(),
            state,
            solver=CHAINS[chain][0](),
            max_steps=7,
            generator=torch.Generator().manual_seed(seed),
        )
        assert bool((state["x"] == 0).all())
        return torch.cat([solution.state["x"], solution.state["a"]], 1)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("each", [False, True], ids=["one temperature", "each its own"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_does_not_depend_on_its_companions(chain: str, each: bool) -> None:
    """Rows of a batch, one with NaN among them, against chains by themselves; several steps with one carry."""
    sampler = CHAINS[chain][0]()
    generator = torch.Generator().manual_seed(2)
    state = {
        "x": torch.randn(3, 3, generator=generator, dtype=F64),
        "a": torch.rand(3, 2, generator=generator, dtype=F64),
    }
    heat = torch.tensor([0.5, 1.0, 2.0], dtype=F64) if each else 1.0
    draws = [
        [torch.randn(3, n, generator=generator, dtype=F64) for n in (3, 2)]
        + ([torch.rand(3, generator=generator, dtype=F64)] if chain in ("MALA", "HMC") else [])
        for _ in range(3)
    ]
    kept = [[n.clone() for n in numbers] for numbers in draws]

    def run(rows: slice, *, broken: bool) -> torch.Tensor:
        flow = flow_of(sampler, two(), **{n: v[rows] for n, v in state.items()})
        now, carry = dict(flow.start), None
        if broken:
            now["x"] = now["x"].index_fill(0, torch.tensor([1]), float("nan"))
        for numbers in draws:
            t: Any = heat[rows] if isinstance(heat, torch.Tensor) else heat
            now, carry = fed(sampler, flow, [n[rows] for n in numbers], carry=carry, temperature=t, state=now)
        return torch.cat([now["x"], now["a"]], 1)

    whole = run(slice(None), broken=False)
    spoilt = run(slice(None), broken=True)
    assert torch.equal(whole[[0, 2]], spoilt[[0, 2]])
    alone = torch.cat([run(slice(i, i + 1), broken=False) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-13, atol=1e-13)
    assert all(
        torch.equal(a, b)
        for left, right in zip(kept, draws, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("chain", CHAINS)
def test_many_steps_at_once_are_single_steps(chain: str) -> None:
    sampler = CHAINS[chain][0]()
    start = {"x": torch.full((4, 3), 0.3, dtype=F64), "a": torch.full((4, 2), 0.5, dtype=F64)}
    flow = flow_of(sampler, two(), **start)
    with torch.no_grad():
        ends = []
        for lengths in ([5], [1] * 5):
            state, carry, residual = flow.start, sampler.init(flow, flow.start), torch.empty(0)
            generator = torch.Generator().manual_seed(0)
            for length in lengths:
                state, carry, residual = sampler.advance(flow, state, carry, generator, length)
            ends.append(torch.cat([state["x"], state["a"], residual.unsqueeze(1)], 1))
    assert torch.equal(*ends)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_term_with_a_kink_is_sampled_too(chain: str) -> None:
    """The Laplace law, on a line cut at 0.5 on one side."""
    sample = sampled(chain, KINK, 0.0, scale=2.0)
    check_law(sample, lambda a: math.exp(-4 * abs(a) / HEAT), -4.0, 0.5)


@pytest.mark.parametrize("chain", CHAINS)
def test_what_cannot_be_sampled_is_refused(chain: str) -> None:
    sampler = CHAINS[chain][0]()
    bits = Functional(lambda e, b: b.sum(1), b=en.Bit(3))
    with pytest.raises(en.SettlingError, match=r"cannot move 'b', which is Bit\(3\).*Gibbs"):
        en.settle(bits, {"b": torch.zeros(2, 3)}, solver=sampler)
    sparse = Functional(lambda e, a: a.sum(1), a=en.Real(3, link=en.SoftThreshold(0.1)))
    with pytest.raises(en.SettlingError, match=r"SoftThreshold.*whole interval.*without a link"):
        en.settle(sparse, {"a": torch.zeros(2, 3)}, solver=sampler)
    plain = Functional(lambda e, a: a.square().sum(1), a=en.Real(3))
    other = en.Euler(0.1).flow(plain, None, {"a": torch.zeros(2, 3)})
    with pytest.raises(en.SettlingError, match=r"samples along a LiftedFlow, got a GradientFlow"):
        sampler.step(other, other.start, sampler.init(other, other.start), None)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, "1"])
def test_temperatures_are_numbers_from_zero_up(chain: str, temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature must be a"):
        CHAINS[chain][0](temperature=temperature)


@pytest.mark.parametrize("make", [en.Langevin, en.MALA, lambda d: en.HamiltonianMonteCarlo(d, 2),
                                  lambda d: en.Underdamped(d, 1.0), lambda d: en.Underdamped(0.1, d)])  # fmt: skip
def test_steps_and_frictions_are_positive(make: Any) -> None:
    for number in (0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"(dt|friction) must be a positive number"):
            make(number)
