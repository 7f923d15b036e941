"""The traces of energies, kept for as long as they are right."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from energynet.errors import EagerFallback, TraceError
from energynet.trace import Environment, Program, Spec, parameters_of, versions

if TYPE_CHECKING:
    from energynet.energy import Energy

_PROGRAMS = 16  # signatures kept per energy; an older one is traced again in a fraction of a second


def program_of(energy: Energy, inputs: Mapping[str, Spec]) -> Program:
    """The traces of an energy for one signature of its variables, kept while the energy is unchanged."""
    parts = energy.parts()
    owner = parts[0][1]
    programs: dict[Hashable, Program] = owner.__dict__.setdefault("_programs", {})
    named = tuple(parameters_of(energy))  # sums that are nested differently call the same tensors otherwise
    key = (parts, named, tuple(inputs.items()), tuple(fingerprint(part) for _, part in parts))
    if key not in programs:
        while len(programs) >= _PROGRAMS:
            programs.pop(next(iter(programs)))
        programs[key] = Program(energy, inputs)
    return programs[key]


def prepared(energy: Energy, tensors: Mapping[str, Tensor], batch: int) -> Environment:
    """What has been computed from the parameters alone, kept until one of them, or the batch, changes.

    Parameters
    ----------
    energy
        That it is kept with.
    tensors
        Its parameters and buffers.
    batch
        Number of samples.
    """
    now = versions(tensors)
    if len(now) < len(tensors):  # some are of inference mode and have no version
        return Environment(tensors, batch)
    made = energy.__dict__.get("_prepared")
    if made is None or made[0] != now or made[1].batch != batch:
        # the environment holds the tensors, so that no other can take their address
        made = energy.__dict__["_prepared"] = (now, Environment(tensors, batch))
    return made[1]


def fingerprint(module: nn.Module) -> Hashable:
    """What a trace of the module has baked in besides its tensors: numbers, strings and other attributes."""
    found: list[Hashable] = []
    for part in module.modules():
        for name, value in vars(part).items():
            if name in _INTERNAL:
                continue
            found.append((name, mark(value)))
        found.extend(part._modules.items())
        found.append((*part._forward_hooks, *part._forward_pre_hooks))
        found.extend((name, tuple(p.shape), p.dtype) for name, p in part._parameters.items() if p is not None)
        found.extend((name, tuple(b.shape), b.dtype) for name, b in part._buffers.items() if b is not None)
    return tuple(found)


def mark(value: object, depth: int = 4) -> Hashable:
    """What changes when a value does: its content as far as that can be told, else its identity."""
    if isinstance(value, (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)):
        return type(value), value
    if isinstance(value, Tensor):  # no buffer: its numbers may be in the trace
        return _Identity(value), 0 if value.is_inference() else value._version
    if isinstance(value, nn.Module) or callable(value) or not depth:
        return _Identity(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), tuple(mark(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return dict, tuple((mark(key, 0), mark(item, depth - 1)) for key, item in value.items())
    fields = getattr(value, "__dict__", {})
    return _Identity(value), tuple((name, mark(item, depth - 1)) for name, item in fields.items())


def tensors_beside(module: nn.Module) -> Iterator[Tensor]:
    """The tensors whose identity is a part of the `fingerprint` of a module; no parameters or buffers."""
    for part in module.modules():
        yield from tensors_in({name: value for name, value in vars(part).items() if name not in _INTERNAL})


def tensors_in(value: object, depth: int = 4) -> Iterator[Tensor]:
    """The tensors whose identity is a part of what `mark` says of a value."""
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, nn.Module) or callable(value) or not depth:
        return
    if isinstance(value, dict):
        inner: Iterable[object] = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = value
    else:
        inner = getattr(value, "__dict__", {}).values()
    for item in inner:
        yield from tensors_in(item, depth - 1)


class _Identity:
    """Equal to itself alone; it keeps its object alive, so that no other can take the same address."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_INTERNAL = set(vars(nn.Module())) | {"_programs", "_prepared", "_factorial", "_variables", "_fallback"}
_INTERNAL.discard("training")


def signature(state: Mapping[str, Tensor]) -> dict[str, Spec]:
    """The specification of each tensor of a state, in the order of their names."""
    return {name: Spec.of(state[name], batched=True) for name in sorted(state)}


def note_fallback(
    energy: Energy,
    error: TraceError,
    what: str = "could not be traced, so the force comes from autograd at every step",
    *,
    stacklevel: int = 4,
) -> None:
    """Warn, once for each energy, that something has been done in a slower way."""
    parts = [part for _, part in energy.parts()]
    owner = parts[0].__dict__  # sums are made anew by every rule's call; what they are made of stays
    if what not in owner.setdefault("_fallback", set()):
        owner["_fallback"].add(what)
        names = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
        warnings.warn(
            f"{names} {what}, which is right but slower. Reason: {error}",
            EagerFallback,
            stacklevel=stacklevel,
        )
