"""Where the atoms of a dictionary may be: on the unit sphere, from 0 up, orthonormal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float


def unit(weight: Float[Tensor, "inputs atoms"]) -> Float[Tensor, "inputs atoms"]:
    """Every atom, a column, scaled to unit norm; one of zeros stays."""
    return functional.normalize(weight, dim=0, eps=torch.finfo(weight.dtype).tiny)


def nonnegative(weight: Float[Tensor, "inputs atoms"]) -> Float[Tensor, "inputs atoms"]:
    """Numbers below 0 become 0, then unit norm; of an atom without one above 0 the largest becomes 1."""
    positive = weight.clamp(min=0.0)
    largest = functional.one_hot(weight.argmax(0), len(weight)).mT.to(weight)
    return unit(torch.where(positive.any(0), positive, largest))


def orthonormal(weight: Float[Tensor, "inputs atoms"]) -> Float[Tensor, "inputs atoms"]:
    """The nearest matrix of orthonormal columns, its polar factor; of rows, where there are more atoms."""
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    return left @ right


def free(weight: Float[Tensor, "inputs atoms"]) -> Float[Tensor, "inputs atoms"]:
    """As it is."""
    return weight


@dataclass(frozen=True)
class Domain:
    """Where the atoms of a dictionary may be.

    Attributes
    ----------
    project
        The nearest dictionary that is allowed.
    start
        From a dictionary at random to the first one: not always its projection, in which an atom with no
        number above zero would be zero, and stay so, for its codes have no effect.
    minimise
        From the present dictionary and the sums ``A`` of a a' and ``B`` of x a' to the allowed one of least
        error, |W A^(1/2)|^2 / 2 - <W, B>; None where that has no closed form.
    """

    project: Callable[[Tensor], Tensor]
    start: Callable[[Tensor], Tensor]
    minimise: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


def _least_squares(weight: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Atoms that no code uses stay."""
    return weight + (outer - weight @ inner) @ torch.linalg.pinv(inner, hermitian=True)


def _procrustes(weight: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """With orthonormal columns <W, B> is all that depends on W (Schoenemann 1966, Psychometrika 31:1)."""
    inputs, atoms = len(weight), len(inner)
    if inputs < atoms:
        raise ValueError(
            f"orthonormal atoms are fitted where they are no more than the inputs, got {atoms} atoms for "
            f"{inputs} inputs"
        )
    return orthonormal(outer)


ATOMS: dict[str, Domain] = {
    "unit": Domain(unit, unit),
    "nonnegative": Domain(nonnegative, lambda weight: unit(weight.abs())),
    "orthonormal": Domain(orthonormal, orthonormal, _procrustes),
    "free": Domain(free, free, _least_squares),
}
_STEPS = 20  # of projected gradient descent, where the next codes change the problem anyway


def fitted(
    weight: Float[Tensor, "inputs atoms"],
    inner: Float[Tensor, "atoms atoms"],
    outer: Float[Tensor, "inputs atoms"],
    domain: Domain,
    steps: int = _STEPS,
) -> Float[Tensor, "inputs atoms"]:
    """A dictionary of less error for given codes, all atoms at once.

    Parameters
    ----------
    weight
        The present one.
    inner, outer
        The sums over samples of a a' and of x a'.
    domain
        Where atoms may be.
    steps
        Of projected gradient descent, each 1 over the largest eigenvalue of ``inner``.
    """
    if domain.minimise is not None:
        return domain.minimise(weight, inner, outer)
    rate = torch.linalg.eigvalsh(inner)[-1].clamp(min=torch.finfo(weight.dtype).tiny)
    for _ in range(steps):
        weight = domain.project(weight + (outer - weight @ inner) / rate)
    return weight


@final
class Homeostasis(nn.Module):
    """Keeps the variance of every code near a goal by the norms of its atom (Olshausen and Field 1996).

    Atoms whose codes vary too little shrink, so that they need larger codes, and others grow: none dies out,
    and no unit norm is imposed. In place of `SparseCoding.project_`, after each step of an optimiser. The
    defaults are those of the program that the authors published, sparsenet.

    Parameters
    ----------
    n_atoms
        Atoms of the dictionary.
    goal
        The variance wanted.
    rate
        Exponent of the ratio of variance and goal in the gain.
    memory
        Weight of a batch in the running mean of squared codes.

    Attributes
    ----------
    variance, gain
        Buffers, ``(n_atoms,)``: the running mean, the goal at first; and the norms.
    """

    def __init__(self, n_atoms: int, goal: float = 0.1, *, rate: float = 0.02, memory: float = 0.001) -> None:
        super().__init__()
        for name, number in (("goal", goal), ("rate", rate), ("memory", memory)):
            if not number > 0:
                raise ValueError(f"Homeostasis: {name} must be a positive number, got {number!r}")
        self.goal, self.rate, self.memory = goal, rate, memory
        self.variance: Tensor
        self.gain: Tensor
        self.register_buffer("variance", torch.full((n_atoms,), goal))
        self.register_buffer("gain", torch.ones(n_atoms))

    @torch.no_grad()
    def adapt_(self, weight: Float[Tensor, "inputs atoms"], codes: Float[Tensor, "batch atoms"]) -> None:
        """Take note of the codes of a batch, and scale the atoms in place."""
        self.variance.lerp_(codes.square().mean(0).to(self.variance), self.memory)
        self.gain.mul_((self.variance / self.goal) ** self.rate)
        weight.copy_(unit(weight) * self.gain.to(weight))
