"""Dynamic Boltzmann machines against sums over the whole past, enumeration and autograd."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import energynet as en
from energynet.models import traces
from energynet.models.dynamic import Dynamic
from helpers import past as by_definition

F64 = torch.float64
Machine = en.models.DynamicBoltzmannMachine
NEURAL, SYNAPTIC = (0.3, 0.8), (0.25, 0.5, 0.9)
QUEUES = sorted(by_definition.WEIGHTS)


def spikes(ticks: int, n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (ticks, n), generator=torch.Generator().manual_seed(seed), dtype=F64)


def machine(n: int = 3, longest: int = 4, seed: int = 0, **settings: Any) -> Machine:
    generator = torch.Generator().manual_seed(seed)
    delays = torch.randint(1, longest + 1, (n, n), generator=generator)
    model = Machine(n, delays, NEURAL, SYNAPTIC, generator=generator, **settings).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


def fields_by_definition(model: Dynamic, past: Tensor) -> Tensor:
    """The field on each neuron for the tick after the past, with gradients."""
    made = model.traces
    delays, settings_of = made.delays.tolist(), (made.synaptic_decays, made.neural_decays, made.order)
    return torch.stack(by_definition.field(past.tolist(), delays, *settings_of, model.b, model.u, model.v))


def test_a_state_dict_holds_all_that_tells_the_law_of_the_next_tick(tmp_path: Path) -> None:
    model = machine(queue="oldest").observe(spikes(9, 3))
    torch.save(model.state_dict(), tmp_path / "machine.pt")
    delays = torch.full((3, 3), int(model.traces.delays.max()))
    other = Machine(3, delays, (0.5, 0.6), (0.1, 0.2, 0.3)).double()
    other.load_state_dict(torch.load(tmp_path / "machine.pt", weights_only=True))
    assert (other.traces.neural_decays, other.traces.synaptic_decays) == (NEURAL, SYNAPTIC)
    after = spikes(5, 3, 1)
    assert torch.equal(other.log_likelihood(after), model.log_likelihood(after))


def test_the_orders_of_the_queue_are_all_there() -> None:
    assert sorted(traces.QUEUES) == QUEUES


@settings(max_examples=60)
@given(st.data())
def test_traces_are_sums_over_the_whole_past(data: st.DataObject) -> None:
    n, ticks = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 9))
    delays = data.draw(st.lists(st.lists(st.integers(1, 4), min_size=n, max_size=n), min_size=n, max_size=n))
    decay = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3)
    neural, synaptic = data.draw(decay), data.draw(decay)
    queue = data.draw(st.sampled_from(QUEUES))
    model = Machine(n, delays, neural, synaptic, queue=queue).double()
    past = spikes(ticks, n, data.draw(st.integers(0, 99)))
    for part in past.split(data.draw(st.integers(1, 5))) if ticks else ():
        model.observe(part)
    seen = past.tolist()
    for i in range(n):
        expected = [by_definition.gamma(seen, i, decay) for decay in neural]
        assert model.gamma[i].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        for j, d in enumerate(delays[i]):
            expected = [by_definition.alpha(seen, i, d, decay) for decay in synaptic]
            assert model.alpha[i, j].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            expected = [by_definition.beta(seen, i, d, decay, queue) for decay in neural]
            assert model.beta[i, j].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_spike_waits_in_the_queue_and_then_arrives() -> None:
    """By hand: one spike of neuron 0, delays of 1 and 3, mu = 1/4, lambda = 1/2."""
    model = Machine(2, [[1, 3], [1, 1]], [0.25], [0.5]).double()
    seen = []
    model.observe(torch.tensor([[1.0, 0.0]], dtype=F64))
    for _ in range(4):
        seen.append([*model.alpha[0, :, 0].tolist(), *model.beta[0, :, 0].tolist(), model.gamma[0, 0].item()])
        model.observe(torch.zeros(1, 2, dtype=F64))
    assert seen == [  # alpha over the delay of 1 and over that of 3, beta likewise, gamma
        [1 / 2, 0, 0, 1 / 4, 1 / 4],
        [1 / 4, 0, 0, 1 / 16, 1 / 16],
        [1 / 8, 1 / 2, 0, 0, 1 / 64],
        [1 / 16, 1 / 4, 0, 0, 1 / 256],
    ]


@pytest.mark.parametrize(
    ("queue", "expected"),  # of an axon of delay 4, mu = 1/2, and the newest, next and oldest in its queue
    [
        ("newest", [1 / 2, 1 / 4, 1 / 8]),
        ("oldest", [1 / 8, 1 / 4, 1 / 2]),
        ("printed", [2, 4, 8]),
        ("program", [8, 4, 2]),
    ],
)
def test_the_orders_of_the_queue(queue: str, expected: list[float]) -> None:
    found = []
    for age in range(1, 4):
        model = Machine(1, 4, [0.5], [0.5], queue=queue).double()
        model.observe(torch.eye(age, dtype=F64)[:, :1])  # a spike first, then silence
        found.append(model.beta.item())
    assert found == expected


@pytest.mark.parametrize("queue", QUEUES)
def test_energy_and_conditional_by_enumeration(queue: str) -> None:
    model = machine(queue=queue, temperature=0.7)
    past = spikes(9, 3, 1)
    model.observe(past)
    field = fields_by_definition(model, past)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 3)
    assert torch.allclose(model({"x": states}), -states @ field, rtol=0, atol=1e-12)
    truth = en.exact.distribution(model, temperature=0.7)
    for state, probability in zip(truth.states["x"], truth.probabilities[0], strict=True):
        one = copy.deepcopy(model).log_likelihood(state.unsqueeze(0))
        assert one.exp().item() == pytest.approx(probability.item(), rel=1e-12)


def test_log_likelihood_is_that_of_each_tick_and_the_traces_run_on() -> None:
    model = machine(temperature=1.3)
    sequence = spikes(70, 3, 2)  # longer than what is worked out at once
    found = model.log_likelihood(sequence)
    expected = []
    for t in (0, 1, 5, 63, 64, 69):
        field, x = fields_by_definition(model, sequence[:t]) / 1.3, sequence[t]
        expected.append((x * field - torch.log1p(field.exp())).sum())
        assert found[t].item() == pytest.approx(expected[-1].item(), rel=1e-11)
    slopes = torch.autograd.grad(found[69], list(model.parameters()))
    for got, want in zip(slopes, torch.autograd.grad(expected[-1], list(model.parameters())), strict=True):
        assert torch.allclose(got, want, rtol=1e-11, atol=1e-12)
    assert torch.equal(model.gamma, machine().observe(sequence).gamma)


@pytest.mark.parametrize("queue", QUEUES)
def test_the_rule_is_the_gradient_of_the_exact_log_likelihood(queue: str) -> None:
    """Of each tick, from its squares and its steps, against autograd of the enumerated likelihood."""
    model = machine(queue=queue, temperature=0.8)
    model.observe(spikes(8, 3, 3))
    before = copy.deepcopy(model)
    x = spikes(1, 3, 4)
    log_likelihood = -before({"x": x}) / 0.8 - en.exact.log_partition(before, temperature=0.8)
    slopes = torch.autograd.grad(log_likelihood.sum(), [before.b, before.u, before.v])
    model.squares.fill_(3.0)  # so that a step tells the size of the gradient
    model.learn(x, rate=0.5)
    for name, slope in zip("buv", slopes, strict=True):
        step = getattr(model, name) - getattr(before, name)
        assert float(slope.abs().max()) > 0.01
        assert torch.allclose(step, 0.5 * slope / (3.0 + slope**2).sqrt(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_learning_is_adagrad_on_each_tick_in_turn(temperature: float) -> None:
    model = machine(temperature=temperature)
    reference = copy.deepcopy(model)
    optimiser = torch.optim.Adagrad(reference.parameters(), lr=0.7, eps=1e-300)
    sequence, expected = spikes(70, 3, 5), []
    for x in sequence.split(1):
        optimiser.zero_grad()
        loss = (
            reference({"x": x}) / temperature + en.exact.log_partition(reference, temperature=temperature)
        ).sum()
        loss.backward()
        optimiser.step()
        reference.observe(x)
        expected.append(-loss.item())
    found = model.learn(sequence, rate=0.7)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    for got, want in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


def test_the_first_step_is_the_rate() -> None:
    """Where a gradient is zero nothing moves, and nothing is 0 / 0."""
    model = machine()
    before = copy.deepcopy(model)
    model.learn(spikes(1, 3, 6), rate=0.25)  # no past: only the biases have a gradient
    assert torch.allclose((model.b - before.b).abs(), torch.full((3,), 0.25, dtype=F64), rtol=1e-12)
    assert torch.equal(model.u, before.u)
    assert torch.equal(model.v, before.v)


def test_learning_in_parts_and_after_saving() -> None:
    sequence = spikes(100, 3, 7)
    whole, parts = machine(), machine()
    told = whole.learn(sequence, rate=0.1)
    first = parts.learn(sequence[:37], rate=0.1)
    resumed = machine(seed=0)
    resumed.load_state_dict(parts.state_dict())
    assert torch.allclose(torch.cat([first, resumed.learn(sequence[37:], rate=0.1)]), told, rtol=1e-9)
    for got, want in zip(
        (*resumed.parameters(), *resumed.buffers()), (*whole.parameters(), *whole.buffers()), strict=True
    ):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 30])
def test_sizes_of_the_parts_do_not_matter(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = spikes(20, n, 8)
    one, other = machine(n), machine(n)
    one.learn(sequence, rate=0.1)
    monkeypatch.setattr("energynet.models.dynamic._TICKS", 7)
    monkeypatch.setattr("energynet.models.dynamic._ENTRIES", 1)
    other.learn(sequence, rate=0.1)
    assert torch.allclose(one.u, other.u, rtol=1e-9, atol=1e-12)
    assert torch.allclose(one.v, other.v, rtol=1e-9, atol=1e-12)


def test_recall_takes_the_most_probable_values_and_runs_on() -> None:
    model = machine()
    cue = spikes(6, 3, 9)
    past = cue
    for _ in range(12):
        past = torch.cat([past, (fields_by_definition(model, past) > 0).to(F64).unsqueeze(0)])
    made = copy.deepcopy(model).generate(12, cue=cue, temperature=0)
    assert torch.equal(made, past[6:])
    assert len(made.unique(dim=0)) > 1
    halves = [model.generate(5, cue=cue, temperature=0), model.generate(7, temperature=0)]
    assert torch.equal(torch.cat(halves), made)
    assert torch.allclose(model.gamma, machine().observe(past).gamma, rtol=1e-12)
    assert model.generate(0).shape == (0, 3)


def test_generated_spikes_have_their_probabilities() -> None:
    """Of 2000 repetitions of 3 neurons, each within 5.3 standard errors: wrong by chance once in 10^6 or less."""
    model = machine(temperature=0.5)
    past = spikes(8, 3, 10)
    p = torch.sigmoid(fields_by_definition(model, past) / 2.0).detach()
    generator = torch.Generator().manual_seed(11)
    model.observe(past)
    state = copy.deepcopy(model.traces.state_dict())
    total = torch.zeros(3, dtype=F64)
    for _ in range(2000):
        model.traces.load_state_dict(state)
        total += model.generate(1, temperature=2.0, generator=generator)[0]
    assert 0.05 < p.min() < p.max() < 0.95
    assert bool(((total / 2000 - p).abs() < 5.3 * (p * (1 - p) / 2000).sqrt()).all())


def test_the_same_generator_generates_the_same() -> None:
    one, other = (machine().generate(20, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, other)
    drawn = [Machine(2, 1, generator=torch.Generator().manual_seed(2)).u for _ in range(2)]
    assert torch.equal(*drawn)


def test_reset_forgets_the_past_alone() -> None:
    model = machine()
    model.learn(spikes(9, 3))
    kept = model.u.detach().clone()
    model.reset()
    assert float(model.gamma.abs().sum() + model.alpha.abs().sum() + model.beta.abs().sum()) == 0
    assert torch.equal(model.u, kept)
    assert float(model.squares.sum()) > 0


def test_a_short_sequence_is_learned_recalled_and_missed_where_it_differs() -> None:
    sequence = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1]], dtype=F64)  # 010 twice
    model = machine(longest=3)
    for _ in range(60):
        model.learn(sequence)
    assert torch.equal(model.generate(10, cue=sequence, temperature=0), sequence.repeat(2, 1))
    model.observe(sequence)
    wrong = sequence.clone()
    wrong[2, 0] = 1
    found = model.log_likelihood(torch.cat([sequence, wrong[:3]]))
    assert int(found.argmin()) == 7
    assert found[7] < found[:7].min() - 1


def test_initial_parameters_have_the_deviation_of_the_authors() -> None:
    """Of 30,300 numbers: within 5 standard errors of 0.1, wrong by chance once in 10^6."""
    model = Machine(50, 1, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert len(drawn) == 15_050
    assert abs(float(drawn.std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * len(drawn))


def test_it_is_an_energy() -> None:
    model = machine()
    model.observe(spikes(9, 3))
    en.testing.check_energy(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delays": 0}, "delays: expected positive integers"),
        ({"delays": [[1, 2]]}, r"delays: expected positive integers of shape \(2, 2\)"),
        ({"delays": torch.ones(2, 2)}, "delays: expected positive integers"),
        ({"neural_decays": [0.5, 1.0]}, "neural_decays: expected one or more numbers between 0 and 1"),
        ({"neural_decays": 0.5}, r"neural_decays: expected a sequence .* \(0.5,\)"),
        ({"synaptic_decays": []}, "synaptic_decays: expected one or more"),
        ({"queue": "youngest"}, "queue: expected one of 'newest', 'oldest', 'program', 'printed'"),
        ({"temperature": -1.0}, "temperature: expected a number that is not negative"),
    ],
)
def test_wrong_settings_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(2, **({"delays": 1} | arguments))


def test_wrong_use_is_told() -> None:
    model = machine()
    with pytest.raises(en.StateError, match="expected only the values 0 and 1"):
        model.learn(torch.full((2, 3), 0.5, dtype=F64))
    with pytest.raises(en.StateError, match=r"sequence of shape \(ticks, 3\).* got \(2, 4\)"):
        model.observe(torch.zeros(2, 4, dtype=F64))
    with pytest.raises(en.StateError, match="expected dtype"):
        model.log_likelihood(torch.zeros(2, 3))
    with pytest.raises(en.StateError, match="one sequence at a time"):
        model.learn(spikes(2, 3).unsqueeze(0))
    with pytest.raises(ValueError, match="rate must be a positive number"):
        model.learn(spikes(2, 3), rate=0.0)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        model.generate(-1)
    with pytest.raises(ValueError, match="temperature: expected"):
        model.generate(1, temperature=math.nan)
    cold = machine(temperature=0.0)
    for method in (cold.learn, cold.log_likelihood):
        with pytest.raises(ValueError, match="at temperature 0"):
            method(spikes(2, 3))
    assert cold.generate(2).shape == (2, 3)
