"""Laws of conditioning: partial evaluation changes nothing, and follows the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hypothesis import strategies as st
from torch import nn

from energynet.testing.laws.law import law
from energynet.testing.oracle import agree, slope, values_of
from energynet.testing.report import NotApplicable
from energynet.testing.subject import Subject


@law(examples=6)
def conditioning_changes_nothing(subject: Subject, data: st.DataObject) -> None:
    """Energy and force with any variables clamped, at once or one after the other, are those of the whole."""
    subject.require_shapes()
    model = subject.model
    state = subject.state(data)
    names = list(state)
    free = subject.free(data, names)
    clamped = [name for name in names if name not in free]
    early = clamped[: data.draw(st.integers(0, len(clamped)), label="clamped first")]
    at_once = model.condition(**{name: state[name] for name in clamped})
    nested = model.condition(**{name: state[name] for name in early})
    nested = nested.condition(**{name: state[name] for name in clamped if name not in early})
    rest = {name: state[name] for name in free}
    wrt = [name for name in free if name in subject.smooth]
    expected, gradient = values_of(model, state), slope(model, state, wrt) if wrt else {}
    for how, conditioned in ((f"condition({', '.join(clamped)})", at_once), ("nested condition", nested)):
        with torch.no_grad():
            agree(f"energy after {how}", conditioned(rest), expected, "clamping may not change the energy")
        if not wrt:
            continue
        force = conditioned.force(rest, wrt)
        for name in wrt:
            agree(
                f"force on {name!r} after {how}",
                force[name],
                -gradient[name],
                "the energy differs when it is evaluated in part: it must depend on tensors only",
            )
    subject.compared += 1


@law(examples=4)
def force_follows_the_parameters(subject: Subject, data: st.DataObject) -> None:
    """After a parameter has changed in place the conditioned force is that of the new value."""
    subject.require_shapes()
    subject.require_smooth()
    model = subject.model
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not parameters:
        raise NotApplicable("the energy has no parameters")
    state = subject.state(data)
    free = subject.smooth
    rest = {name: state[name] for name in free}
    conditioned = model.condition(**{name: value for name, value in state.items() if name not in free})
    conditioned.force(rest, free)
    seed = data.draw(st.integers(0, 2**31 - 1), label="seed")
    with _changed(parameters, torch.Generator().manual_seed(seed)):
        force, gradient = conditioned.force(rest, free), slope(model, state, free)
    for name in free:
        agree(
            f"force on {name!r} after a step of the parameters",
            force[name],
            -gradient[name],
            "do not keep values that are computed from parameters between calls of energy()",
        )
    subject.compared += 1


@contextmanager
def _changed(parameters: list[nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    """Change parameters in place, as an optimiser does, and put them back."""
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.1 + 0.1 * noise).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
