"""Pairs, with an energy, and sequences, without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.flow import EnergyFlow

F64 = torch.float64


def spins(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, units), generator=generator, dtype=F64) - 1


def pairs() -> tuple[en.models.BidirectionalMemory, Tensor, Tensor]:
    x, y = spins(4, 60), spins(4, 40, 1)
    return en.models.BidirectionalMemory(60, 40).double().store(x, y), x, y


def test_each_side_recalls_the_other() -> None:
    model, x, y = pairs()
    assert torch.allclose(model.weight, y.t() @ x / 2400**0.5)
    noisy = x.clone()
    noisy[:, :8] *= -1
    for cue in ({"x": noisy}, {"y": y}, {"x": noisy, "y": spins(4, 40, 2)[:1].expand(4, 40) * y[:1] * y}):
        solution = model.recall(**cue, record="energy")
        assert solution.trajectory.diff(dim=0).max() <= 1e-12
        assert (solution.status == en.Status.CONVERGED).all()
        if len(cue) == 1:
            assert torch.equal(solution.state["x"], x) and torch.equal(solution.state["y"], y)


def test_where_it_rests_each_side_has_the_sign_of_its_field() -> None:
    model, _, _ = pairs()
    solution = model.recall(spins(20, 60, 5))
    s, t = solution.state["x"], solution.state["y"]
    assert (t * (s @ model.weight.t())).min() > -1e-12
    assert (s * (t @ model.weight)).min() > -1e-12
    expected = -torch.einsum("bi,ij,bj->b", t, model.weight, s)
    assert torch.allclose(solution.energy, expected, rtol=0, atol=1e-10)


def test_laws_of_energies() -> None:
    en.testing.check_energy(en.models.BidirectionalMemory(4, 3).store(spins(2, 4), spins(2, 3)))


def test_a_sequence_runs_in_its_order() -> None:
    sequence = spins(5, 400)
    model = en.models.SequenceMemory(400, delay=8.0).double().store(sequence, cyclic=True)
    path = model.recall(sequence[:1], 80.0)[:, 0]
    visited = (path @ sequence.t() / 400).max(1)
    order = visited.indices[visited.values > 0.9].unique_consecutive().tolist()
    assert len(order) >= 6
    assert order == [(order[0] + i) % 5 for i in range(len(order))] and order[0] == 0


def test_weak_transitions_stay() -> None:
    sequence = spins(4, 400)
    model = en.models.SequenceMemory(400, strength=0.3).double().store(sequence)
    end = model.recall(sequence[1:2], 60.0)[-1, 0]
    assert float(end @ sequence[1]) / 400 > 0.95


def test_a_sequence_has_a_flow_but_no_energy() -> None:
    model = en.models.SequenceMemory(6).double().store(spins(3, 6))
    cues = spins(2, 6, 3)
    flow = model.flow(cues)
    assert isinstance(flow, en.Flow) and not isinstance(flow, EnergyFlow) and not isinstance(model, en.Energy)
    with pytest.raises(en.SettlingError, match="needs the energy of a flow"):
        en.LBFGS().init(flow, flow.start)
    point = {"u": torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=F64), "p": cues}
    velocity = {name: value.detach() for name, value in flow.velocity(point).items()}
    W, V = model.weight.detach(), model.transition.detach()
    for b in range(2):
        for i in range(6):
            a, p = point["u"][b].tanh(), point["p"][b]
            drive = sum(W[i, j] * a[j] + 2.0 * V[i, j] * p[j] for j in range(6))
            assert float(velocity["u"][b, i]) == pytest.approx(
                float(10 * drive - point["u"][b, i]), abs=1e-12
            )
            assert float(velocity["p"][b, i]) == pytest.approx(float((a[i] - p[i]) / 8), abs=1e-12)
    some = flow.take(torch.tensor([1]))
    assert torch.equal(some.velocity(some.start)["u"], flow.velocity(flow.start)["u"][1:])


def test_what_does_not_fit_is_refused() -> None:
    model, x, y = pairs()
    with pytest.raises(en.StateError, match="as many patterns of x as of y"):
        model.store(x[:2], y)
    with pytest.raises(en.StateError, match="a cue of x or of y"):
        model.recall()
    for side, other in (("x", {"x": spins(2, 7)}), ("y", {"y": spins(2, 7)})):
        with pytest.raises(en.StateError, match=rf"variable '{side}': expected shape"):
            model.recall(other.get("x"), other.get("y"))
    with pytest.raises(en.StateError, match="variable 'x': expected dtype"):
        model.recall(x.float())
    with pytest.raises(en.StateError, match="variable 'y': expected dtype"):
        model.recall(y=y.float())
    with pytest.raises(ValueError, match="delay must be"):
        en.models.SequenceMemory(3, delay=0.0)
    for cues in (torch.ones(2, 4), torch.ones(3)):
        with pytest.raises(en.StateError, match=r"expected cues of shape \(batch, 3\)"):
            en.models.SequenceMemory(3).recall(cues, 1.0)
