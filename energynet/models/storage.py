"""Storage rules: the couplings that make patterns of spins fixed points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# A rule takes W, symmetric with zero diagonal where the mask has couplings, the diagonal that the projection
# has and W has not, patterns (count, units) and the mask; it gives the new W and the new diagonal.
Rule = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]

_SWEEPS = 1000  # of the perceptron rule, over all patterns


def _without_diagonal(matrix: Tensor, mask: Tensor | None) -> Tensor:
    matrix = matrix if mask is None else matrix * mask
    return matrix.fill_diagonal_(0.0)


def hebb(
    weight: Float[Tensor, "units units"], diagonal: Tensor, patterns: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """W_ij += 1/n sum over patterns of x_i x_j (Hopfield 1982, eq. 2)."""
    units = patterns.shape[1]
    return weight + _without_diagonal(patterns.t() @ patterns / units, mask), diagonal


def storkey(weight: Tensor, diagonal: Tensor, patterns: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One pattern after the other, less what the network already does to it.

    W_ij += (x_i x_j - x_i h_ji - h_ij x_j) / n, where h_ij = sum over k other than i and j of W_ik x_k
    (Storkey and Valabregue 1999, Neural Netw. 12:869, eq. 6).
    """
    units = patterns.shape[1]
    weight = weight.clone()
    for x in patterns:
        # h_ij x_j = h_i x_j - W_ij, for x_j^2 = 1 and W_ii = 0, so the sum of both sides is symmetric
        change = torch.outer(x, 0.5 * x - weight @ x)
        weight += _without_diagonal((change + change.t() + 2 * weight) / units, mask)
    return weight, diagonal


def pseudoinverse(
    weight: Tensor, diagonal: Tensor, patterns: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """W + diagonal is the projection onto all patterns that have been stored.

    Personnaz, Guyon and Dreyfus 1985, J. Phys. Lett. 46:L359. What is new in the patterns is
    added to the projection, so that one at a time is the same as all at once.
    """
    if mask is not None:
        raise ValueError("store: the pseudo-inverse rule has no diluted form; use 'hebb' or 'perceptron'")
    projection = weight.double() + diagonal.double().diag()
    size, own = float(projection.square().sum()), float(projection.trace())
    if abs(size - own) > 1e-3 * (1 + own):  # a projection is its own square
        raise ValueError(
            "store: the pseudo-inverse rule extends the projection onto the patterns it has stored, but the "
            "couplings are of another rule; call forget() first"
        )
    fresh = patterns.double()
    fresh = fresh - fresh @ projection
    _, strength, directions = torch.linalg.svd(fresh, full_matrices=False)
    directions = directions[strength > 1e-4 * patterns.shape[1] ** 0.5]
    projection = projection + directions.t() @ directions
    if round(float(projection.trace())) == len(projection):  # its rank: what is off the diagonal is rounding
        projection = torch.eye(len(projection)).to(projection)
    found = projection.to(weight.dtype)
    return _without_diagonal(found.clone(), None), found.diagonal().clone()


def perceptron(
    weight: Tensor, diagonal: Tensor, patterns: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Couplings are strengthened until every unit of these patterns has a field of at least 1 that way.

    W_ij += (e_i + e_j) x_i x_j / (2 n), e_i being 1 where x_i h_i < 1 and else 0 (Diederich and Opper 1987,
    Phys. Rev. Lett. 58:949; Gardner 1988, J. Phys. A 21:257, for symmetric couplings). All patterns are
    learnt in parallel. Patterns stored before are not looked at, and may be lost.
    """
    units = patterns.shape[1]
    for _ in range(_SWEEPS):
        weak = (patterns * (patterns @ weight) < 1).to(weight.dtype)
        if not bool(weak.any()):
            return weight, diagonal
        change = (weak * patterns).t() @ patterns / (2 * units)
        weight = weight + _without_diagonal(change + change.t(), mask)
    count = int((patterns * (patterns @ weight) <= 0).any(1).sum())
    warnings.warn(
        f"store: after {_SWEEPS} sweeps of the perceptron rule {count} of {len(patterns)} patterns are not "
        "stable, and others by a small margin; store fewer patterns, or use more units",
        RuntimeWarning,
        stacklevel=4,
    )
    return weight, diagonal


RULES: dict[str, Rule] = {
    "hebb": hebb,
    "storkey": storkey,
    "pseudoinverse": pseudoinverse,
    "perceptron": perceptron,
}
