"""How the force of a sum of energies is put together from its terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.errors import StateError
from energynet.link import Link

if TYPE_CHECKING:
    from energynet.energy import Energy


class Derivation(Enum):
    """Where the force of a term comes from."""

    AUTOGRAD = "autograd of its energy"
    CLOSED = "its own method force"
    POTENTIAL = "its own method potential_force, at the potential of its variable"
    PROXIMAL = "its own method slope, for it has a proximal map and perhaps a kink"


def weighted(parts: Iterable[tuple[float, Energy]], state: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of energies at a state that may hold more than each of them needs."""
    total: Tensor | None = None
    for factor, part in parts:
        value = part.energy(**{name: state[name] for name in part.variables})
        if value.ndim != 1:
            raise StateError(
                f"{type(part).__name__}.energy returned shape {tuple(value.shape)}, expected (batch,): sum "
                "over every dimension of the variables but never over the first, which is the batch"
            )
        if factor != 1:
            value = factor * value
        total = value if total is None else total + value
    if total is None:
        raise ValueError("a sum of energies needs at least one")
    return total


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
        From a dict of tensors to a dict with ``"energy"`` and ``"force NAME"`` for each name in ``free``, and
        the same of the smooth part, without the terms that have a proximal map: ``"smooth energy"``,
        ``"smooth force NAME"``. Where there is no such term these are the same.
    """
    links = links or {}
    kinds: dict[Derivation, list[tuple[float, Energy]]] = {kind: [] for kind in Derivation}
    for factor, part in energy.parts():
        kinds[part.derivation(links)].append((factor, part))
    smooth = kinds[Derivation.AUTOGRAD]

    def function(point: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {name: links[name].value(v) if name in links else v for name, v in point.items()}
        total = {name: torch.zeros_like(state[name]) for name in free}
        if smooth:
            fixed = {name: value for name, value in state.items() if name not in total}

            def scalar(moving: dict[str, Tensor]) -> Tensor:
                return weighted(smooth, {**fixed, **moving}).sum()

            slopes = torch.func.grad(scalar)({name: state[name] for name in free})
            total = {name: total[name] - slopes[name] for name in free}
        for factor, part in kinds[Derivation.CLOSED]:
            names = [name for name in free if name in part.variables]
            given = part.force({name: state[name] for name in part.variables}, names)
            total.update({name: total[name] + factor * given[name] for name in names})
        for factor, part in kinds[Derivation.POTENTIAL]:
            (name,) = part.variables
            if name in total:
                total[name] = total[name] + factor * part.potential_force(point[name], state[name])
        result = {f"smooth force {name}": value for name, value in total.items()}
        for factor, part in kinds[Derivation.PROXIMAL]:
            (name,) = part.variables
            if name in total:
                total[name] = total[name] - factor * part.slope(state[name])
        result.update({f"force {name}": value for name, value in total.items()})
        result["energy"] = weighted(energy.parts(), state)
        proximal = kinds[Derivation.PROXIMAL]
        rest = [pair for kind, pairs in kinds.items() if kind is not Derivation.PROXIMAL for pair in pairs]
        if proximal and rest:
            result["smooth energy"] = weighted(rest, state)
        else:
            result["smooth energy"] = 0.0 * result["energy"] if proximal else result["energy"]
        return result

    return function
