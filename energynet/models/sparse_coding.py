"""Sparse coding: data are a few atoms of a dictionary, and the energy is the error and their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.models.linear import LinearModel
from energynet.prior import Laplace, Prior, prior_of
from energynet.recording import Recorder
from energynet.settle import settle
from energynet.solution import Solution
from energynet.solvers import CoordinateDescent, Proximal, Solver
from energynet.stopping import Until
from energynet.terms import Sparsity
from energynet.variable import NonNegative, Real

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class SparseCoding(LinearModel):
    r"""A linear generative model of data x by codes a of which most are zero.

    .. math:: E = \tfrac{1}{2 \sigma^2} | x - \Phi a |^2 + \lambda \sum_i S(a_i)

    (Olshausen and Field 1996, Nature 381:607, eq. 2). Codes are the minimum given x, found by any solver:
    `Proximal` is ISTA and FISTA, `ADMM` keeps an inverse, `CoordinateDescent` moves one atom after the other,
    and solvers of mirror flow run the locally competitive algorithm of Rozell et al. (2008), for ``a`` has
    the threshold of the prior as its link: ``Euler(1 / model.lipschitz())``, or with momentum
    ``Momentum(1 / model.lipschitz(), None)``.

    Parameters
    ----------
    n_inputs, n_atoms
        Units of ``x`` and of ``a``.
    sparsity
        lambda, from 0 up; 0.1 by default, of use for whitened data and atoms of unit norm.
    prior
        ``"laplace"``, S = |a|; ``"l0"``, S = 1 where a is not zero; ``"cauchy"``, S = log(1 + a^2);
        ``"logcosh"``, S = log cosh a; or a `Prior`.
    nonnegative
        Whether codes are from 0 up.
    variance
        sigma^2, of the noise.
    link
        Whether ``a`` has the link of the prior, if there is one. Samplers of values need it without, and so
        does a sparsity that is learned, for which it is left out.
    learn_sparsity, learn_variance
        Whether lambda and sigma^2 are parameters, by their logarithms; the energy then has their normalisers,
        and where both are it is -log p(x, a). They are for `MonteCarloEM`, see `terms.Sparsity`.
    atoms
        Where atoms may be, see `LinearModel`: ``"unit"``, the default, for without a norm the penalty would
        shrink codes and the error grow atoms.

    Attributes
    ----------
    reconstruction, penalty
        The two terms.

    Examples
    --------
    >>> model = en.models.SparseCoding(256, 512)
    >>> codes = model.infer(x)
    >>> codes.state["a"], codes.statistics["duality_gap"]
    >>> rule = en.MaximumAPosteriori(model)
    >>> rule(x=x).backward()
    >>> optimiser.step()
    >>> model.project_()
    """

    def __init__(
        self,
        n_inputs: int,
        n_atoms: int,
        sparsity: float = 0.1,
        prior: str | Prior = "laplace",
        nonnegative: bool = False,
        variance: float = 1.0,
        *,
        link: bool = True,
        atoms: str = "unit",
        learn_sparsity: bool = False,
        learn_variance: bool = False,
    ) -> None:
        prior = prior_of(self, prior)
        linked = link and not learn_sparsity
        threshold = prior.link(sparsity, nonnegative=nonnegative) if linked else None
        codes = (NonNegative if nonnegative else Real)(n_atoms, link=threshold)
        super().__init__(n_inputs, codes, variance=variance, learn_variance=learn_variance, atoms=atoms)
        self.penalty = Sparsity(sparsity, prior, learn_strength=learn_sparsity, a=codes)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return ((1.0, self.reconstruction), (1.0, self.penalty))

    def infer(
        self,
        x: Float[Tensor, "batch inputs"],
        *,
        start: Float[Tensor, "batch atoms"] | None = None,
        solver: Solver | None = None,
        max_steps: int = 10_000,
        until: Until | None = None,
        record: Recorder | None = None,
    ) -> Solution:
        """The codes of data, with `duality_gap` among the statistics where it is known.

        Parameters
        ----------
        x
            Data.
        start
            Codes to start from; zero by default.
        solver
            By default `Proximal` for a convex prior with a kink, `CoordinateDescent` for one that is not
            convex, which finds minima in every atom, and what `settle` chooses for a smooth one.
        max_steps, until, record
            As in `settle`; until stationary by default.
        """
        if solver is None and not self.penalty.prior.smooth:
            solver = Proximal() if self.penalty.convex else CoordinateDescent()
        solution = settle(
            self,
            None if start is None else {"a": start},
            clamp={"x": x},
            solver=solver,
            max_steps=max_steps,
            until=until,
            record=record,
        )
        gap = self.duality_gap(solution.state)
        return (
            solution
            if gap is None
            else replace(solution, statistics={**solution.statistics, "duality_gap": gap})
        )

    @torch.no_grad()
    def duality_gap(self, state: Mapping[str, Tensor]) -> Float[Tensor, batch] | None:
        r"""How far the energy of each sample is from the least one, at most.

        The energy less the dual function of the lasso at the residual, scaled into the feasible set and there
        to its best (Kim et al. 2007, IEEE J. Sel. Top. Signal Process. 1:606, sect. III-A). In float64; it
        has the rounding of the energy in it.

        Parameters
        ----------
        state
            ``x`` and ``a``, such as the state of a solution.

        Returns
        -------
        Tensor or None
            ``(batch,)``; None unless the prior is Laplace and the sparsity positive.
        """
        strength, variance = float(self.penalty.strength), float(self.reconstruction.variance)
        if self.penalty.prior != Laplace() or not strength:
            return None
        x, a, weight = (value.double() for value in (state["x"], state["a"], self.weight))
        error = x - a @ weight.T
        square, along = error.square().sum(1), (error * x).sum(1)
        slope = error @ weight / variance
        steepest = (slope if self.variables["a"].bounded else slope.abs()).amax(1)
        # the dual at s * error / variance is (s along - s^2 square / 2) / variance
        most = torch.where(steepest > 0, strength / steepest, torch.inf)
        best = torch.where(square > 0, along / square, 0.0)
        scale = best.clamp(min=0.0).minimum(most)
        dual = (scale * along - 0.5 * scale.square() * square) / variance
        energy = 0.5 * square / variance + strength * a.abs().sum(1)
        return (energy - dual).to(state["a"].dtype)
