"""What machines of the law exp(-E) / Z share: log Z and the likelihood of data, exact or estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from energynet import exact
from energynet.annealing import AnnealedImportanceSampling
from energynet.energy import Composite, Energy
from energynet.errors import StateError
from energynet.factorial import entropy, factorial
from energynet.state import State
from energynet.terms import Field
from energynet.variable import Discrete, TwoValued, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ENUMERATED = 20  # as many as `exact` enumerates


@dataclass(frozen=True, eq=False)
class LogPartition:
    """log Z, and how well it is known.

    Attributes
    ----------
    log_partition
        One number, ``(1,)``, or one for each sample of what is given, ``(batch,)``.
    standard_error
        The same, of `log_partition`; 0 where it is exact.
    """

    log_partition: Float[Tensor, batch]
    standard_error: Float[Tensor, batch]


class Machine(Composite):
    """An energy of visible and hidden variables, whose law is exp(-E) / Z.

    Attributes
    ----------
    visible
        The variable that data are of.
    given
        Variables that the law is conditional on; none by default.
    """

    visible: str = "v"
    given: tuple[str, ...] = ()

    def free_energy(self, v: Float[Tensor, "batch ..."], **given: Tensor) -> Float[Tensor, batch]:
        """F(v) = -log of the sum over hidden states of exp(-E(v, h)), with gradients, but not second ones.

        In closed form where hidden units are independent given the data, else by enumeration. The means of
        these units are held in the gradient, which is then exact; a derivative of it would be wrong.

        Parameters
        ----------
        v
            Data.
        **given
            What the law is conditional on.

        Raises
        ------
        SettlingError
            If more than 20 hidden units depend on each other.
        """
        data = self.data(v, given)
        hidden = [name for name in self.variables if name not in data]
        if not hidden:
            return self.energy(**data)
        with torch.no_grad():
            law = factorial(self, hidden, data)
            means = None if law is None else law.means()
        if means is None:
            return -exact.log_partition(self, clamp=data)
        # the means are where E less their entropy is least, so that its gradient passes them by
        energy = self.energy(**data, **means)
        return energy - entropy(self.variables, means, energy)

    def data(self, v: Tensor, given: State) -> State:
        """Data and what is given, checked."""
        self._require(given)
        data = {self.visible: v, **given}
        self.check(data, partial=True)
        return data

    def _require(self, given: State) -> None:
        missing = [name for name in self.given if name not in given]
        if missing:
            raise StateError(
                f"{type(self).__name__}: no value for {', '.join(map(repr, missing))}, which its law is "
                f"conditional on; pass {', '.join(f'{name}=' for name in missing)}"
            )

    def summed(self) -> Energy:
        """An energy of the same partition function, of as few units as can be had in closed form."""
        return self

    def independent(self) -> tuple[str, ...]:
        """Variables whose units are independent given all others: annealing sums them out."""
        return ()

    def log_partition(
        self,
        method: str | None = None,
        *,
        given: State | None = None,
        base: Energy | None = None,
        steps: int = 1000,
        chains: int = 100,
        generator: torch.Generator | None = None,
    ) -> LogPartition:
        """Find log Z, with its standard error.

        Parameters
        ----------
        method
            ``"exact"``: by enumeration, with gradients. ``"ais"``: by `AnnealedImportanceSampling`, whose
            expectation is below log Z. None, the default: exact where at most 20 units are to be enumerated.
        given
            What the law is conditional on.
        base, steps, chains, generator
            Of annealed importance sampling; `base_rates` makes a good base from data.
        """
        if method not in (None, "exact", "ais"):
            raise ValueError(f'log_partition: method must be "exact", "ais" or None, got {method!r}')
        given = dict(given or {})
        self._require(given)
        summed = self.summed()
        free = {name: v for name, v in summed.variables.items() if name not in given}
        if method == "exact" or (method is None and _enumerable(free)):
            value = exact.log_partition(summed, clamp=given)
            return LogPartition(value, torch.zeros_like(value))
        annealing = AnnealedImportanceSampling(
            self, base=base, steps=steps, chains=chains, summed=self.independent()
        )
        found = annealing.estimate(given, generator=generator)
        return LogPartition(found.log_partition, found.standard_error)

    def log_likelihood(
        self,
        v: Float[Tensor, "batch ..."],
        method: str | None = None,
        *,
        partition: LogPartition | None = None,
        base: Energy | None = None,
        steps: int = 1000,
        chains: int = 100,
        generator: torch.Generator | None = None,
        **given: Tensor,
    ) -> Float[Tensor, batch]:
        """Find log p(v) = -F(v) - log Z, in nats (a density where data are continuous).

        Parameters
        ----------
        v
            Data.
        method
            As in `log_partition`. By ``"ais"`` the expectation is above the truth, as that of log Z is below.
        partition
            What `log_partition` found before, for its standard error is that of the mean over all data, too.
        base, steps, chains, generator
            As in `log_partition`.
        **given
            What the law is conditional on.
        """
        if partition is None:
            partition = self.log_partition(
                method, given=given, base=base, steps=steps, chains=chains, generator=generator
            )
        free = self.free_energy(v, **given)
        return -free - partition.log_partition.to(free.dtype)

    def pseudo_likelihood(
        self,
        v: Float[Tensor, "batch ..."],
        *,
        units: int | None = None,
        generator: torch.Generator | None = None,
        **given: Tensor,
    ) -> Float[Tensor, batch]:
        """The sum over visible units of log p(unit | all other visible ones) (Besag 1975).

        Parameters
        ----------
        v
            Data, of bits or spins.
        units
            An unbiased estimate from so many units, picked at random for the whole batch; None, the default,
            for all.
        generator
            Of what is picked.
        **given
            What the law is conditional on.

        Raises
        ------
        StateError
            If data are not of two values.
        """
        if not isinstance(self.variables[self.visible], TwoValued):
            raise StateError(
                f"pseudo_likelihood: expected bits or spins, {self.visible!r} is "
                f"{self.variables[self.visible]!r}"
            )
        data = self.data(v, given)
        count = rows(v).shape[1]
        index = torch.arange(count, device=v.device)
        if units is not None:
            where = v.device if generator is None else generator.device
            index = torch.randperm(count, generator=generator, device=where)[:units].to(v.device)
        now = self.free_energy(v, **given)
        found = functional.logsigmoid(self.flipped(data, index) - now.unsqueeze(1)).sum(1)
        return found if units is None else found * (count / len(index))

    def flipped(self, data: State, index: Int[Tensor, units]) -> Float[Tensor, "batch units"]:
        """The free energies were one visible unit the other way, for some of the units."""
        v, variable = data[self.visible], self.variables[self.visible]
        given = {name: value for name, value in data.items() if name != self.visible}
        found = []
        for unit in index.unbind(0):
            other = rows(v).clone()
            other[:, unit] = variable.low + variable.high - other[:, unit]
            found.append(self.free_energy(other.reshape(v.shape), **given))
        return torch.stack(found, 1)

    def base_rates(self, v: Float[Tensor, "batch ..."], smoothing: float = 1.0) -> Energy:
        """A base for annealed importance sampling: independent units with the means of data.

        Hidden units are uniform (Salakhutdinov and Murray 2008, ICML, sec. 3.1).

        Parameters
        ----------
        v
            Data, of bits or spins.
        smoothing
            How many samples of each value are added, so that no unit is certain.
        """
        variable = self.variables[self.visible]
        if not isinstance(variable, TwoValued):
            raise StateError(
                f"base_rates: expected bits or spins, {self.visible!r} is {variable!r}; leave base= out, for "
                "the standard base"
            )
        fields = [Field(**{n: var}) for n, var in self.variables.items() if n not in self.given]
        width = variable.high - variable.low
        high = (v.sum(0) - len(v) * variable.low) / width
        rate = (high + smoothing) / (len(v) + 2 * smoothing)
        for field in fields:
            field.to(v)
            if field.variable == self.visible:
                with torch.no_grad():
                    field.bias.copy_(rate.logit() / width)
        return sum(fields[1:], fields[0])


def _enumerable(variables: Mapping[str, Variable]) -> bool:
    return sum(bits(variable) for variable in variables.values()) <= ENUMERATED


def bits(variable: Variable) -> float:
    """How many bits have as many states as a variable; infinitely many where it is continuous."""
    if not isinstance(variable, Discrete):
        return math.inf
    choices = variable.alternatives
    return prod(variable.shape) / len(choices[0]) * math.log2(len(choices))
