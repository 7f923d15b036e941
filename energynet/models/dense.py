"""Dense associative memories of spins, which store more patterns than they have units."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.errors import StateError
from energynet.flow import Clamp
from energynet.link import Power, Softmax
from energynet.models.hierarchical import HierarchicalMemory
from energynet.models.hopfield import checked_patterns, recalled
from energynet.overlaps import FeatureEnergy
from energynet.recording import Recorder
from energynet.samplers import Glauber, Synchronous
from energynet.solution import Solution
from energynet.variable import NonNegative, Real, Spin, Unit

if TYPE_CHECKING:
    from jaxtyping import Float

_INTERACTIONS = ("polynomial", "rectified", "exponential")


@final
class DenseAssociativeMemory(FeatureEnergy):
    r"""A memory of spins whose energy is steeper than quadratic in the overlaps with its patterns.

    .. math:: E = -\frac{n}{p} \sum_\mu F(m_\mu), \quad m_\mu = \tfrac1n x_\mu \cdot s

    with F(m) = m^p, or max(m, 0)^p (Krotov and Hopfield 2016, NeurIPS, eq. 2 and 3). It stores of the order
    of n^(p - 1) random patterns; with p = 2 it is the Hopfield network of the Hebb rule, up to a constant.
    Exponential interaction is E = -log sum over patterns of exp(n m), the logarithm of that of Demircigil
    et al. (2017, J. Stat. Phys. 168:288), which orders states alike and does not overflow; it stores
    exponentially many.

    Parameters
    ----------
    patterns
        Spins, (count, n).
    power
        p, a whole number from 2 up; 3 by default. Not used by the exponential interaction.
    interaction
        ``"polynomial"``, the default, ``"rectified"`` or ``"exponential"``.

    Attributes
    ----------
    patterns
        Parameter of shape (count, n).
    """

    def __init__(
        self, patterns: Float[Tensor, "count n"], power: int = 3, interaction: str = "polynomial"
    ) -> None:
        if not isinstance(power, int) or power < 2:
            raise ValueError(f"DenseAssociativeMemory: power must be a whole number from 2 up, got {power!r}")
        if interaction not in _INTERACTIONS:
            raise ValueError(
                "DenseAssociativeMemory: interaction must be one of "
                f"{', '.join(map(repr, _INTERACTIONS))}, got {interaction!r}"
            )
        if not isinstance(patterns, torch.Tensor):
            raise StateError(
                "DenseAssociativeMemory: expected a tensor of patterns, (count, n), got "
                f"{type(patterns).__name__}; it is made of what it stores"
            )
        like = patterns if patterns.is_floating_point() else torch.empty(0, patterns.shape[-1])
        spins = checked_patterns("DenseAssociativeMemory", patterns, like)
        self.n = spins.shape[1]
        super().__init__(s=Spin(self.n))
        self.power, self.interaction = power, interaction
        self.patterns = nn.Parameter(spins.clone())

    def directions(self) -> Tensor:
        return self.patterns

    def of_features(self, features: Tensor) -> Tensor:
        if self.interaction == "exponential":
            return -features.logsumexp(-1)
        overlap = features / self.n
        if self.interaction == "rectified":
            overlap = overlap.clamp(min=0.0)
        return -(self.n / self.power) * (overlap**self.power).sum(-1)

    def hierarchical(self) -> HierarchicalMemory:
        """The same network with its memory neurons kept: spins ``s`` and real ``h``, one for each pattern.

        Its energy at the best ``h`` is this one (Krotov and Hopfield 2021, ICLR, sec. 3). Settling at T = 0
        moves spins and memory neurons to their minimum in turn; with power 2 the memory neurons are normal
        given the spins, and `Gibbs` samples both.

        Raises
        ------
        ValueError
            If the power is odd and the interaction polynomial, for then it is not convex in the overlaps.
        """
        if self.interaction == "polynomial" and self.power % 2:
            raise ValueError(
                "DenseAssociativeMemory: memory neurons minimise where the interaction is convex, which "
                f"power {self.power} is not for negative overlaps; use an even power, or "
                "interaction='rectified'"
            )
        count, scale = len(self.patterns), self.n ** (1 / self.power - 1)
        if self.interaction == "exponential":
            layer, scale = Unit(count, link=Softmax()), 1.0
        elif self.interaction == "rectified":
            layer = NonNegative(count, link=Power(self.power - 1, rectified=True))
        elif self.power > 2:
            layer = Real(count, link=Power(self.power - 1))
        else:
            layer = Real(count)
        model = HierarchicalMemory({"s": Spin(self.n), "h": layer}, {("s", "h"): None}).to(self.patterns)
        model.synapses.load_state_dict({"s_h.weight": scale * self.patterns.detach()})
        return model

    def recall(
        self,
        cues: Float[Tensor, "batch n"],
        *,
        temperature: float = 0.0,
        synchronous: bool = False,
        clamp: Clamp | None = None,
        max_steps: int | None = None,
        record: Recorder | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Settle from cues; the arguments are those of `Hopfield.recall`.

        Each unit takes the value of lower energy, by exact differences (Krotov and Hopfield 2016, eq. 4).
        Synchronous updates may end in cycles, of which those of two states are reported.
        """
        solver = Synchronous(temperature) if synchronous else Glauber(temperature)
        steps = (100 if temperature else 1000) if max_steps is None else max_steps
        return recalled(self, cues, solver, clamp=clamp, max_steps=steps, record=record, generator=generator)
