"""The random numbers of samplers: from a generator, or from a tape that a compiled block is fed with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Tape:
    """Random numbers that are drawn outside of a compiled block, in the order in which it uses them.

    Attributes
    ----------
    given
        The numbers; where they run out there are zeros, which are enough to learn what is asked for.
    drawn
        What has been handed out, with its kind, ``"normal"`` or ``"uniform"``.
    """

    given: Sequence[Tensor] = ()
    drawn: list[tuple[str, Tensor]] = field(default_factory=list)

    @property
    def asked(self) -> list[tuple[str, tuple[int, ...]]]:
        """What has been asked for: the kinds and the shapes."""
        return [(kind, tuple(numbers.shape)) for kind, numbers in self.drawn]

    def take(self, kind: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The next numbers of the tape."""
        place = len(self.drawn)
        numbers = self.given[place] if place < len(self.given) else like.new_zeros(shape)
        self.drawn.append((kind, numbers))
        return numbers


Randomness = torch.Generator | Tape | None


@dataclass(frozen=True)
class Draw:
    """What a tape must hold at one place: the kind of the numbers, and how they look.

    Uniform numbers are of the open interval (0, 1). Generators draw multiples of a spacing, zero among them,
    whose logarithm would outdo any difference of energies: numbers are moved inwards, by about a spacing.
    """

    kind: str
    dtype: torch.dtype
    device: torch.device

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        if self.kind == "normal":
            return torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device)
        if self.dtype == torch.float32 and self.device.type == "cpu":
            return _halves(shape, generator)
        spacing = torch.finfo(self.dtype).eps
        numbers = torch.rand(shape, generator=generator, dtype=self.dtype, device=self.device)
        return numbers.mul_(1 - spacing).add_(spacing / 4)


def _halves(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in float32, two of each 64 random bits: two thirds of what torch.rand takes."""
    count = math.prod(shape)
    spacing = torch.finfo(torch.float32).eps
    bits = torch.empty((count + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    numbers = bits.view(torch.int32)[:count].to(torch.float32)
    return numbers.mul_(2.0**-32 * (1 - spacing)).add_(0.5 - spacing / 4).reshape(shape)


def normal(shape: tuple[int, ...], like: Tensor, randomness: Randomness) -> Tensor:
    """Standard normal numbers, of the dtype and device of another tensor."""
    if isinstance(randomness, Tape):
        return randomness.take("normal", shape, like)
    return Draw("normal", like.dtype, like.device)(shape, randomness)


def uniform(shape: tuple[int, ...], like: Tensor, randomness: Randomness) -> Tensor:
    """Uniform numbers in (0, 1), of the dtype and device of another tensor; they may be overwritten."""
    if isinstance(randomness, Tape):
        return randomness.take("uniform", shape, like).clone()
    return Draw("uniform", like.dtype, like.device)(shape, randomness)


def numbers(kind: str, shape: tuple[int, ...], like: Tensor, randomness: Randomness) -> Tensor:
    """Random numbers of a kind, ``"normal"`` or ``"uniform"``."""
    return (normal if kind == "normal" else uniform)(shape, like, randomness)
