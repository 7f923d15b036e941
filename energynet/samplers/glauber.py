"""Glauber dynamics: asynchronous updates in random order."""

from __future__ import annotations

from typing import final

import torch

from energynet.conditional import ConditionalFlow, Kind
from energynet.samplers.noise import uniform
from energynet.samplers.single_unit import SingleUnit, in_order
from energynet.samplers.sweep import Sweep
from energynet.stopping import Never, Stationary, Until


@final
class Glauber(SingleUnit):
    """Updates one unit after the other, every unit once a sweep, in an order drawn anew for each sweep.

    At T = 0 this is the recall of Hopfield (1982, PNAS 79:2554): a unit goes where the energy is lower and
    stays where there is no difference, so the energy never rises, and a sample is at rest once no unit of it
    moves in a sweep. At T > 0 a unit becomes high with probability 1 / (1 + exp((E(high) - E(low)) / T))
    (Glauber 1963, J. Math. Phys. 4:294), which leaves exp(-E / T) as it is.

    Choices among categories and continuous units, in which the energy must be quadratic, are updated by the
    distributions that `Gibbs` draws them from, after the two-valued units: one variable after the other, the
    units of each in random order. A continuous unit is at rest once it moves by no more than rounding.

    Parameters
    ----------
    temperature
        T, 0 by default: descent. The order of the units, which all samples of the batch share, is random all
        the same.
    """

    def __init__(self, temperature: float = 0.0) -> None:
        super().__init__(temperature)

    def until(self) -> Until:
        """At T = 0 a sweep that has moved nothing; above, never."""
        return Never() if self.temperature else Stationary(atol=0.0)

    def prepare(self, flow: ConditionalFlow) -> None:
        for names in flow.courses:
            flow.couplings(names)

    def sweep(self, flow: ConditionalFlow, sweep: Sweep, generator: torch.Generator | None) -> None:
        like = next(iter(sweep.state.values()))
        for names in flow.courses:
            if len(names) == 1 and flow.kind(names[0]) is Kind.SEPARATE:
                sweep.separate(names)  # their order makes no difference
                continue
            units = sum(flow.units[name].count for name in names)
            in_order(flow, sweep, names, uniform((units,), like, generator).argsort())
