"""Variables: a named tensor of the state has a shape, a domain, a time constant and perhaps a link."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.errors import StateError
from energynet.link import Link

if TYPE_CHECKING:
    from jaxtyping import Shaped


class Variable(ABC):
    """What an energy declares of one of its arguments.

    Parameters
    ----------
    *shape
        Shape of one sample, without the batch: ``Real(8)`` is a vector, ``Real()`` a number.
        A state holds it as a tensor of shape ``(batch, *shape)``.

    Attributes
    ----------
    low, high
        Ends of the closed range of the values; infinite where there is none.
    tau, link
        Time constant and link; 1 and None where nothing is integrated.
    """

    low: float = -math.inf
    high: float = math.inf
    tau: float = 1.0
    link: Link | None = None

    def __init__(self, *shape: int) -> None:
        for size in shape:
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(
                    f"{type(self).__name__}: a shape is made of positive integers, got {shape!r}; "
                    "give the shape of one sample, without the batch"
                )
        self.shape: tuple[int, ...] = shape

    def check(self, name: str, value: Shaped[Tensor, batch * shape]) -> None:
        """Raise `StateError` unless ``value`` is a batch of values of this domain."""
        self.check_shape(name, value)
        self.check_values(name, value)

    def check_shape(self, name: str, value: Shaped[Tensor, batch * shape]) -> None:
        """Raise `StateError` unless ``value`` is a batch of the shape of this variable."""
        if not isinstance(value, Tensor):
            raise StateError(f"variable {name!r}: expected a torch.Tensor, got {type(value).__name__}")
        if value.ndim < 1 or tuple(value.shape[1:]) != self.shape:
            raise StateError(
                f"variable {name!r}: expected shape {_with_batch(self.shape)}, got {tuple(value.shape)}; "
                "the first dimension is the batch"
            )

    def check_values(self, name: str, value: Shaped[Tensor, batch * any]) -> None:
        """Raise `StateError` where a value is not finite or outside the domain."""
        if value.numel() == 0 or value.is_meta:
            return
        if value.dtype == torch.bool:
            raise StateError(
                f"variable {name!r}: expected numbers, got dtype torch.bool; convert it with .float()"
            )
        if value.is_complex():
            if not bool(torch.view_as_real(value).isfinite().all()):
                raise StateError(f"variable {name!r}: expected finite values, got NaN or infinity")
            return
        low, high = (float(end) for end in torch.aminmax(value.detach()))  # NaN spreads to both ends
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = (~value.isfinite()).nonzero()[0].tolist()
            raise StateError(
                f"variable {name!r}: expected finite values, got {value[tuple(bad)].item()} at index {bad}; "
                "clean the data before it is clamped"
            )
        if not self.bounded:
            return
        # an end such as 0.4 is another number in float32, and that is what values are clipped to
        ends = torch.tensor([self.low, self.high], dtype=value.dtype if value.is_floating_point() else None)
        if low < float(ends[0]) or high > float(ends[1]):
            raise StateError(
                f"variable {name!r}: expected values of {self!r}, that is in [{self.low:g}, {self.high:g}], "
                f"got values from {low:g} to {high:g}; rescale them or declare another domain"
            )

    def check_mask(self, name: str, mask: Tensor) -> None:  # noqa: B027 (most domains can be held anywhere)
        """Raise `StateError` where a mask that broadcasts to a value holds less than a whole unit."""

    @property
    def bounded(self) -> bool:
        """Whether the domain has an end."""
        return self.low != -math.inf or self.high != math.inf

    def project(self, value: Tensor) -> Tensor:
        """The nearest point of the domain."""
        if not self.bounded:
            return value
        return value.clamp(
            None if self.low == -math.inf else self.low, None if self.high == math.inf else self.high
        )

    @abstractmethod
    def initial(
        self,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Where settling starts when no state is given."""

    def _fields(self) -> tuple[object, ...]:
        return (self.shape,)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._fields() == other._fields()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.shape))})"


def rows(value: Tensor) -> Tensor:
    """A batch of any shape as a matrix with one row for each sample."""
    return value.flatten(1) if value.ndim > 1 else value.unsqueeze(1)


def _with_batch(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["batch", *map(str, shape)]) + ")"


