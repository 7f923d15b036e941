"""The random numbers of samplers: from a generator, or from a tape that a compiled block is fed with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Tape:
    """Random numbers that are drawn outside of a compiled block, in the order in which it uses them.

    Attributes
    ----------
    drawn
        What has been asked for: the kind, ``"normal"`` or ``"uniform"``, and the shape.
    given
        The numbers; where they run out, what is returned is uninitialised, which is enough to learn their
        number and shapes.
    """

    drawn: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)

    def take(self, kind: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The next numbers of the tape."""
        place = len(self.drawn)
        self.drawn.append((kind, shape))
        return self.given[place] if place < len(self.given) else like.new_empty(shape)


Randomness = torch.Generator | Tape | None


def normal(shape: tuple[int, ...], like: Tensor, randomness: Randomness) -> Tensor:
    """Standard normal numbers, of the dtype and device of another tensor."""
    if isinstance(randomness, Tape):
        return randomness.take("normal", shape, like)
    return torch.randn(shape, generator=randomness, dtype=like.dtype, device=like.device)


def uniform(shape: tuple[int, ...], like: Tensor, randomness: Randomness) -> Tensor:
    """Uniform numbers in [0, 1), of the dtype and device of another tensor."""
    if isinstance(randomness, Tape):
        return randomness.take("uniform", shape, like)
    return torch.rand(shape, generator=randomness, dtype=like.dtype, device=like.device)
