"""Samplers of choices among categories: fields, transition matrices and samples by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import energynet as en
from energynet.conditional import Kind
from helpers.discrete import F64, boltzmann, noise
from helpers.functional import Functional
from helpers.mixed import all_states, mixed, places

FALSE_ALARM = 1e-6  # of each test
CHAINS = 20_000
DISCRETE = ["softmax", "potts", "cube"]
KINDS = {
    "softmax": {"v": Kind.SEPARATE, "h": Kind.SEPARATE},
    "potts": {"s": Kind.COUPLED},
    "cube": {"s": Kind.OTHER, "t": Kind.COUPLED},
    "means": {"s": Kind.COUPLED},
}


def clamped(name: str) -> dict[str, torch.Tensor]:
    return {"x": noise(1, 2, seed=5).expand(4, -1)} if name == "means" else {}


def chi_square(found: np.ndarray, expected: np.ndarray) -> None:
    rare = expected < 10
    if rare.any():
        found = np.append(found[~rare], found[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    assert found[~kept].sum() == 0
    statistic = ((found[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert statistic < chi2.isf(FALSE_ALARM, max(1, kept.sum() - 1))


def units(energy: en.Energy) -> list[tuple[str, int]]:
    """The units of a sweep, in the order of declaration."""
    found = []
    for name, variable in energy.variables.items():
        outer = variable.shape[:-1] if isinstance(variable, en.OneHot) else variable.shape
        found += [(name, place) for place in range(int(np.prod(outer)))]
    return found


def conditional(energy: en.Energy, name: str, place: int, temperature: float) -> np.ndarray:
    """The transition matrix of drawing one unit anew, from the energies of all states."""
    states = all_states(energy)
    value = energy.energy(**states).detach().numpy()
    size = energy.variables[name].shape[-1] if isinstance(energy.variables[name], en.OneHot) else 1
    rest = []
    for other, tensor in states.items():
        flat = tensor.flatten(1).clone()
        if other == name:
            flat[:, place * size : (place + 1) * size] = 0
        rest.append(flat)
    rows = torch.cat(rest, 1)
    same = (rows.unsqueeze(1) == rows).all(2).numpy()
    weights = np.exp(-(value - value.min()) / temperature) * same
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("name", KINDS)
def test_the_trace_tells_how_choices_may_be_updated(name: str) -> None:
    flow = en.ConditionalFlow(mixed(name), clamped(name))
    assert {n: flow.kind(n) for n in flow.names} == KINDS[name]


@pytest.mark.parametrize("name", KINDS)
def test_fields_are_differences_of_energies(name: str) -> None:
    energy = mixed(name)
    state = {**clamped(name), **all_states(energy, [n for n in energy.variables if n != "x"])}
    flow = en.ConditionalFlow(energy, {n: state[n] for n in clamped(name)}, state)
    fields, released = flow.fields(flow.start), flow.velocity(flow.start)
    now = energy.energy(**state)
    largest = torch.zeros(len(now), dtype=F64)
    for variable, place in units(energy):
        if not isinstance(energy.variables[variable], en.OneHot):
            continue
        size = energy.variables[variable].shape[-1]
        here = slice(place * size, (place + 1) * size)
        energies = []
        for row in torch.eye(size, dtype=F64):
            flat = state[variable].flatten(1).clone()
            flat[:, here] = row
            energies.append(energy.energy(**{**state, variable: flat.reshape(state[variable].shape)}))
        gained = now.unsqueeze(1) - torch.stack(energies, 1)
        assert torch.allclose(released[variable].flatten(1)[:, here], gained, rtol=0, atol=1e-12)
        field = fields[variable].flatten(1)[:, here]
        assert torch.allclose(field - field[:, :1], gained - gained[:, :1], rtol=0, atol=1e-12)
        largest = torch.maximum(largest, gained.amax(1))
    if name in ("potts", "means"):
        found = flow.residual(flow.start, released)
        assert torch.allclose(found, torch.where(largest < 1e-13, 0.0, largest), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scan", ["systematic", "block"])
@pytest.mark.parametrize("name", DISCRETE)
def test_a_sweep_is_the_product_of_single_draws(name: str, scan: str) -> None:
    """By counting where chains go from each state; a block sweep of these has the systematic order."""
    energy = mixed(name)
    states = all_states(energy)
    count = len(next(iter(states.values())))
    exact = np.eye(count)
    for unit in units(energy):
        exact = exact @ conditional(energy, *unit, 0.7)
    chosen = np.random.default_rng(0).choice(count, 5, replace=False)
    start = {n: v[torch.from_numpy(chosen)].repeat_interleave(CHAINS, 0) for n, v in states.items()}
    end = en.settle(
        energy,
        start,
        solver=en.Gibbs(0.7, scan=scan),
        max_steps=1,
        generator=torch.Generator().manual_seed(1),
    )
    for state, found in zip(chosen, places(states, end.state).reshape(5, CHAINS), strict=True):
        chi_square(np.bincount(found, minlength=count), CHAINS * exact[state])


SOLVERS = {
    "Gibbs": en.Gibbs(0.8),
    "Gibbs block": en.Gibbs(0.8, scan="block"),
    "Glauber": en.Glauber(0.8),
    "Annealed": en.Annealed(en.Gibbs(), [3.0, 0.8]),
    "ParallelTempering": en.ParallelTempering(en.Gibbs(), [0.8, 2.0]),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", DISCRETE)
def test_samples_have_the_enumerated_distribution(name: str, solver: str) -> None:
    energy = mixed(name)
    states = all_states(energy)
    expected = boltzmann(energy.energy(**states).detach().numpy(), 0.8)
    start = {n: v[:1].expand(CHAINS, *v.shape[1:]) for n, v in states.items()}
    generator = torch.Generator().manual_seed(2)
    end = en.settle(energy, start, solver=SOLVERS[solver], max_steps=25, generator=generator)
    energy.check(end.state)
    chi_square(np.bincount(places(states, end.state), minlength=len(expected)), CHAINS * expected)


def test_every_sample_has_the_temperature_that_it_is_given() -> None:
    energy = mixed("softmax")
    states = all_states(energy)
    value = energy.energy(**states).detach().numpy()
    sampler = en.Gibbs()
    flow = sampler.flow(energy, None, {n: v[:1].expand(2 * CHAINS, *v.shape[1:]) for n, v in states.items()})
    heat = torch.tensor([0.0, 1.5], dtype=F64).repeat(CHAINS)
    state, carry = flow.start, sampler.init(flow, flow.start)
    generator = torch.Generator().manual_seed(3)
    released = torch.empty(0)
    for _ in range(25):
        state, carry, released = sampler.sample(flow, state, carry, generator, heat)
        assert released.isfinite().all()
    found = places(states, {n: v[1::2] for n, v in state.items()})
    chi_square(np.bincount(found, minlength=len(value)), CHAINS * boltzmann(value, 1.5))
    cold = {n: v[::2] for n, v in state.items()}
    rest = en.ConditionalFlow(energy, None, cold)
    assert (rest.residual(cold, rest.velocity(cold)) == 0).all()
    assert (released[::2] == 0).all()


def test_a_choice_goes_to_the_lowest_energy_and_stays_where_there_is_a_tie() -> None:
    weights = torch.tensor([0.0, 2.0, 2.0, -1.0], dtype=F64)
    energy = Functional(lambda e, s: -(s @ e.b), {"b": weights}, s=en.OneHot(4))
    start = {"s": torch.eye(4, dtype=F64)}
    for solver in (en.Glauber(), en.Gibbs(0.0), en.Synchronous()):
        end = en.settle(energy, start, solver=solver, until=en.Stationary(atol=0.0))
        assert end.state["s"].argmax(1).tolist() == [1, 1, 2, 1]
        assert (end.status == en.Status.CONVERGED).all()
    nearest = en.settle(mixed("means"), clamp={"x": noise(50, 2, seed=8)})  # Glauber at T = 0 by default
    distance = torch.cdist(nearest.state["x"], mixed("means").C.detach())
    assert torch.equal(nearest.state["s"].argmax(1), distance.argmin(1))


@pytest.mark.parametrize("name", DISCRETE)
def test_descent_never_rises_and_ends_at_rest(name: str) -> None:
    energy = mixed(name)
    states = all_states(energy)
    end = en.settle(energy, states, record="energy", generator=torch.Generator().manual_seed(4), max_steps=50)
    assert (end.status == en.Status.CONVERGED).all()
    assert (end.trajectory.diff(dim=0) <= 1e-12).all()
    with torch.no_grad():
        flow = en.ConditionalFlow(energy, None, end.state)
        assert max(float(v.max()) for v in flow.velocity(flow.start).values()) < 1e-12


@pytest.mark.parametrize("name", ["softmax", "potts", "cube"])
def test_held_choices_stay_and_the_others_have_their_conditional_law(name: str) -> None:
    energy = mixed(name)
    states = all_states(energy)
    held = next(iter(states))
    mask = torch.zeros(energy.variables[held].shape, dtype=torch.bool)
    mask[0] = True
    value = states[held][-1:].expand(CHAINS, *states[held].shape[1:])
    generator = torch.Generator().manual_seed(6)
    start = {n: v[:1].expand(CHAINS, *v.shape[1:]) for n, v in states.items()}
    clamp = {held: en.Partial(value, mask)}
    end = en.settle(energy, start, clamp=clamp, solver=en.Gibbs(), max_steps=25, generator=generator)
    assert torch.equal(end.state[held][:, 0], value[:, 0])
    allowed = (states[held][:, 0] == value[0, 0]).all(1).numpy()
    weights = boltzmann(energy.energy(**states).detach().numpy()) * allowed
    found = np.bincount(places(states, end.state), minlength=len(weights))
    chi_square(found, CHAINS * weights / weights.sum())
    flow = en.ConditionalFlow(energy, clamp, start)
    assert (flow.velocity(flow.start)[held][:, 0] == 0).all()


def test_units_that_change_are_counted_once() -> None:
    energy = Functional(lambda e, s: 0 * s.sum((1, 2)), {"b": torch.zeros(1, dtype=F64)}, s=en.OneHot(5, 4))
    start = {"s": torch.eye(4, dtype=F64)[torch.zeros(CHAINS, 5, dtype=torch.long)]}
    generator = torch.Generator().manual_seed(7)
    end = en.settle(energy, start, solver=en.Gibbs(), max_steps=4, generator=generator)
    # a draw differs from what was there with probability 3/4; 20 draws a chain
    error = 5 * (3 / 16 / (20 * CHAINS)) ** 0.5
    assert end.statistics["flips"].mean().item() == pytest.approx(0.75, abs=error)


def test_random_scan_and_clamps_of_half_a_choice_are_refused() -> None:
    with pytest.raises(en.SettlingError, match=r"scan='random'.*'v' is OneHot\(2, 3\).*systematic"):
        en.settle(mixed("softmax"), solver=en.Gibbs(scan="random"))
    value = torch.eye(3, dtype=F64)[:2].unsqueeze(0)
    half = en.Partial(value, torch.tensor([True, False, True]))
    with pytest.raises(en.StateError, match=r"'v'.*all entries of a unit of OneHot\(2, 3\) or none"):
        en.settle(mixed("softmax"), clamp={"v": half})
