"""Small discrete models by enumeration of their states: the truth that samplers and rules are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from energynet.clamp import Clamp, common, split
from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.state import State
from energynet.variable import Discrete, rows

if TYPE_CHECKING:
    from jaxtyping import Float

Result = TypeVar("Result")

_UNITS = 20  # about a million states
_ENTRIES = 2**20  # of the states that are evaluated at once


@dataclass(frozen=True, eq=False)
class Distribution:
    """The probability of every state.

    Attributes
    ----------
    states
        Every state of the free variables, each ``(states, *shape)``, in the order of counting: the last unit
        of the last variable changes fastest.
    probabilities
        Of each state, ``(batch, states)``; 0 where a partial clamp does not allow it.
    log_partition
        The logarithm of the sum of exp(-E / T) over the states that are allowed, ``(batch,)``.
    """

    states: State
    probabilities: Tensor
    log_partition: Float[Tensor, batch]


@dataclass(frozen=True, eq=False)
class Moments:
    """Expectations under exp(-E / T).

    Attributes
    ----------
    mean
        E[s] of every unit, each ``(batch, *shape)``.
    second
        E[s s'] of every pair of units, by the names of two variables: ``second["v", "h"]`` has the shape
        ``(batch, *shape of v, *shape of h)``.
    marginals
        The probability that an entry is at its high value, each ``(batch, *shape)``.
    log_partition
        As in `log_partition`, ``(batch,)``.
    """

    mean: State
    second: dict[tuple[str, str], Tensor]
    marginals: State
    log_partition: Float[Tensor, batch]


def log_partition(
    energy: Energy, *, clamp: Clamp | None = None, temperature: float = 1.0
) -> Float[Tensor, batch]:
    """The logarithm of Z = sum of exp(-E / T) over all states of the free variables.

    Parameters
    ----------
    energy
        Whose free variables are all discrete, with at most 2**20 states of the units that no clamp holds, as
        many as 20 bits have.
    clamp
        Variables to hold, as in `settle`: tensors, or `Partial` for a part of one.
    temperature
        T, 1 by default.

    Returns
    -------
    Tensor
        For each sample of the clamp; of shape ``(1,)`` without one. Gradients flow to the parameters and to
        the clamp: that of a parameter is minus the expectation of the energy's, over T.

    Raises
    ------
    StateError
        If a value does not fit its variable.
    SettlingError
        If a free variable is continuous, or there are too many units.
    """
    return _Enumeration(energy, clamp, temperature).log_partition()


def distribution(energy: Energy, *, clamp: Clamp | None = None, temperature: float = 1.0) -> Distribution:
    """The probability exp(-E / T) / Z of every state; parameters and errors are those of `log_partition`.

    Units that a partial clamp holds are counted too, for the states are the same for all samples.
    """
    return _Enumeration(energy, clamp, temperature, every=True).distribution()


def moments(energy: Energy, *, clamp: Clamp | None = None, temperature: float = 1.0) -> Moments:
    """Means and second moments of all units; parameters and errors are those of `log_partition`."""
    return _Enumeration(energy, clamp, temperature).moments()


class _Enumeration:
    """The states of an energy under a clamp, a chunk at a time.

    Units that some samples hold and others do not are counted in all of them, at the value that is held, so
    that each state of such a sample is there several times; ``_repeats`` is the logarithm of how many.
    """

    def __init__(
        self, energy: Energy, clamp: Clamp | None, temperature: float, *, every: bool = False
    ) -> None:
        if not (isinstance(temperature, (int, float)) and 0 < temperature < math.inf):
            raise ValueError(f"exact: temperature must be a positive number, got {temperature!r}")
        whole, held = split(energy, clamp or {})
        conditioned = energy.condition(**whole)
        self._base, self._clamp = conditioned.base, conditioned.clamp
        self._variables: dict[str, Discrete] = {}
        for name, variable in conditioned.variables.items():
            if not isinstance(variable, Discrete):
                raise SettlingError(
                    f"exact: states can be enumerated where all free variables are discrete; {name!r} is "
                    f"{variable!r}: clamp it"
                )
            self._variables[name] = variable
        filled = {name: part.filled(self._variables[name]) for name, part in held.items()}
        conditioned.check(filled, partial=True)
        self._batch, self._like = common(self._base, {**self._clamp, **filled})
        self._beta = 1.0 / temperature
        self._sizes = [math.prod(variable.shape) for variable in self._variables.values()]
        masks = {name: part.full_mask for name, part in held.items()}
        self._place(masks, {name: value.detach() for name, value in filled.items()}, every)

    def _place(self, masks: State, filled: State, every: bool) -> None:
        """Find the units to count, and what the others are held at."""
        listed: list[tuple[tuple[float, ...], ...]] = []  # the values of each unit
        held = [torch.zeros(self._batch, 0, dtype=torch.bool, device=self._like.device)]
        at = [self._like.new_zeros(self._batch, 0)]
        for (name, variable), size in zip(self._variables.items(), self._sizes, strict=True):
            there = name in masks
            listed += [variable.alternatives] * (size // len(variable.alternatives[0]))
            held.append(rows(masks[name]) if there else held[0].new_zeros(self._batch, size))
            at.append(rows(filled[name]) if there else at[0].new_zeros(self._batch, size))
        self._held, self._at = torch.cat(held, 1), torch.cat(at, 1)
        self._partly = bool(self._held.any())
        self._list(listed)
        fixed = self._held[:, self._first]
        counted = torch.ones_like(fixed[0]) if every else ~fixed.all(0)
        self._counted = counted.nonzero().squeeze(1)
        radix = [len(listed[unit]) for unit in self._counted.tolist()]
        self._repeats = fixed[:, self._counted].to(self._like.dtype) @ self._like.new_tensor(radix).log()
        self._total = math.prod(radix)
        if self._total > 2**_UNITS:
            raise SettlingError(
                f"exact: {len(radix)} free units have {_power(self._total)} states, more than the "
                f"2**{_UNITS} that are enumerated; clamp some, or estimate the partition function by "
                "AnnealedImportanceSampling"
            )
        strides = [math.prod(radix[place + 1 :]) for place in range(len(radix))]
        whole = {"dtype": torch.int64, "device": self._like.device}
        self._radix, self._strides = torch.tensor(radix, **whole), torch.tensor(strides, **whole)

    def _list(self, listed: list[tuple[tuple[float, ...], ...]]) -> None:
        """Of every entry the unit and its values, of every unit the first entry."""
        most = max((len(values) for values in listed), default=1)
        table, unit, first = [], [], []
        for number, values in enumerate(listed):
            first.append(len(unit))
            for entry in zip(*values, strict=True):
                table.append([*entry, *[0.0] * (most - len(entry))])
                unit.append(number)
        self._table = self._like.new_tensor(table).reshape(-1, most)
        whole = {"dtype": torch.int64, "device": self._like.device}
        self._unit, self._first = torch.tensor(unit, **whole), torch.tensor(first, **whole)

    def _chunks(self) -> Iterator[Tensor]:
        """The states by their numbers, some at a time."""
        total = self._total
        width = max(1, sum(self._sizes) + sum(v[0].numel() for v in self._clamp.values() if len(v)))
        size = max(1, _ENTRIES // (max(1, self._batch) * width))
        for first in range(0, total, size):
            yield torch.arange(first, min(total, first + size), device=self._like.device)

    def _states(self, numbers: Tensor) -> Tensor:
        """The states of some numbers, ``(states, entries)``; other units have their first value."""
        digits = numbers.new_zeros(len(numbers), len(self._first))
        digits[:, self._counted] = numbers.unsqueeze(1) // self._strides % self._radix
        return self._table.t().gather(0, digits[:, self._unit])

    def _values(self, numbers: Tensor) -> Tensor:
        """The states of some numbers for each sample, ``(batch, states, entries)``, held units as held."""
        values = self._states(numbers).expand(self._batch, -1, -1)
        if not self._partly:
            return values
        return torch.where(self._held.unsqueeze(1), self._at.unsqueeze(1), values)

    def _named(self, values: Tensor) -> State:
        """Entries along the last dimension as variables."""
        parts = values.split(self._sizes, -1) if self._sizes else ()
        return {
            name: part.reshape(*part.shape[:-1], *variable.shape)
            for (name, variable), part in zip(self._variables.items(), parts, strict=True)
        }

    def _weights(self, values: Tensor) -> Tensor:
        """-E / T of the states of every sample, ``(batch, states)``."""
        count = values.shape[1]
        state = self._named(values.reshape(self._batch * count, values.shape[2]))
        given = {name: value.repeat_interleave(count, 0) for name, value in self._clamp.items()}
        return self._base.energy(**given, **state).reshape(self._batch, count) * -self._beta

    def log_partition(self) -> Tensor:
        def chunk(numbers: Tensor) -> Tensor:
            return self._weights(self._values(numbers)).logsumexp(1)

        parts = [_lean(chunk, numbers) for numbers in self._chunks()]
        return torch.stack(parts, 1).logsumexp(1) - self._repeats

    def distribution(self) -> Distribution:
        def chunk(numbers: Tensor) -> Tensor:
            values = self._states(numbers).expand(self._batch, -1, -1)
            allowed = (~self._held.unsqueeze(1) | (values == self._at.unsqueeze(1))).all(2)
            return self._weights(values).masked_fill(~allowed, -math.inf)

        weights = torch.cat([_lean(chunk, numbers) for numbers in self._chunks()], 1)
        total = weights.logsumexp(1)
        every = torch.arange(self._total, device=self._like.device)
        return Distribution(self._named(self._states(every)), (weights - total.unsqueeze(1)).exp(), total)

    def moments(self) -> Moments:
        total = self.log_partition()
        norm = (total + self._repeats).unsqueeze(1)

        def chunk(numbers: Tensor) -> tuple[Tensor, Tensor]:
            values = self._values(numbers)
            weighted = (self._weights(values) - norm).exp().unsqueeze(2) * values
            return weighted.sum(1), weighted.transpose(1, 2) @ values

        firsts, seconds = zip(*(_lean(chunk, numbers) for numbers in self._chunks()), strict=True)
        mean, second = torch.stack(firsts).sum(0), torch.stack(seconds).sum(0)
        each = list(zip(self._variables.values(), self._sizes, strict=True))
        low = self._like.new_tensor([v.low for v, size in each for _ in range(size)])
        high = self._like.new_tensor([v.high for v, size in each for _ in range(size)])
        names, shapes = list(self._variables), [v.shape for v in self._variables.values()]
        blocks = [part.split(self._sizes, 2) for part in second.split(self._sizes, 1)] if names else []
        return Moments(
            mean=self._named(mean),
            second={
                (a, b): blocks[i][j].reshape(-1, *shapes[i], *shapes[j])
                for i, a in enumerate(names)
                for j, b in enumerate(names)
            },
            marginals=self._named((mean - low) / (high - low)),
            log_partition=total,
        )


def _lean(chunk: Callable[[Tensor], Result], numbers: Tensor) -> Result:
    """Evaluate a chunk; where gradients are wanted it is evaluated again for them rather than remembered."""
    if not torch.is_grad_enabled():
        return chunk(numbers)
    return checkpoint(chunk, numbers, use_reentrant=False, preserve_rng_state=False)


def _power(states: int) -> str:
    exponent = states.bit_length() - 1
    return f"2**{exponent}" if states == 2**exponent else f"about 2**{math.log2(states):.1f}"
