"""Sparse coding: data are a few atoms of a dictionary, and the energy is the error and their cost."""

from __future__ import annotations

from typing import final

from torch import nn

from energynet.energy import Composite, Energy
from energynet.prior import Prior, prior_of
from energynet.terms import Reconstruction, Sparsity
from energynet.variable import NonNegative, Real


@final
class SparseCoding(Composite):
    r"""A linear generative model of data x by codes a of which most are zero.

    .. math:: E = \tfrac{1}{2 \sigma^2} | x - \Phi a |^2 + \lambda \sum_i S(a_i)

    (Olshausen and Field 1996, Nature 381:607, eq. 2). Codes are the minimum given x, found by any solver:
    `Proximal`, the default of `settle`, is ISTA and FISTA, `ADMM` keeps an inverse, and ODE solvers such as
    `Euler` run the locally competitive algorithm, for ``a`` has the threshold of the prior as its link.

    Parameters
    ----------
    n_inputs, n_atoms
        Units of ``x`` and of ``a``.
    sparsity
        lambda, from 0 up; 0.1 by default, of use for whitened data of unit variance and atoms of unit norm.
    prior
        ``"laplace"``, S = |a|; ``"l0"``, S = 1 where a is not zero; ``"cauchy"``, S = log(1 + a^2); or a
        `Prior`.
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

    Attributes
    ----------
    reconstruction, penalty
        The two terms.

    Examples
    --------
    >>> model = en.models.SparseCoding(256, 512)
    >>> codes = en.settle(model, clamp={"x": x}).state["a"]
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
        learn_sparsity: bool = False,
        learn_variance: bool = False,
    ) -> None:
        prior = prior_of(self, prior)
        linked = link and not learn_sparsity
        threshold = prior.link(sparsity, nonnegative=nonnegative) if linked else None
        x = Real(n_inputs)
        a = (NonNegative if nonnegative else Real)(n_atoms, link=threshold)
        super().__init__(x=x, a=a)
        self.reconstruction = Reconstruction(
            "a", "x", variance=variance, learn_variance=learn_variance, a=a, x=x
        )
        self.penalty = Sparsity(sparsity, prior, learn_strength=learn_sparsity, a=a)

    @property
    def weight(self) -> nn.Parameter:
        """The dictionary, (n_inputs, n_atoms), one atom a column."""
        return self.reconstruction.weight

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return ((1.0, self.reconstruction), (1.0, self.penalty))
