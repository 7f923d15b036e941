"""Energies whose law is known exactly: where a path of annealed importance sampling starts."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.clamp import Clamp, Partial
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.samplers.noise import normal, uniform
from energynet.state import State
from energynet.variable import Continuous, Discrete, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float


class Tractable(Energy):
    """An energy whose law exp(-E) / Z can be drawn from, and whose Z is known.

    A subclass writes `energy`, `log_partition` and `draw`.
    """

    @abstractmethod
    def log_partition(self, clamp: Clamp, like: Float[Tensor, batch]) -> Float[Tensor, batch]:
        """The logarithm of the integral, or sum, of exp(-E) over what is free.

        Parameters
        ----------
        clamp
            The variables that are held, whole or in part.
        like
            Any numbers of the batch's size, dtype and device.
        """

    @abstractmethod
    def draw(self, clamp: Clamp, like: Float[Tensor, batch], generator: torch.Generator | None) -> State:
        """Independent samples of the free variables; entries that are held in part may be anything."""


@final
class Standard(Tractable):
    """Independent units: uniform where that is a law, else a standard normal, or half of one at an end.

    Discrete variables and bounded intervals are uniform, with energy 0. Unbounded variables have energy
    1/2 s^2, those with one end 1/2 of the squared distance from it. Where a variable has a link, its domain
    is the range of the link.

    Parameters
    ----------
    variables
        What is free.
    """

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        super().__init__(**variables)
        self.ends = {name: _ends(name, variable) for name, variable in variables.items()}

    def energy(self, **state: Tensor) -> Tensor:
        first = next(iter(state.values()))
        total = first.new_zeros(first.shape[0])
        for name, value in state.items():
            low, high = self.ends[name]
            if math.isinf(low) or math.isinf(high):
                total = total + 0.5 * rows(_distance(value, low, high)).square().sum(1)
        return total

    def log_partition(self, clamp: Clamp, like: Tensor) -> Tensor:
        total = torch.zeros_like(like, dtype=torch.float64)
        for name, variable in self.variables.items():
            low, high = self.ends[name]
            infinite = math.isinf(low) + math.isinf(high)
            if isinstance(variable, Discrete):
                choices = variable.alternatives
                each = math.log(len(choices)) / len(choices[0])  # of an entry
            elif infinite == 0:
                each = math.log(high - low)
            else:
                each = 0.5 * math.log(2 * math.pi) - (infinite == 1) * math.log(2)
            part = clamp.get(name)
            if isinstance(part, Partial):
                total = total + each * rows(~part.full_mask).sum(1)
                if infinite:
                    held = _distance(part.value, low, high).masked_fill(~part.full_mask, 0.0)
                    total = total - 0.5 * rows(held).double().square().sum(1)
            else:
                total = total + each * math.prod(variable.shape)
        return total

    def draw(self, clamp: Clamp, like: Tensor, generator: torch.Generator | None) -> State:
        state: State = {}
        for name, variable in self.variables.items():
            low, high = self.ends[name]
            shape = (len(like), *variable.shape)
            if isinstance(variable, Discrete):
                state[name] = variable.initial(
                    len(like), dtype=like.dtype, device=like.device, generator=generator
                )
            elif math.isfinite(low) and math.isfinite(high):
                state[name] = (low + (high - low) * uniform(shape, like, generator)).clamp(low, high)
            elif math.isfinite(low):
                state[name] = low + normal(shape, like, generator).abs()
            elif math.isfinite(high):
                state[name] = high - normal(shape, like, generator).abs()
            else:
                state[name] = normal(shape, like, generator)
        return state


def _ends(name: str, variable: Variable) -> tuple[float, float]:
    if isinstance(variable, Discrete):
        return variable.low, variable.high
    if not isinstance(variable, Continuous):
        raise StateError(f"variable {name!r}: {variable!r} has no domain to draw from; clamp it")
    return (variable.low, variable.high) if variable.link is None else (variable.link.low, variable.link.high)


def _distance(value: Tensor, low: float, high: float) -> Tensor:
    if math.isfinite(low):
        return value - low
    return high - value if math.isfinite(high) else value


@final
class Uncoupled(Tractable):
    """Any energy of discrete variables whose units are independent of one another.

    The law of each unit comes from the differences of energies at its values, which takes one evaluation for
    each of them but the first.

    Parameters
    ----------
    base
        Of the free variables, and perhaps of clamped ones, which the fields of the units depend on.

    Raises
    ------
    StateError
        If a free variable is not discrete.
    ValueError
        If units turn out to be coupled, when the energy is used.
    """

    def __init__(self, base: Energy) -> None:
        super().__init__(**base.variables)
        self.base = base

    def energy(self, **state: Tensor) -> Tensor:
        return self.base.energy(**state)

    def log_partition(self, clamp: Clamp, like: Tensor) -> Tensor:
        lowest, gains = self._gains(clamp, like)
        total = -lowest.double()
        for name, gain in gains.items():
            each = (-gain.double()).logsumexp(2)
            part = clamp.get(name)
            if isinstance(part, Partial):
                each = each.masked_fill(self._held(name, part), 0.0)
            total = total + each.sum(1)
        return total

    def draw(self, clamp: Clamp, like: Tensor, generator: torch.Generator | None) -> State:
        _, gains = self._gains(clamp, like)
        state: State = {}
        for name, gain in gains.items():
            below = (-gain).softmax(2).cumsum(2)[..., :-1]
            which = (uniform(tuple(gain.shape[:2]), like, generator).unsqueeze(2) > below).sum(2)
            value = like.new_tensor(_alternatives(name, self.variables[name]))[which]
            state[name] = value.reshape(len(like), *self.variables[name].shape)
        return state

    def _held(self, name: str, part: Partial) -> Tensor:
        """Which units of a variable are held, ``(batch, units)``."""
        return rows(part.full_mask)[:, :: len(_alternatives(name, self.variables[name])[0])]

    def _gains(self, clamp: Clamp, like: Tensor) -> tuple[Tensor, State]:
        """The energy with free units at their first value, and what each value of each of them adds to it.

        The latter is ``(batch, units, values)``.
        """
        state: State = {}
        for name, variable in self.variables.items():
            held = clamp.get(name)
            if isinstance(held, Tensor):
                state[name] = held
                continue
            first = like.new_tensor(_alternatives(name, variable)[0])
            units = math.prod(variable.shape) // len(first)
            state[name] = first.repeat(len(like), units).reshape(len(like), *variable.shape)
            if held is not None:
                state[name] = torch.where(held.full_mask, held.filled(variable), state[name])
        lowest = self.base.energy(**state)
        gains = {
            name: self._changed(state, name, lowest)
            for name in state
            if not isinstance(clamp.get(name), Tensor)
        }
        self._check(clamp, state, lowest, gains)
        return lowest, gains

    def _changed(self, state: State, name: str, lowest: Tensor) -> Tensor:
        value = state[name]
        alternatives = value.new_tensor(_alternatives(name, self.variables[name]))
        width = alternatives.shape[1]
        found = []
        for first in range(0, rows(value).shape[1], width):
            energies = [torch.zeros_like(lowest)]
            for alternative in alternatives[1:]:
                changed = rows(value).clone()
                changed[:, first : first + width] = alternative
                energy = self.base.energy(**{**state, name: changed.reshape(value.shape)})
                energies.append(energy - lowest)
            found.append(torch.stack(energies, 1))
        return torch.stack(found, 1)

    def _check(self, clamp: Clamp, state: State, lowest: Tensor, gains: State) -> None:
        """Whether the energy with every free unit at its last value is the sum of what each of them adds."""
        changed, expected, size = dict(state), lowest, lowest.abs()
        for name, gain in gains.items():
            last = lowest.new_tensor(_alternatives(name, self.variables[name])[-1])
            held, added = clamp.get(name), gain[..., -1]
            whole = last.repeat(len(lowest), gain.shape[1]).reshape(state[name].shape)
            if isinstance(held, Partial):
                whole = torch.where(held.full_mask, state[name], whole)
                added = added.masked_fill(self._held(name, held), 0.0)
            changed[name] = whole
            expected = expected + added.sum(1)
            size = size + rows(gain).abs().sum(1)
        error = (self.base.energy(**changed) - expected).abs()
        if bool((error > 1e3 * torch.finfo(error.dtype).eps * (1 + size)).any()):
            raise ValueError(
                f"{self.base} couples its units, so its partition function is not told by their differences; "
                "give a base of independent units such as Field, or a Tractable"
            )


def _alternatives(name: str, variable: Variable) -> tuple[tuple[float, ...], ...]:
    if not isinstance(variable, Discrete):
        raise StateError(
            f"variable {name!r}: a base that is no Tractable has discrete free variables, got {variable!r}; "
            "write a Tractable for it, or leave base= out"
        )
    return variable.alternatives
