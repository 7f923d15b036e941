"""Laws of the batch: samples do not know of each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from energynet.errors import SettlingError
from energynet.settle import settle
from energynet.solvers import Euler, Proximal
from energynet.state import State
from energynet.stopping import Never, Status
from energynet.testing.laws.law import law
from energynet.testing.oracle import agree
from energynet.testing.subject import Subject

_HINT = "sum over units, never over the batch: no mean(), sum() or norm over the first dimension"


def _variants(subject: Subject, data: st.DataObject) -> tuple[State, list[tuple[str, Tensor, State]]]:
    """A batch, and batches that share samples with it: how, which samples of the first, the second."""
    batch = data.draw(st.integers(2, 4), label="batch")
    state, other = subject.state(data, batch), subject.state(data, batch)
    order = torch.tensor(data.draw(st.permutations(range(batch)), label="order"))
    last = torch.arange(batch) == batch - 1
    changed = {
        name: torch.where(last.view(-1, *[1] * (value.ndim - 1)).to(value.device), other[name], value)
        for name, value in state.items()
    }
    some = order[: max(1, batch // 2)]
    return state, [
        ("permuting the batch", order, {name: value[order] for name, value in state.items()}),
        ("dropping samples", some, {name: value[some] for name, value in state.items()}),
        ("changing the last sample", torch.arange(batch - 1), changed),
    ]


def _independent(
    subject: Subject, data: st.DataObject, compute: Callable[[State], dict[str, Tensor]], what: str
) -> None:
    state, variants = _variants(subject, data)
    whole = compute(state)
    for how, index, variant in variants:
        for name, value in compute(variant).items():
            agree(f"{what}{name} after {how}", value[: len(index)], whole[name][index], _HINT)
    subject.compared += 1


@law()
def energies_are_independent(subject: Subject, data: st.DataObject) -> None:
    """The energy of a sample does not depend on the others."""
    subject.require_shapes()

    def compute(state: State) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"energy": subject.model(state)}

    _independent(subject, data, compute, "")


@law(examples=6)
def forces_are_independent(subject: Subject, data: st.DataObject) -> None:
    """The force on a sample does not depend on the others."""
    subject.require_shapes()
    subject.require_smooth()
    free = subject.smooth

    def compute(state: State) -> dict[str, Tensor]:
        rest = {name: state[name] for name in free}
        clamp = {name: value for name, value in state.items() if name not in free}
        return {repr(n): f for n, f in subject.model.condition(**clamp).force(rest, free).items()}

    _independent(subject, data, compute, "force on ")


@law(slow=True, examples=4)
def settling_is_independent(subject: Subject, data: st.DataObject) -> None:
    """Where a sample settles, by a few steps and in the end, does not depend on the others."""
    subject.require_shapes()
    subject.require_moving()
    free = list(subject.problem(data)[0])

    def split(state: State) -> tuple[State, State]:
        start = {name: state[name] for name in free}
        return start, {name: value for name, value in state.items() if name not in free}

    def early(state: State) -> dict[str, Tensor]:
        start, clamp = split(state)
        kink = isinstance(subject.settler(start, clamp)[0], Proximal)
        solver = Proximal(dt=0.02) if kink else Euler(dt=0.02)
        solution = settle(subject.model, start, clamp=clamp, solver=solver, max_steps=5, until=Never())
        return {repr(name): solution.state[name] for name in free}

    def ended(state: State) -> dict[str, Tensor]:
        start, clamp = split(state)
        try:
            solver, _ = subject.settler(start, clamp)
            solution = settle(subject.model, start, clamp=clamp, solver=solver, max_steps=200)
        except SettlingError:  # no minimum in a variable: the same for every batch
            return {}
        # a sample that has not settled may amplify rounding; of the others each has its own fixed point
        done = solution.status == Status.CONVERGED
        return {repr(n): _only(solution.state[n], done) for n in free}

    _independent(subject, data, early, "state after a few steps of ")
    state, variants = _variants(subject, data)
    whole = ended(state)
    for how, index, variant in variants if whole else ():
        for name, value in ended(variant).items():
            got, expected = value[: len(index)], whole[name][index]
            both = ~(got.isnan() | expected.isnan())
            agree(f"settled state of {name} after {how}", got[both], expected[both], _HINT, allowed=1e-4)


def _only(value: Tensor, which: Tensor) -> Tensor:
    return value.masked_fill(~which.view(-1, *[1] * (value.ndim - 1)), torch.nan)
