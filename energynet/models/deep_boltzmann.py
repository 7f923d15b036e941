"""The deep Boltzmann machine: layers of bits, each coupled to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from energynet.annealing import AnnealedImportanceSampling
from energynet.energy import Energy
from energynet.meanfield import MeanField
from energynet.models.likelihood import ENUMERATED, LogPartition, Machine
from energynet.settle import settle
from energynet.solution import Solution
from energynet.terms import Bilinear, Field
from energynet.variable import Bit

if TYPE_CHECKING:
    from jaxtyping import Float

METHODS = ("exact", "bound", "ais", None)


@final
class DeepBoltzmannMachine(Machine):
    r"""Layers of bits; neighbours are coupled (Salakhutdinov and Hinton 2009, AISTATS, eq. 3).

    .. math:: E = -\sum_l b_l \cdot s_l - \sum_l s_{l+1} \cdot W_l s_l

    Learn it with ``ContrastiveDivergence(machine, persistent=True, clamped=MeanField(machine))``; with
    centring no pretraining is needed (Montavon and Mueller 2012).

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

    def independent(self) -> tuple[str, ...]:
        return tuple(self.variables)[::2]  # every other layer

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
            Means by name; with ``order=1``, given bits, minus its energy is a lower bound of
            log sum_h exp(-E(v, h)).
        """
        return settle(MeanField(self, order), clamp={"v": v}, **options)

    def log_likelihood(
        self,
        v: Float[Tensor, "batch visible"],
        method: str | None = None,
        *,
        partition: LogPartition | None = None,
        base: Energy | None = None,
        steps: int = 1000,
        chains: int = 100,
        generator: torch.Generator | None = None,
        **given: Tensor,
    ) -> Float[Tensor, batch]:
        """Find log p(v), or what bounds it, in nats.

        Parameters
        ----------
        v
            Bits.
        method
            ``"exact"``: both sums by enumeration, of at most 20 units each. ``"bound"``: the mean-field lower
            bound of the sum over hidden states, with log Z as `log_partition` finds it; so are machines
            compared in the literature (Salakhutdinov and Hinton 2009, sec. 4). ``"ais"``: annealed importance
            sampling for both sums, with as many chains for each sample. None, the default: the sum
            over at most 20 hidden units by enumeration, else the bound; log Z then is exact for at most 20
            units in all, else annealed.
        partition
            What `log_partition` found before.
        base, steps, chains, generator
            As in `log_partition`.
        """
        if method not in METHODS:
            raise ValueError(
                f'log_likelihood: method must be "exact", "bound", "ais" or None, got {method!r}'
            )
        few = sum(self.variables[name].shape[0] for name in self.hidden) <= ENUMERATED
        if method == "exact" or (method is None and few):
            whole = "exact" if method == "exact" else None
            return super().log_likelihood(
                v,
                whole,
                partition=partition,
                base=base,
                steps=steps,
                chains=chains,
                generator=generator,
                **given,
            )
        with torch.no_grad():
            if partition is None:
                how = "ais" if method == "ais" else None
                partition = self.log_partition(
                    how, base=base, steps=steps, chains=chains, generator=generator
                )
            if (
                len(self.hidden) == 1
            ):  # independent units: mean field would be exact, and nothing is left to anneal
                found = -self.free_energy(v, **given)
            elif method != "ais":
                found = -self.infer(self.data(v, given)["v"]).energy
            else:
                annealing = AnnealedImportanceSampling(
                    self, steps=steps, chains=chains, summed=self.hidden[::2]
                )
                found = annealing.estimate(self.data(v, given), generator=generator).log_partition
            return (found - partition.log_partition).to(v.dtype)
