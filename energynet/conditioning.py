"""Partial evaluation of energies: hold some variables, trace the force on the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy, LinkTerm, State, weighted
from energynet.errors import EagerFallback, TraceError
from energynet.link import Link
from energynet.trace import Environment, Program, Spec, parameters_of

_PROGRAMS = 16  # signatures kept per energy; an older one is traced again in a fraction of a second


def program_of(energy: Energy, inputs: Mapping[str, Spec]) -> Program:
    """The traces of an energy for one signature of its variables, kept while the energy is unchanged."""
    parts = energy.parts()
    owner = parts[0][1]
    programs: dict[Hashable, Program] = owner.__dict__.setdefault("_programs", {})
    key = (parts, tuple(inputs.items()), tuple(fingerprint(part) for _, part in parts))
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


@final
class Conditioned(Energy):
    """An energy with some of its variables held at a value; an energy of the others.

    Attributes
    ----------
    base
        The energy of all variables.
    clamp
        The values that are held.
    """

    def __init__(self, base: Energy, clamp: Mapping[str, Tensor], parent: Conditioned | None = None) -> None:
        if isinstance(base, Conditioned):
            parent, clamp, base = base, {**base.clamp, **clamp}, base.base
        base.check(clamp, partial=True)
        super().__init__(**{name: v for name, v in base.variables.items() if name not in clamp})
        self.base = base
        self.clamp = dict(clamp)
        self._parent = parent
        self._environment: Environment | None = None
        self._versions: tuple[int, ...] = ()

    def energy(self, **state: Tensor) -> Tensor:
        return self.base.energy(**self.clamp, **state)

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        self.base.check_values({**self.clamp, **state})

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """The force from the trace; from autograd where the energy cannot be traced."""
        free = tuple(self.variables)
        try:
            program = program_of(self.base, signature({**self.clamp, **state}))
            function = forces(self.base, free)
            kernel = program.kernel(("force", free), function, [f"force {name}" for name in wrt], free)
        except TraceError as error:
            note_fallback(self.base, error)
            return super().force(state, wrt)
        with torch.no_grad():
            batch = len(next(iter(state.values())))
            results = kernel.bind(self.environment(batch))(*(state[name] for name in free))
        return dict(zip(wrt, results, strict=True))

    def environment(self, batch: int, *, fresh: bool = False) -> Environment:
        """The clamped values and the parameters, and what has been computed from them.

        Made anew when a parameter has changed since, and where ``fresh``, which is how gradients flow to
        the parameters through it.
        """
        tensors = parameters_of(self.base)
        if fresh:
            return Environment({**tensors, **self.clamp}, batch)
        versions = _versions(tensors)
        if self._environment is None or self._environment.batch != batch or self._versions != versions:
            parent = None
            if self._parent is not None and all(len(v) == batch for v in self.clamp.values()):
                parent = self._parent.environment(batch)
            self._environment = Environment({**tensors, **self.clamp}, batch, parent)
            self._versions = versions
        return self._environment

    def check_unchanged(self) -> None:
        """Raise if a parameter has changed since the environment was made."""
        if self._environment is not None and self._versions != _versions(parameters_of(self.base)):
            raise RuntimeError(
                "the parameters have changed since settling, so the energy and the residual of this solution "
                "are gone; read them before the optimiser's step"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_environment": None}


def _versions(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(t._version for t in tensors.values() if not t.is_inference())


def signature(state: Mapping[str, Tensor]) -> dict[str, Spec]:
    """The specification of each tensor of a state, in the order of their names."""
    return {name: Spec.of(state[name], batched=True) for name in sorted(state)}


def forces(
    energy: Energy, free: Sequence[str], links: Mapping[str, Link] | None = None
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The function from a point to its energy and to the force on each free variable.

    Parameters
    ----------
    energy
        Of every variable.
    free
        Variables whose force is wanted.
    links
        Variables that are given by their potential u; their force is -dE/da at a = link(u).

    Returns
    -------
    callable
        From a dict of tensors to a dict with ``"energy"`` and ``"force NAME"`` for each name in ``free``.
    """
    links = links or {}
    smooth: list[tuple[float, Energy]] = []
    closed: list[tuple[float, Energy]] = []
    linked: list[tuple[float, LinkTerm]] = []
    for factor, part in energy.parts():
        if isinstance(part, LinkTerm) and part.link is not None and links.get(part.variable) == part.link:
            linked.append((factor, part))
        elif type(part).force is Energy.force:
            smooth.append((factor, part))
        else:
            closed.append((factor, part))

    def function(point: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {name: links[name].value(v) if name in links else v for name, v in point.items()}
        total = {name: torch.zeros_like(state[name]) for name in free}
        if smooth:
            fixed = {name: value for name, value in state.items() if name not in total}

            def scalar(moving: dict[str, Tensor]) -> Tensor:
                return weighted(smooth, {**fixed, **moving}).sum()

            slopes = torch.func.grad(scalar)({name: state[name] for name in free})
            total = {name: total[name] - slopes[name] for name in free}
        for factor, part in closed:
            names = [name for name in free if name in part.variables]
            given = part.force({name: state[name] for name in part.variables}, names)
            total.update({name: total[name] + factor * given[name] for name in names})
        for factor, part in linked:
            name = part.variable
            if name in total:
                total[name] = total[name] + factor * part.potential_force(point[name], state[name])
        result = {f"force {name}": value for name, value in total.items()}
        result["energy"] = weighted(energy.parts(), state)
        return result

    return function


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
