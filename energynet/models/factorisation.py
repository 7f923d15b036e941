"""Matrix factorisation: one energy, |x - Phi a|^2 / 2, and a choice of where codes and atoms may be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.models.linear import LinearModel
from energynet.models.sparse_coding import SparseCoding
from energynet.one_hot import OneHot
from energynet.settle import settle
from energynet.solution import Solution
from energynet.solvers import Solver

if TYPE_CHECKING:
    from jaxtyping import Float


def principal_components(n_inputs: int, n_components: int) -> SparseCoding:
    """PCA: linear codes and orthonormal atoms, of which the span is that of the principal axes.

    Data should have mean zero. `factorise` is orthogonal iteration.
    """
    return SparseCoding(n_inputs, n_components, 0.0, atoms="orthonormal")


def nonnegative_factors(n_inputs: int, n_components: int, sparsity: float = 0.0) -> SparseCoding:
    """NMF: codes and atoms from 0 up (Lee and Seung 1999, Nature 401:788)."""
    return SparseCoding(n_inputs, n_components, sparsity, nonnegative=True, atoms="nonnegative")


def independent_components(n_inputs: int, *, variance: float = 0.5) -> SparseCoding:
    """ICA of whitened data: a heavy-tailed prior and as many atoms as inputs, orthonormal.

    The codes are then near Phi' x, and the energy is that of the density of independent sources, of the
    hyperbolic secant (Hyvarinen and Oja 2000, Neural Netw. 13:411, sect. 4.4), up to terms of order
    ``variance``; less of it takes more rounds.
    """
    return SparseCoding(n_inputs, n_inputs, 1.0, prior="logcosh", variance=variance, atoms="orthonormal")


@final
class Clusters(LinearModel):
    """k-means: a code chooses one atom, which is the centre of its samples.

    `factorise` is Lloyd's algorithm.

    Parameters
    ----------
    n_inputs, n_clusters
        Units of ``x``, and how many centres there are; ``a`` is a `OneHot`.
    """

    def __init__(self, n_inputs: int, n_clusters: int) -> None:
        super().__init__(n_inputs, OneHot(n_clusters), variance=1.0, atoms="free")

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return ((1.0, self.reconstruction),)


@torch.no_grad()
def factorise(
    model: LinearModel,
    x: Float[Tensor, "samples inputs"],
    *,
    rounds: int = 1000,
    rtol: float = 1e-6,
    solver: Solver | None = None,
    generator: torch.Generator | None = None,
) -> Solution:
    """Fit the dictionary of a model to all data, by codes and atoms in turn.

    Codes are settled given the atoms, from where they were; then `LinearModel.update_` moves the atoms.

    Parameters
    ----------
    model
        Its atoms are moved in place.
    x
        Data.
    rounds
        The most rounds.
    rtol
        End when a round lowers the mean energy by less than this, relatively.
    solver
        Of the codes; by default what `settle` chooses.
    generator
        Of codes that start at random.

    Returns
    -------
    Solution
        The codes of the last atoms.
    """
    codes: dict[str, Tensor] = {}
    before = math.inf
    for _ in range(rounds):
        solution = settle(model, codes, clamp={"x": x}, solver=solver, generator=generator)
        codes = {"a": solution.state["a"]}
        level = float(solution.energy.mean())
        if before - level <= rtol * abs(level):
            return solution
        before = level
        model.update_(x, codes["a"])
    return settle(model, codes, clamp={"x": x}, solver=solver, generator=generator)
