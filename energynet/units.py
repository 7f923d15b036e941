"""Units: what a sampler draws at a time, each given all others, by the domain of its variable.

All functions take units along the first dimension and samples along the second. A unit is described by its
code, which is what couplings are written in, and by the field on it: what the energy falls by for each unit
of the code, so that given all others the energy is curvature code^2 / 2 - field code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.errors import SettlingError
from energynet.link import Link
from energynet.one_hot import OneHot
from energynet.truncated import truncated_normal
from energynet.variable import Continuous, Discrete, TwoValued, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float

_ROUNDING = 32.0  # differences below so many units of rounding of the largest count as none

Temperature = float | Tensor


class Units(ABC):
    """The units of a variable.

    Parameters
    ----------
    variable
        The declaration.

    Attributes
    ----------
    size
        The number of entries of the variable.
    entries
        How many of them make a unit.
    origin, width
        The value of the code 0, and the distance from there to the value of the code 1.
    middle
        The value at which the force on an entry, times the width, is the field.
    noise
        The kind of random numbers that a unit is drawn with: ``"uniform"`` or ``"normal"``.
    """

    entries = 1
    origin, width, middle = 0.0, 1.0, 0.0
    noise = "uniform"

    def __init__(self, variable: Variable) -> None:
        self.variable = variable
        self.size = math.prod(variable.shape)

    @property
    def count(self) -> int:
        """The number of units."""
        return self.size // self.entries

    def code(self, value: Tensor) -> Float[Tensor, units * batch]:
        """What a value ``(batch, *shape)`` is in the terms that couplings are written in."""
        return rows(value).t()

    def value(self, code: Tensor, like: Tensor) -> Tensor:
        """The value, of the shape of another one, that a code stands for."""
        return code.t().contiguous().reshape(like.shape)

    @abstractmethod
    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        """New codes from their distribution given all others.

        Parameters
        ----------
        field, code
            Of the units.
        curvature
            The second derivative of the energy by the code; None for discrete units, whose field has it.
        noise
            Random numbers of the kind `noise`, which may be overwritten; None at temperature 0, where the
            energy is minimised and a tie stays as it is.
        heat
            The temperature: one number, or one for each sample, ``(batch,)``.
        """

    @abstractmethod
    def gain(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, new: Tensor
    ) -> Float[Tensor, units * batch]:
        """The energy that changes of units release."""

    @abstractmethod
    def released(self, field: Tensor, curvature: Tensor | None, code: Tensor) -> Tensor:
        """For each entry the energy that moving its unit there would release, or to the best place."""

    def changed(self, code: Tensor, new: Tensor) -> Float[Tensor, units * batch]:
        """1 where a unit has changed, else 0."""
        return (code != new).to(code.dtype)


class Listed(Units):
    """Units of a few values.

    Attributes
    ----------
    alternatives
        The values of one unit, each as its entries.
    """

    def __init__(self, variable: Discrete) -> None:
        super().__init__(variable)
        self.alternatives = variable.alternatives


@final
class Pair(Listed):
    """Units with two values; the code is 0 at the low and 1 at the high one."""

    def __init__(self, variable: TwoValued) -> None:
        super().__init__(variable)
        self.origin, self.width = variable.low, variable.high - variable.low
        self.middle = (variable.low + variable.high) / 2

    def high(self, value: Tensor) -> Tensor:
        """Where a unit is at its high value."""
        return value > self.middle

    def code(self, value: Tensor) -> Tensor:
        return self.high(rows(value)).to(value.dtype).t()

    def value(self, code: Tensor, like: Tensor) -> Tensor:
        return super().value(code * self.width + self.origin, like)

    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        if noise is None:
            return self._descended(field, code)
        if not isinstance(heat, Tensor):
            chance = (field if heat == 1 else field / heat).sigmoid()
            return noise.lt_(chance)
        warm = heat > 0
        chance = (field / torch.where(warm, heat, 1.0)).sigmoid()
        return torch.where(warm, (noise < chance).to(field.dtype), self._descended(field, code))

    def _descended(self, field: Tensor, code: Tensor) -> Tensor:
        return (field > rounding(field.abs().amax(0)) * (1 - 2 * code)).to(field.dtype)

    def gain(self, field: Tensor, curvature: Tensor | None, code: Tensor, new: Tensor) -> Tensor:
        return finite(field) * (new - code)

    def changed(self, code: Tensor, new: Tensor) -> Tensor:
        return (new - code).abs_()

    def released(self, field: Tensor, curvature: Tensor | None, code: Tensor) -> Tensor:
        return torch.where(code > 0.5, -field, field)


@final
class Choice(Listed):
    """Units with one entry of many that is 1."""

    width, middle = 1.0, 0.5

    def __init__(self, variable: OneHot) -> None:
        super().__init__(variable)
        self.entries = variable.shape[-1]

    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        score, now = self._apart(field), self._apart(code)
        margin = moving(heat, score.abs().amax((0, 1)))
        if margin is not None:
            score = score + margin * now
        if noise is not None:  # Gumbel's maximum is a draw (Gumbel 1954; Maddison et al. 2014)
            extreme = -(-self._apart(noise).log()).log()
            heated = score + heat * extreme
            # infinitely many energies apart, or none: no noise where it is cold
            score = torch.where(heat > 0, heated, score) if isinstance(heat, Tensor) else heated
        best = score.argmax(1, keepdim=True)
        return torch.zeros_like(now).scatter_(1, best, 1.0).reshape(code.shape)

    def gain(self, field: Tensor, curvature: Tensor | None, code: Tensor, new: Tensor) -> Tensor:
        finite = torch.finfo(field.dtype).max / self.entries
        return self._apart(field.clamp(-finite, finite) * (new - code)).sum(1)

    def released(self, field: Tensor, curvature: Tensor | None, code: Tensor) -> Tensor:
        score = self._apart(field)
        now = torch.where(self._apart(code) > 0.5, score, 0.0).sum(1, keepdim=True)
        return (score - now).reshape(field.shape)

    def changed(self, code: Tensor, new: Tensor) -> Tensor:
        return 0.5 * self._apart((code - new).abs()).sum(1)

    def _apart(self, entries: Tensor) -> Tensor:
        return entries.unflatten(0, (-1, self.entries))


class Graded(Units):
    """Real units in which the energy is quadratic: their distribution is normal."""

    def gain(self, field: Tensor, curvature: Tensor | None, code: Tensor, new: Tensor) -> Tensor:
        assert curvature is not None
        change = new - code
        still = change.abs() <= rounding(torch.maximum(new.abs(), code.abs()).amax(0))
        return torch.where(still, 0.0, change * (field - 0.5 * curvature * (new + code)))

    def released(self, field: Tensor, curvature: Tensor | None, code: Tensor) -> Tensor:
        assert curvature is not None
        return self.gain(field, curvature, code, self.variable.project(field / curvature))


@final
class Free(Graded):
    """Graded units without bounds."""

    noise = "normal"

    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        assert curvature is not None
        mean = field / curvature
        return mean if noise is None else mean + (heat / curvature).sqrt() * noise


@final
class Bounded(Graded):
    """Graded units within ends: normal between them."""

    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        assert curvature is not None
        mean = field / curvature
        least = self.variable.project(mean)
        if noise is None:
            return least
        ends = self.variable.low, self.variable.high
        if not isinstance(heat, Tensor):
            return truncated_normal(mean, (heat / curvature).sqrt().expand_as(mean), *ends, noise)
        warm = heat > 0
        deviation = (torch.where(warm, heat, 1.0) / curvature).sqrt().expand_as(mean)
        return torch.where(warm, truncated_normal(mean, deviation, *ends, noise), least)


@final
class Linked(Units):
    """Graded units with a link, at their minimum: what they are at T = 0 under a `Leak` and a field.

    The code is the potential, for that is where the force of the leak is linear. All units of the variable
    count as one, for a `Softmax` moves them together.
    """

    def __init__(self, name: str, variable: Continuous, link: Link) -> None:
        super().__init__(variable)
        self._name, self._link = name, link

    def drawn(
        self, field: Tensor, curvature: Tensor | None, code: Tensor, noise: Tensor | None, heat: Temperature
    ) -> Tensor:
        assert curvature is not None
        if noise is not None:
            raise SettlingError(
                "above temperature 0 Gibbs and Glauber draw continuous units without a link; "
                f"{self._name!r} is {self.variable!r} with {self._link!r}: clamp it, or use a sampler of "
                "continuous variables such as Langevin"
            )
        return field / curvature

    def gain(self, field: Tensor, curvature: Tensor | None, code: Tensor, new: Tensor) -> Tensor:
        assert curvature is not None
        still = ((new - code).abs() <= rounding(torch.maximum(new.abs(), code.abs()).amax(0))).all(0)
        here, there = self._apart(code), self._apart(new)
        leaked = self._link.integral(there) - self._link.integral(here)
        each = field * rows(there - here).t() - curvature * rows(leaked).t()
        return torch.where(still, 0.0, each.sum(0)).unsqueeze(0)

    def released(self, field: Tensor, curvature: Tensor | None, code: Tensor) -> Tensor:
        assert curvature is not None
        return self.gain(field, curvature, code, field / curvature).expand(code.shape)

    def _apart(self, code: Tensor) -> Tensor:
        """The values, ``(batch, *shape)``."""
        return self._link.value(code.t().reshape(-1, *self.variable.shape))


def units_of(name: str, variable: Variable) -> Units:
    """The units of a variable.

    Raises
    ------
    SettlingError
        If no sampler can draw them.
    """
    if isinstance(variable, TwoValued):
        return Pair(variable)
    if isinstance(variable, OneHot):
        return Choice(variable)
    if not isinstance(variable, Continuous):
        raise SettlingError(f"{name!r} is {variable!r}, of which no one knows what its units are; clamp it")
    if variable.link is not None:
        return Linked(name, variable, variable.link)
    return Bounded(variable) if variable.bounded else Free(variable)


def barriers(noise: Tensor | None, heat: Temperature) -> Tensor | None:
    """What the fields of two-valued units are compared with."""
    if noise is None:
        return None
    level = heat * noise.logit()
    return torch.where(heat > 0, level, 0.0) if isinstance(heat, Tensor) else level


def moving(heat: Temperature, scale: Tensor) -> Tensor | None:
    """How much lower the energy must be for a unit to move: above rounding at T = 0, nothing above."""
    if isinstance(heat, Tensor):
        return torch.where(heat > 0, 0.0, rounding(scale))
    return None if heat else rounding(scale)


def finite(field: Tensor) -> Tensor:
    """Fields without infinity: leaving a forbidden state releases infinitely much."""
    largest = torch.finfo(field.dtype).max
    return field.clamp(-largest, largest)


def rounding(scale: Tensor) -> Tensor:
    """The size below which a difference is rounding, where the largest is ``scale``; above zero."""
    limits = torch.finfo(scale.dtype)
    return (_ROUNDING * limits.eps * scale).clamp(min=limits.tiny)
