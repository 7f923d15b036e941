"""Laws of the function itself: its shape, that it has no side effects, that its terms add up."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from energynet.testing.laws.law import law
from energynet.testing.oracle import agree, values_of
from energynet.testing.report import Violation
from energynet.testing.subject import Subject


@law()
def energy_has_the_right_shape(subject: Subject, data: st.DataObject) -> None:
    """One number for each sample, in the dtype of the state."""
    subject.require_shapes()
    state = subject.state(data)
    batch = len(next(iter(state.values())))
    with torch.no_grad():
        energy = subject.model(state)
    _one_number_each(energy, batch, subject.dtype, f"energy of a batch of {batch}")
    subject.compared += 1


def _one_number_each(energy: object, batch: int, dtype: torch.dtype, where: str) -> None:
    if not isinstance(energy, torch.Tensor):
        raise Violation(where, expected="a tensor", got=type(energy).__name__, hint="return a tensor")
    if tuple(energy.shape) != (batch,):
        raise Violation(
            where,
            expected=f"shape ({batch},)",
            got=f"shape {tuple(energy.shape)}",
            hint="sum over every dimension of the variables but never over the first, which is the batch",
        )
    if energy.dtype != dtype:
        raise Violation(
            where,
            expected=dtype,
            got=energy.dtype,
            hint="make constants in the dtype of the state, as in s.new_tensor(...)",
        )


@law()
def energy_is_pure(subject: Subject, data: st.DataObject) -> None:
    """The same state gives the same energy, is not changed, and no random number is drawn."""
    subject.require_shapes()
    state = subject.state(data)
    before = {name: value.clone() for name, value in state.items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        first = subject.model.energy(**state)
        for name, value in state.items():
            agree(
                f"variable {name!r} after energy()",
                value,
                before[name],
                "do not change a state in place",
                allowed=0.0,
            )
        if not torch.equal(random, torch.get_rng_state()):
            raise Violation(
                "torch's global generator",
                expected="left alone",
                got="advanced by energy()",
                hint="an energy is a function of its state; draw noise in a sampler, from its generator",
            )
        second = subject.model.energy(**before)
    agree("energy, computed twice", second, first, "an energy may not depend on earlier calls", allowed=0.0)
    subject.compared += 1


@law()
def terms_sum_to_the_energy(subject: Subject, data: st.DataObject) -> None:
    """The terms add up to the energy."""
    subject.require_shapes()
    state = subject.state(data)
    with torch.no_grad():
        terms = subject.model.terms(state)
        total = torch.stack(list(terms.values())).sum(0)
        size = max(float(value.abs().max()) for value in terms.values())
    expected = values_of(subject.model, state)
    agree("sum of terms()", total, expected, "parts() must list every term", scale=size)
    subject.compared += 1