class Continuous(Variable):
    """A variable that an ODE can move.

    Parameters
    ----------
    *shape
        Shape of one sample.
    tau
        Time constant, in units of the solver's time: ``tau ds/dt = -dE/ds``. 1 by default, so that one
        unit of time is the relaxation time of a leak of curvature 1.
    link
        Where given, a potential u with ``value = link(u)`` is what the flow integrates (mirror flow):
        ``tau du/dt = -dE/da``. None integrates the value itself, projected onto its domain.
    """

    def __init__(self, *shape: int, tau: float = 1.0, link: Link | None = None) -> None:
        super().__init__(*shape)
        if not tau > 0 or not math.isfinite(tau):
            raise ValueError(
                f"{type(self).__name__}: a time constant is positive and finite, got tau={tau!r}"
            )
        self.tau = float(tau)
        self.link = link

    def _check_link(self) -> None:
        if self.link is not None and not (self.low <= self.link.low and self.link.high <= self.high):
            raise ValueError(
                f"{type(self).__name__}: the link {self.link!r} gives values in "
                f"[{self.link.low:g}, {self.link.high:g}], outside the domain [{self.low:g}, {self.high:g}]"
            )

    def reflect(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fold a value back into the domain at its ends, as a wall would.

        Returns
        -------
        value
            Within the domain.
        sign
            -1 where the number of reflections was odd, else 1: what a momentum is multiplied with. None where
            the domain has no end.
        """
        if not self.bounded:
            return value, None
        low, high = self.low, self.high
        if math.isfinite(low) and math.isfinite(high):
            width = high - low
            way = (value - low).remainder(2 * width)
            folded = low + width - (way - width).abs()
            return folded.clamp(low, high), torch.where(way <= width, 1.0, -1.0).to(value.dtype)
        depth = value - low if math.isfinite(low) else high - value
        folded = low + depth.abs() if math.isfinite(low) else high - depth.abs()
        return folded, torch.where(depth >= 0, 1.0, -1.0).to(value.dtype)

    def initial(
        self,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value nearest to zero; with a link, the value at zero potential."""
        zero = torch.zeros(batch, *self.shape, dtype=dtype, device=device)
        return self.project(zero) if self.link is None else self.link.value(zero)

    def _fields(self) -> tuple[object, ...]:
        return (self.shape, self.low, self.high, self.tau, self.link)


@final
class Real(Continuous):
    """A real variable without bounds."""

    def __init__(self, *shape: int, tau: float = 1.0, link: Link | None = None) -> None:
        super().__init__(*shape, tau=tau, link=link)


@final
class NonNegative(Continuous):
    """A real variable in [0, inf)."""

    low = 0.0

    def __init__(self, *shape: int, tau: float = 1.0, link: Link | None = None) -> None:
        super().__init__(*shape, tau=tau, link=link)
        self._check_link()


@final
class Unit(Continuous):
    """A real variable in [0, 1]: a firing rate, or a probability."""

    low, high = 0.0, 1.0

    def __init__(self, *shape: int, tau: float = 1.0, link: Link | None = None) -> None:
        super().__init__(*shape, tau=tau, link=link)
        self._check_link()


@final
class Interval(Continuous):
    """A real variable in [low, high]; one of the ends may be infinite."""

    def __init__(
        self, *shape: int, low: float, high: float, tau: float = 1.0, link: Link | None = None
    ) -> None:
        super().__init__(*shape, tau=tau, link=link)
        if not low < high:
            raise ValueError(f"Interval: expected low < high, got low={low!r}, high={high!r}")
        self.low, self.high = float(low), float(high)
        self._check_link()

    def __repr__(self) -> str:
        return f"Interval({''.join(f'{n}, ' for n in self.shape)}low={self.low:g}, high={self.high:g})"


class Discrete(Variable):
    """A variable whose units take a few values each; `Gibbs` and `Glauber` move it, ODE solvers refuse it."""

    @property
    @abstractmethod
    def alternatives(self) -> tuple[tuple[float, ...], ...]:
        """The values that one unit can take, each as the entries of the unit."""


class TwoValued(Discrete):
    """A discrete variable whose every entry is a unit with two values."""

    values: tuple[float, float]

    @property
    def alternatives(self) -> tuple[tuple[float, ...], ...]:
        return tuple((value,) for value in self.values)

    def project(self, value: Tensor) -> Tensor:
        """The nearer of the two values; the lower one halfway."""
        low, high = self.values
        return torch.where(value > (low + high) / 2, high, low).to(value.dtype)

    def check_values(self, name: str, value: Tensor) -> None:
        super().check_values(name, value)
        if value.is_meta:
            return
        first, second = self.values
        off = (value - first) * (value - second)
        if value.numel() and bool(off.abs().amax() > 0):
            wrong = (value != first) & (value != second)
            raise StateError(
                f"variable {name!r}: expected only the values {first:g} and {second:g} of {self!r}, "
                f"got {value[wrong][0].item():g}"
            )

    def initial(
        self,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One of the two values, each with probability 1/2."""
        first, second = self.values
        coin = torch.rand(batch, *self.shape, dtype=dtype, device=device, generator=generator) < 0.5
        return torch.where(coin, first, second).to(dtype)


@final
class Bit(TwoValued):
    """A variable with the values 0 and 1."""

    low, high, values = 0.0, 1.0, (0.0, 1.0)


@final
class Spin(TwoValued):
    """A variable with the values -1 and +1."""

    low, high, values = -1.0, 1.0, (-1.0, 1.0)


@final
class Unspecified(Variable):
    """A variable whose shape and domain another energy of the same sum decides.

    A cost declares its output this way, so that ``energy + beta * SquaredError("y")`` takes ``y`` from
    the energy.
    """

    def __init__(self) -> None:
        super().__init__()

    def check_shape(self, name: str, value: Tensor) -> None:
        if not isinstance(value, Tensor) or value.ndim < 1:
            raise StateError(f"variable {name!r}: expected a tensor with a batch dimension, got {value!r}")

    def initial(
        self,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        raise StateError(
            "a variable of unspecified shape has no initial value; add the cost to an energy that declares "
            "the variable, or give its value in the state"
        )
