"""The Hessian of a smooth part that is the same everywhere and for all samples, and what follows from it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Hessian:
    """A constant Hessian, of the free variables side by side; what is asked of it is computed once.

    Parameters
    ----------
    matrix
        Symmetric.
    tau
        The time constant of each unit.
    """

    def __init__(self, matrix: Float[Tensor, "units units"], tau: Float[Tensor, units]) -> None:
        self.matrix = matrix
        self.tau = tau
        self._inverses: dict[float, Tensor] = {}

    @cached_property
    def rates(self) -> Float[Tensor, units]:
        """The rates of relaxation, rising: eigenvalues in the metric of the time constants."""
        root = self.tau.sqrt()
        return torch.linalg.eigvalsh(self.matrix / (root.unsqueeze(1) * root))

    @cached_property
    def turn(self) -> Float[Tensor, "units units"]:
        """What values in rows are multiplied with to give the linear part of their velocity."""
        return -self.matrix / self.tau

    def inverse(self, penalty: float) -> Float[Tensor, "units units"]:
        """That of the Hessian with ``penalty * tau`` added to its diagonal."""
        if penalty not in self._inverses:
            factor = torch.linalg.cholesky(self.matrix + torch.diag(penalty * self.tau))
            self._inverses = {penalty: torch.cholesky_inverse(factor)}
        return self._inverses[penalty]
