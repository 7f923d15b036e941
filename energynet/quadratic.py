"""Variables in which an energy is quadratic: what the trace tells of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from energynet.couplings import Couplings, probed
from energynet.errors import TraceError
from energynet.state import State
from energynet.trace import PARAMETER, Environment, Kernel, Program, degree, dependence, versions
from energynet.trace.capture import Function
from energynet.units import Units
from energynet.variable import rows


@final
class Quadratic:
    """Variables in which, taken together, an energy is a polynomial of degree two at most.

    Attributes
    ----------
    names
        The variables.
    separate
        Whether no unit of theirs reads another one of theirs.
    """

    def __init__(self, program: Program, names: Sequence[str], separate: bool, probe: Kernel | None) -> None:
        self.names = tuple(names)
        self.separate = separate
        self._specs = [program.spec(name) for name in names]
        self._probe = probe
        self._made: tuple[object, list[Tensor], Couplings | None] | None = None

    def couplings(self, parameters: Mapping[str, Tensor], units: Mapping[str, Units]) -> Couplings | None:
        """The couplings of the units, made anew when a parameter has changed since.

        None where they depend on more than parameters, or are too many to keep.
        """
        if self._probe is None:
            return None
        now = versions(parameters)
        made = self._made
        if made is not None and made[0] == now and len(now) == len(parameters):
            return made[2]
        found = self._found(self._probe, parameters, units)
        if made is not None and made[2] is not None and found is not None and found.alike(made[2]):
            found.adopt(made[2])
        self._made = (now, list(parameters.values()), found)  # held, so that no other takes their address
        return found

    def _found(
        self, probe: Kernel, parameters: Mapping[str, Tensor], units: Mapping[str, Units]
    ) -> Couplings | None:
        sizes = [math.prod(spec.shape) for spec in self._specs]
        like = torch.empty(0, dtype=self._specs[0].dtype, device=self._specs[0].device)
        width = torch.cat([like.new_full((units[name].size,), units[name].width) for name in self.names])
        (each,) = {units[name].entries for name in self.names}

        def products(directions: Tensor) -> Tensor:
            parts = zip(directions.split(sizes, 1), self._specs, strict=True)
            given = [part.reshape(-1, *spec.shape) for part, spec in parts]
            changes = probe.bind(Environment(parameters, len(directions)))(*given)
            return torch.cat([rows(change) for change in changes], 1)

        known = None if self._made is None else self._made[2]
        with torch.no_grad():
            renewed = None if known is None else known.renewed(products, width)
            return probed(products, width, each) if renewed is None else renewed


def quadratic(program: Program, key: Hashable, function: Function, names: Sequence[str]) -> Quadratic | None:
    """What is known of some variables together, if an energy is quadratic in them; else None.

    The degree is read off the energy itself, not off its force, for a force does not tell of jumps.

    Parameters
    ----------
    program
        Of the energy.
    key, function
        What `energynet.derivation.forces` makes of it, and its key in the program.
    names
        Some of the free variables.
    """
    traced = program.traced(key, function)
    if degree(traced, "energy", names) > 2:
        return None
    found = {(a, b): dependence(traced, f"force {a}", b) for a in names for b in names}
    separate = all(how == "none" or (a == b and how == "elementwise") for (a, b), how in found.items())
    return Quadratic(program, names, separate, _probe(program, key, function, names))


def _probe(program: Program, key: Hashable, function: Function, names: Sequence[str]) -> Kernel | None:
    """From directions to the change of the forces along them; None unless the Hessian is constant."""
    directions = {name: f"direction {name}" for name in names}

    def changes(point: State) -> State:
        rest = {name: value for name, value in point.items() if name not in directions.values()}

        def along(moving: State) -> Tensor:
            found = function({**rest, **moving})
            total = sum((found[f"force {name}"] * point[directions[name]]).sum() for name in names)
            assert isinstance(total, Tensor)
            return total

        slopes = torch.func.grad(along)({name: point[name] for name in names})
        return {f"change {name}": slope for name, slope in slopes.items()}

    more = {given: program.spec(name) for name, given in directions.items()}
    whole = (key, "couplings", tuple(names))
    try:
        traced = program.traced(whole, changes, more=more)
    except TraceError:
        return None
    outputs = [f"change {name}" for name in names]
    reads = frozenset().union(*(program.node(traced.outputs[output]).reads for output in outputs))
    if any(name not in more and not name.startswith(PARAMETER) for name in reads):
        return None
    return program.kernel(whole, changes, outputs, list(more), more=more)
