"""Laws of saving: the state_dict holds all there is to know, copies and pickles are the same energy."""

from __future__ import annotations

import copy
import pickle
import sys

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.state import State
from energynet.testing.laws.law import law
from energynet.testing.oracle import agree, values_of
from energynet.testing.report import NotApplicable
from energynet.testing.subject import Subject, hidden_tensors, put


@law(examples=2)
def state_dict_round_trip(subject: Subject, data: st.DataObject) -> None:
    """A re-initialised copy that loads the state_dict has the same energy and force."""
    subject.require_shapes()
    state = subject.state(data)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31 - 1), label="seed"))
    copied = copy.deepcopy(subject.model)
    hidden = _reinitialise(copied, generator)
    copied.load_state_dict(subject.model.state_dict())
    hint = "register every tensor that the energy reads, as nn.Parameter or with register_buffer"
    if hidden:
        hint += f"; plain attributes are {', '.join(sorted(set(hidden)))}"
    _same(subject, copied, state, "after load_state_dict", hint)


def _reinitialise(module: nn.Module, generator: torch.Generator) -> list[str]:
    """Change all that a constructor could draw anew; the names of tensors that no state_dict holds."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(_fresh(parameter, generator))
        persistent = set(module.state_dict())
        for name, buffer in module.named_buffers():
            if name in persistent and buffer.is_floating_point():
                buffer.copy_(_fresh(buffer, generator))
    names = []
    for holder, key, value in list(hidden_tensors(module)):
        if value.is_floating_point():
            put(holder, key, _fresh(value, generator).requires_grad_(value.requires_grad))
            names.append(repr(key))
    return names


def _fresh(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value.detach().clone()
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
    return value.detach() + (0.1 + 0.1 * noise).to(value)


@law(examples=2)
def deepcopy_survives(subject: Subject, data: st.DataObject) -> None:
    """A deep copy has the same energy and force, and its own parameters."""
    subject.require_shapes()
    state = subject.state(data)
    copied = copy.deepcopy(subject.model)
    hint = "check __deepcopy__, and that attributes refer to submodules and not to parameters of others"
    _same(subject, copied, state, "of a deep copy", hint)
    before = values_of(subject.model, state)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.5)
    agree("energy after its copy has changed", values_of(subject.model, state), before, hint, allowed=0.0)


@law(examples=2)
def pickle_survives(subject: Subject, data: st.DataObject) -> None:
    """A pickled and restored energy has the same energy and force."""
    subject.require_shapes()
    for part in subject.model.modules():
        if not _importable(type(part)):
            raise NotApplicable(
                f"{type(part).__qualname__} is not defined at the top of a module, so pickle refuses it"
            )
    state = subject.state(data)
    copied = pickle.loads(pickle.dumps(subject.model))
    _same(subject, copied, state, "of a pickled copy", "check __getstate__ and __setstate__")


def _importable(kind: type) -> bool:
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def _same(subject: Subject, copied: Energy, state: State, where: str, hint: str) -> None:
    model = subject.model
    agree(f"energy {where}", values_of(copied, state), values_of(model, state), hint)
    if subject.smooth:
        # with that of the model itself: whether it is right is the business of other laws
        got, expected = (e.condition().force(state, subject.smooth) for e in (copied, model))
        for name in subject.smooth:
            agree(f"force on {name!r} {where}", got[name], expected[name], hint)
    subject.compared += 1
