"""Units that are independent of one another given the rest: their exact law, by one evaluation of forces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from energynet.conditional import ConditionalFlow
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.forces import TracedForces
from energynet.one_hot import OneHot
from energynet.programs import program_of, signature
from energynet.state import State, check_forms
from energynet.variable import Discrete, Variable


@final
class Factorial:
    """The law of some discrete variables given all the others, a product over their units.

    The energy is a sum over these units, each times what the given variables make of it. Expectations of it,
    and of its gradients, are then its values at the means.

    Parameters
    ----------
    flow
        Of the variables, with all others clamped; `factorial` makes one where that is possible.
    """

    def __init__(self, flow: ConditionalFlow) -> None:
        self.flow = flow

    def given(self, state: State) -> Factorial:
        """The same given other values, which are not checked: means will do where the energy is affine."""
        clamp = {name: state[name] for name in self.flow.conditioned.clamp}
        twin = self.flow.rebind(self.flow.start, **clamp)
        assert isinstance(twin, ConditionalFlow)
        return Factorial(twin)

    def means(self) -> State:
        """The expectation of each unit."""
        flow = self.flow
        gaps = flow.gaps(flow.names, flow.start)
        return {name: _mean(flow.variables[name], gap) for name, gap in gaps.items()}


def factorial(energy: Energy, free: Sequence[str], given: State) -> Factorial | None:
    """The law of some variables given all others; None where their units are not known to be independent.

    What is found out is kept with the energy, for as long as its traces are.

    Parameters
    ----------
    energy
        Of all variables.
    free
        Which.
    given
        Values, or means, of the others, which are not checked.
    """
    if not free or not all(isinstance(energy.variables[name], Discrete) for name in free):
        return None
    held = {name: value for name, value in given.items() if name not in free}
    like = next(value for value in held.values() if value.is_floating_point())
    key = (*free, len(like), like.dtype, like.device)
    kept = energy.__dict__.setdefault("_factorial", {})
    start = {name: like.new_empty(len(like), *energy.variables[name].shape) for name in free}
    program = program_of(energy, signature({**held, **start}))
    if key not in kept or kept[key][0] is not program:
        kept[key] = (program, _found(energy, start, held))
    law: Factorial | None = kept[key][1]
    return None if law is None else law.given(held)


def _found(energy: Energy, start: State, held: State) -> Factorial | None:
    start = {name: energy.variables[name].project(value.zero_()) for name, value in start.items()}
    held = {name: energy.variables[name].project(value) for name, value in held.items()}
    flow = ConditionalFlow(energy, held, start)
    blocks = flow.forces.blocks
    if not isinstance(flow.forces, TracedForces) or len(blocks) != 1 or blocks[0].exact != flow.names:
        return None
    if flow.forces.quadratic(flow.names) is None:  # a force does not tell of jumps
        return None
    flat = all(isinstance(c.value, float) and c.value == 0.0 for c in flow.forces.exact(0))
    return Factorial(flow) if flat else None


def check_means(energy: Energy, state: State) -> None:
    """Raise `StateError` unless a part of a state may hold means: in range, of choices with the sum 1."""
    reference = next((p for p in energy.parameters() if p.is_floating_point()), None)
    check_forms(type(energy).__name__, energy.variables, state, reference, partial=True)
    for name, value in state.items():
        variable = energy.variables[name]
        Variable.check_values(variable, name, value)
        if isinstance(variable, OneHot) and value.numel():
            off = (value.sum(-1) - 1).abs().amax()
            if bool(off > variable.shape[-1] * torch.finfo(value.dtype).eps ** 0.5):
                raise StateError(
                    f"variable {name!r}: expected probabilities of the choices of {variable!r}, with the sum "
                    f"1 along the last dimension, got sums that are off by up to {float(off):g}"
                )


def drawn(variables: Mapping[str, Variable], means: State, generator: torch.Generator | None) -> State:
    """Values of discrete variables, each unit on its own, that have these means; others as they are."""
    found: State = {}
    for name, mean in means.items():
        variable = variables[name]
        if not isinstance(variable, Discrete):
            found[name] = mean
            continue
        if isinstance(variable, OneHot):
            found[name] = _chosen(mean, generator)
            continue
        noise = torch.rand(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        low, width = variable.low, variable.high - variable.low
        # a unit that is certain stays: noise is never 1, and never below 0
        bits = ((mean if (low, width) == (0.0, 1.0) else (mean - low) / width) > noise).to(mean.dtype)
        found[name] = bits if (low, width) == (0.0, 1.0) else bits.mul_(width).add_(low)
    return found


def entropy(variables: Mapping[str, Variable], means: State, like: Tensor) -> Tensor:
    """That of independent discrete units with these means, for each sample; certain units have none."""
    total = torch.zeros_like(like)
    for name, mean in means.items():
        variable = variables[name]
        if isinstance(variable, OneHot):
            total = total - _plogp(mean).flatten(1).sum(1)
        elif isinstance(variable, Discrete):
            high = (mean - variable.low) / (variable.high - variable.low)
            total = total - (_plogp(high) + _plogp(1 - high)).flatten(1).sum(1)
    return total


def _mean(variable: Variable, field: Tensor) -> Tensor:
    """The expectation of units on which there is a field, see `ConditionalFlow.gaps`."""
    if isinstance(variable, OneHot):
        return field.softmax(-1)
    high = field.sigmoid()
    if (variable.low, variable.high) == (0.0, 1.0):
        return high
    return high.mul_(variable.high - variable.low).add_(variable.low)


def _chosen(means: Tensor, generator: torch.Generator | None) -> Tensor:
    """One 1 along the last dimension, with these probabilities: the first whose share passes a number."""
    shares = means.cumsum(-1)
    noise = torch.rand(means.shape[:-1], generator=generator, dtype=means.dtype, device=means.device)
    # the last share may be 1 less rounding: what passes it is the last entry that can be
    place = (shares <= (noise * shares[..., -1].clamp(max=1.0)).unsqueeze(-1)).sum(-1, keepdim=True)
    place = place.clamp(max=means.shape[-1] - 1)
    return torch.zeros_like(means).scatter_(-1, place, 1.0)


def _plogp(p: Tensor) -> Tensor:
    """Compute p log p, 0 at 0; as `torch.special.entr` does in several times the time."""
    return p.clamp(min=torch.finfo(p.dtype).tiny).log_().mul_(p)
