"""Laws of the force: it is minus the gradient of the energy, however it is computed."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from energynet.energy import Energy
from energynet.state import State
from energynet.testing.laws.law import law
from energynet.testing.oracle import agree, slope, slope_in_potentials
from energynet.testing.report import NotApplicable, Violation
from energynet.testing.subject import Subject


@law()
def force_override_is_the_gradient(subject: Subject, data: st.DataObject) -> None:
    """A closed form of the force, of the energy or of one of its terms, is minus the gradient."""
    subject.require_shapes()
    subject.require_smooth()
    candidates = {id(e): e for e in (subject.model, *(part for _, part in subject.model.parts()))}
    overriding = [e for e in candidates.values() if type(e).force is not Energy.force]
    if not overriding:
        raise NotApplicable("no term overrides force")
    state = subject.state(data)
    for energy in overriding:
        names = [name for name in subject.smooth if name in energy.variables]
        if not names:
            continue
        wrt = subject.free(data, names)
        part = {name: state[name] for name in energy.variables}
        got = energy.force(part, wrt)
        _compare(f"{type(energy).__name__}.force", got, slope(energy, part, wrt), "correct the override")
        subject.compared += 1


@law(examples=6)
def force_is_the_gradient(subject: Subject, data: st.DataObject) -> None:
    """The force of the (traced) energy, with nothing clamped, is minus the gradient."""
    subject.require_shapes()
    subject.require_smooth()
    state = subject.state(data)
    wrt = subject.free(data, subject.smooth)
    got = subject.model.condition().force(state, wrt)
    _compare(
        "condition().force",
        got,
        slope(subject.model, state, wrt),
        "a force override of a term is wrong, or the energy differs when it is traced: it must depend on "
        "tensors only, not on numbers taken out of them",
    )
    subject.compared += 1


@law(examples=6)
def settling_force_is_the_gradient(subject: Subject, data: st.DataObject) -> None:
    """What settling follows is minus the gradient, chained through the links, over the time constants."""
    subject.require_shapes()
    subject.require_moving()
    model = subject.model
    start, clamp = subject.problem(data)
    with torch.no_grad():
        _, flow = subject.settler(start, clamp)
        point, velocity = flow.start, flow.velocity(flow.start)
    expected = slope_in_potentials(model, {**clamp, **point}, list(start), flow.links)
    for name in start:
        rate = velocity[name] * flow.variables[name].tau
        if name in flow.links:
            leaf = point[name].detach().clone().requires_grad_()
            with torch.enable_grad():
                (gain,) = torch.autograd.grad(flow.links[name].value(leaf).sum(), leaf)
            rate = rate * gain
        agree(
            f"tau * velocity of {name!r}",
            rate,
            -expected[name],
            "for a variable with a link, the link's value, integral and potential must fit together",
        )
    subject.compared += 1


def _compare(what: str, got: State, gradient: State, hint: str) -> None:
    for name, expected in gradient.items():
        if name not in got:
            raise Violation(
                f"{what} on {name!r}", expected="a tensor", got="nothing", hint="return every name of wrt"
            )
        agree(f"{what} on {name!r}", got[name], -expected, hint)
