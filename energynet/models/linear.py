"""Linear generative models: data are a dictionary times codes, and what they differ in are the codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from energynet.energy import Composite
from energynet.models.atoms import ATOMS, fitted
from energynet.terms import Reconstruction
from energynet.variable import Real, Variable

if TYPE_CHECKING:
    from jaxtyping import Float


class LinearModel(Composite):
    """A model in which ``x`` is a dictionary times ``a``, up to noise.

    Parameters
    ----------
    n_inputs
        Units of ``x``.
    codes
        The declaration of ``a``, a vector.
    variance, learn_variance
        Of the noise, and whether it is a parameter; see `Reconstruction`.
    atoms
        Where atoms may be: ``"unit"`` norm; ``"nonnegative"``, of unit norm and from 0 up;
        ``"orthonormal"``; or ``"free"``.

    Attributes
    ----------
    reconstruction
        The term of the error.
    atoms
        Where atoms may be.
    """

    def __init__(
        self,
        n_inputs: int,
        codes: Variable,
        *,
        variance: float = 1.0,
        learn_variance: bool = False,
        atoms: str = "unit",
    ) -> None:
        x = Real(n_inputs)
        super().__init__(x=x, a=codes)
        if atoms not in ATOMS:
            raise ValueError(f"{type(self).__name__}: atoms must be one of {', '.join(ATOMS)}, got {atoms!r}")
        self.atoms = atoms
        self.reconstruction = Reconstruction(
            "a", "x", variance=variance, learn_variance=learn_variance, a=codes, x=x
        )
        with torch.no_grad():
            self.weight.copy_(ATOMS[atoms].start(self.weight))

    @property
    def weight(self) -> nn.Parameter:
        """The dictionary, (n_inputs, n_atoms), one atom a column."""
        return self.reconstruction.weight

    @torch.no_grad()
    def project_(self) -> None:
        """Put the atoms back where they may be, in place: to be called after each step of an optimiser."""
        self.weight.copy_(ATOMS[self.atoms].project(self.weight))

    def update_(self, x: Float[Tensor, "batch inputs"], a: Float[Tensor, "batch atoms"]) -> None:
        """Move the atoms, all at once and in place, to where the error of these codes is least.

        Exact for free and for orthonormal atoms; some steps of projected gradient descent for others.
        """
        self.fit_(a.T @ a, x.T @ a)

    @torch.no_grad()
    def fit_(self, inner: Float[Tensor, "atoms atoms"], outer: Float[Tensor, "inputs atoms"]) -> None:
        """`update_` from the sums, or the means, over samples of a a' and of x a'."""
        self.weight.copy_(fitted(self.weight, inner, outer, ATOMS[self.atoms]))

    @torch.no_grad()
    def lipschitz(self) -> float:
        """The largest curvature of the error, the largest eigenvalue of Phi' Phi / sigma^2.

        1 over it is the step of ISTA; Euler steps of LCA are stable below 2 over it.
        """
        return float(torch.linalg.matrix_norm(self.weight, 2)) ** 2 / float(self.reconstruction.variance)
