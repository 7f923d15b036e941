"""The deep Boltzmann machine: layers of bits, each coupled to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from energynet import exact
from energynet.annealing import AnnealedImportanceSampling, PartitionEstimate
from energynet.energy import Composite, Energy
from energynet.meanfield import MeanField
from energynet.settle import settle
from energynet.solution import Solution
from energynet.terms import Bilinear, Field
from energynet.variable import Bit

if TYPE_CHECKING:
    from jaxtyping import Float

METHODS = ("exact", "bound", "ais")


@final
class DeepBoltzmannMachine(Composite):
    r"""Layers of bits; neighbours are coupled (Salakhutdinov and Hinton 2009, AISTATS, eq. 3).

    .. math:: E = -\sum_l b_l \cdot s_l - \sum_l s_{l+1} \cdot W_l s_l

    Learn it with `ContrastiveDivergence`, persistent, whose clamped phase settles the mean field.

    Parameters
    ----------
    sizes
        Units of each layer, from the visible one up; at least two numbers. The variables are ``v``, ``h1``,
        ``h2``, ...

    Attributes
    ----------
    couplings
        One `Bilinear` for each pair of neighbours, named like ``"v_h1"``; its ``weight`` has the shape (upper
        units, lower units) and is drawn from N(0, 0.01^2), as is usual for these machines (Hinton 2012, A
        practical guide to training restricted Boltzmann machines, sec. 8).
    fields
        One `Field` for each layer, by its name; it holds the ``bias``.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        sizes = tuple(sizes)
        if len(sizes) < 2:
            raise ValueError(f"DeepBoltzmannMachine: expected the sizes of at least two layers, got {sizes}")
        names = ["v", *(f"h{i}" for i in range(1, len(sizes)))]
        variables = {name: Bit(size) for name, size in zip(names, sizes, strict=True)}
        super().__init__(**variables)
        self.couplings = nn.ModuleDict(
            {f"{a}_{b}": Bilinear(a, b, **{a: variables[a], b: variables[b]}) for a, b in pairwise(names)}
        )
        for weight in self.couplings.parameters():
            nn.init.normal_(weight, 0.0, 0.01)
        self.fields = nn.ModuleDict({name: Field(**{name: variables[name]}) for name in names})

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        groups = (self.fields, self.couplings)
        return tuple((1.0, part) for group in groups for part in group.values() if isinstance(part, Energy))

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of the hidden layers."""
        return tuple(name for name in self.variables if name != "v")

    def infer(self, v: Float[Tensor, "batch visible"], *, order: int = 1, **options: Any) -> Solution:
        """The mean field of the hidden layers given the visible one.

        Parameters
        ----------
        v
            Bits, or their probabilities.
        order
            1 for naive mean field, 2 with the reaction of TAP; see `MeanField`.
        **options
            Of `settle`.

        Returns
        -------
        Solution
            Means by name; with ``order=1`` minus its energy is a lower bound of log sum_h exp(-E(v, h)).
        """
        return settle(MeanField(self, order), clamp={"v": v}, **options)

    def free_energy(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, batch]:
        """-log sum over h of exp(-E(v, h)) by enumeration, of at most 20 hidden units; `infer` bounds it."""
        return -exact.log_partition(self, clamp={"v": v})

    def partition(
        self,
        *,
        base: Energy | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> PartitionEstimate:
        """Log Z by annealed importance sampling, every other layer summed out.

        Parameters
        ----------
        base
            Where the path starts; by default the fields of this machine, without couplings.
        generator
            The only source of randomness.
        **options
            ``steps``, ``betas`` and ``chains`` of `AnnealedImportanceSampling`.
        """
        return self._annealing(base, tuple(self.variables)[::2], options).estimate(generator=generator)

    def log_likelihood(
        self,
        v: Float[Tensor, "batch visible"],
        method: str = "bound",
        *,
        log_partition: Tensor | float | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, batch]:
        """Log P(v) of each sample.

        Parameters
        ----------
        v
            Bits.
        method
            ``"exact"``: both sums by enumeration, of at most 20 units each. ``"bound"``, the default: the
            mean-field lower bound of the first sum, with log Z by annealed importance sampling, as machines
            are compared in the literature (Salakhutdinov and Hinton 2009, sec. 4). ``"ais"``: annealed
            importance sampling for both, as many chains for each sample.
        log_partition
            log Z where it is known; otherwise it is estimated, see `partition`.
        generator, **options
            As in `partition`.
        """
        if method not in METHODS:
            raise ValueError(f"log_likelihood: method must be one of {', '.join(METHODS)}, got {method!r}")
        if method == "exact":
            whole = exact.log_partition(self) if log_partition is None else log_partition
            return -self.free_energy(v) - whole
        with torch.no_grad():
            if log_partition is None:
                log_partition = self.partition(generator=generator, **options).log_partition
            if method == "bound":
                return -self.infer(v).energy - log_partition
            annealing = self._annealing(None, self.hidden[::2], options)
            return annealing.estimate({"v": v}, generator=generator).log_partition - log_partition

    def _annealing(
        self, base: Energy | None, summed: tuple[str, ...], options: dict[str, Any]
    ) -> AnnealedImportanceSampling:
        if base is None:
            fields = [field for field in self.fields.values() if isinstance(field, Field)]
            base = sum(fields[1:], start=fields[0])
        return AnnealedImportanceSampling(self, base=base, summed=summed, **options)
