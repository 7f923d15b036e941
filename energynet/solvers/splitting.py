"""What solvers that split an energy into a smooth part and proximal terms have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.derivation import Derivation
from energynet.energy import Energy, LinkTerm, ProximalTerm
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, GradientFlow
from energynet.solvers.base import Solver
from energynet.state import State
from energynet.variable import rows


class Splitting(Solver):
    """A minimiser of a smooth part, terms with a proximal map (`ProximalTerm`) and domains.

    It moves values, also of variables with a link: `SoftThreshold` needs no other treatment, for its leak and
    dead zone are what a `Sparsity` term is.
    """

    @final
    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> EnergyFlow:
        """Gradient flow, whether a variable has a link or not.

        Raises
        ------
        SettlingError
            If a free variable has two terms with a proximal map, one with a negative factor, or a link whose
            values or leak steps of values do not respect.
        """
        flow = GradientFlow(energy, clamp, state, generator=generator, differentiable=differentiable)
        owner = type(self).__name__
        for name, variable in flow.variables.items():
            link = variable.link
            if link is not None and (link.low > variable.low or link.high < variable.high):
                raise SettlingError(
                    f"{owner} moves the values of {name!r}, and its link {link!r} gives only values in "
                    f"[{link.low:g}, {link.high:g}], but it is declared {variable!r}; declare that range as "
                    "its domain, or use a solver of mirror flow such as Euler"
                )
        _check_terms(owner, flow)
        return flow


def _check_terms(owner: str, flow: EnergyFlow) -> None:
    found: dict[str, ProximalTerm] = {}
    for factor, part in flow.conditioned.base.parts():
        if not isinstance(part, LinkTerm) or part.variable not in flow.names:
            continue
        name = part.variable
        if part.derivation({}) is not Derivation.PROXIMAL:
            if part.link is not None:
                raise SettlingError(
                    f"{owner} moves the values of {name!r}, in which {part} is infinitely steep or has a "
                    f"kink, for it is the integral of {part.link!r}; use a solver of mirror flow such as "
                    "BlockDescent or Euler, or declare the variable without a link"
                )
            continue
        assert isinstance(part, ProximalTerm)
        if factor < 0:
            raise SettlingError(
                f"{owner}: the term {part} has the factor {factor:g}, and a proximal map is that of a term "
                "with a positive one; subtract a smooth term, or use Euler"
            )
        if name in found:
            raise SettlingError(
                f"{owner}: variable {name!r} has two terms with a proximal map, {found[name]} and {part}, "
                "and the map of a sum does not follow from those of its terms; write them as one ProximalTerm"
            )
        found[name] = part


def weights(flow: EnergyFlow) -> dict[str, float] | None:
    """Those of the inner product of changes of values: the time constants; None where all are 1."""
    taus = {name: variable.tau for name, variable in flow.variables.items()}
    return None if all(tau == 1 for tau in taus.values()) else taus


def change(after: State, before: State) -> State:
    """The difference of two points."""
    return {name: after[name] - before[name] for name in after}


def flat(state: State) -> Tensor:
    """The values of each sample in one row."""
    parts = [rows(value) for value in state.values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def shaped(flat: Tensor, like: State) -> State:
    """The inverse of `flat`."""
    sizes = [math.prod(value.shape[1:]) for value in like.values()]
    parts = flat.split(sizes, 1)
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}
