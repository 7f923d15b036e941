"""Sparse coding whose codes are zero with a probability: a spike and a slab, made by a threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Composite, Energy
from energynet.models.atoms import unit
from energynet.terms import Reconstruction, Shrinkage, Sparsity
from energynet.variable import NonNegative, Real

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class SpikeSlabCoding(Composite):
    r"""Sparse coding in the L0 sense: potentials have Laplace's prior, codes are what passes a threshold.

    .. math:: E = \tfrac{1}{2 \sigma^2} | x - \Phi f(u) |^2 + \lambda \sum_i |u_i|, \qquad
              f(u) = \mathrm{sign}(u) \max(|u| - \theta, 0)

    (Fang, Mudigonda, Zarcone, Khosrowshahi and Olshausen 2022, Neural Comput. 34:1676, arXiv:2204.11150.)
    Codes a = f(u) are then zero with probability 1 - exp(-lambda theta), and else have Laplace's law of rate
    lambda. Langevin dynamics on u is neural sampling: each neuron integrates noise, its prior and, while it
    is above its threshold, what the others leave unexplained. That factor f'(u), zero within the threshold,
    comes from differentiating the energy. Leaving it out ("straight through") samples another law.

    As the temperature falls to zero, codes fall to minima of
    E(a) = 1/(2 sigma^2) |x - Phi a|^2 + lambda |a|_1 + lambda theta |a|_0, if it falls slowly: at zero
    temperature a potential within the threshold never leaves it.

    Parameters
    ----------
    n_inputs, n_atoms
        Units of ``x`` and of ``u``.
    sparsity
        lambda, the rate of the prior; positive; 1 by default.
    threshold
        theta, positive; log(4) by default: with a lambda of 1 codes are zero three times out of four.
    nonnegative
        Whether codes, and potentials, are from 0 up.
    variance
        sigma^2, of the noise, positive.
    learn_sparsity, learn_threshold, learn_variance
        Whether these three are parameters, by their logarithms. With the first the energy has the normaliser
        of the prior, with the last that of the noise; the threshold needs none. Where all are, the energy is
        -log p(x, u). They are for `MonteCarloEM`.

    Attributes
    ----------
    reconstruction, penalty
        The two terms.

    Examples
    --------
    >>> model = en.models.SpikeSlabCoding(64, 128, variance=0.1)
    >>> chain = en.settle(model, clamp={"x": x}, solver=en.Langevin(0.005), max_steps=1000)
    >>> codes = model.codes(chain.state["u"])
    """

    def __init__(
        self,
        n_inputs: int,
        n_atoms: int,
        sparsity: float = 1.0,
        threshold: float = math.log(4),
        nonnegative: bool = False,
        variance: float = 1.0,
        *,
        learn_sparsity: bool = False,
        learn_threshold: bool = False,
        learn_variance: bool = False,
    ) -> None:
        x = Real(n_inputs)
        u = (NonNegative if nonnegative else Real)(n_atoms)
        super().__init__(x=x, u=u)
        self.codes = Shrinkage(threshold, learn_threshold=learn_threshold)
        self.reconstruction = Reconstruction(
            "u", "x", variance=variance, learn_variance=learn_variance, through=self.codes, u=u, x=x
        )
        self.penalty = Sparsity(sparsity, learn_strength=learn_sparsity, u=u)
        self.project_()

    @property
    def weight(self) -> nn.Parameter:
        """The dictionary, (n_inputs, n_atoms), one atom a column."""
        return self.reconstruction.weight

    @property
    def active(self) -> Float[Tensor, ""]:
        """The probability exp(-lambda theta) that the prior gives a code to be other than zero."""
        product = torch.as_tensor(self.penalty.strength * self.codes.threshold)
        return (-product.detach()).exp()

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the atoms back to unit norm, in place: to be called after each step of an optimiser."""
        self.weight.copy_(unit(self.weight))

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return ((1.0, self.reconstruction), (1.0, self.penalty))
