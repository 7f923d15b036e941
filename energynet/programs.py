"""The traces of energies, kept for as long as they are right."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from energynet.errors import EagerFallback, TraceError
from energynet.trace import Program, Spec, parameters_of

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


def fingerprint(module: nn.Module) -> Hashable:
    """What a trace of the module has baked in besides its tensors: numbers, strings and other attributes."""
    found: list[Hashable] = []
    for part in module.modules():
        for name, value in vars(part).items():
            if name in _INTERNAL:
                continue
            if isinstance(value, (int, float, bool, str, complex, type(None))):
                found.append((name, value))
            else:
                found.append((name, id(value)))
        found.extend((name, id(value)) for name, value in part._modules.items())
        found.extend((name, tuple(p.shape), p.dtype) for name, p in part._parameters.items() if p is not None)
        found.extend((name, tuple(b.shape), b.dtype) for name, b in part._buffers.items() if b is not None)
    return tuple(found)


_INTERNAL = set(vars(nn.Module())) | {"_programs", "_variables", "_fallback"}
_INTERNAL.discard("training")


def signature(state: Mapping[str, Tensor]) -> dict[str, Spec]:
    """The specification of each tensor of a state, in the order of their names."""
    return {name: Spec.of(state[name], batched=True) for name in sorted(state)}


def note_fallback(energy: Energy, error: TraceError) -> None:
    """Warn, once for each energy, that its force comes from autograd at every step."""
    if "_fallback" not in energy.__dict__:
        energy.__dict__["_fallback"] = True
        warnings.warn(
            f"{type(energy).__name__} could not be traced, so its force comes from autograd at every step, "
            f"which is right but slower. Reason: {error}",
            EagerFallback,
            stacklevel=4,
        )
