"""Gibbs sampling."""

from __future__ import annotations

from typing import final

import torch

from energynet.conditional import ConditionalFlow, Kind
from energynet.couplings import Couplings
from energynet.errors import SettlingError
from energynet.packing import Packing, packing_of
from energynet.samplers.noise import uniform
from energynet.samplers.single_unit import SingleUnit, in_order
from energynet.samplers.sweep import Sweep
from energynet.units import Pair, Units

_SCANS = ("systematic", "random", "block")


@final
class Gibbs(SingleUnit):
    """Draws each unit from its distribution given all the others (Geman and Geman 1984, IEEE PAMI 6:721).

    A two-valued unit becomes high with probability 1 / (1 + exp((E(high) - E(low)) / T)), a choice among
    categories takes each in proportion to exp(-E / T). Where the energy is quadratic in the unit, its force
    is the exact difference of energies; otherwise energies are compared. A continuous unit, in which the
    energy must be quadratic, is normal with mean at the minimum and variance T / curvature, within the ends
    of its domain. Variables of all kinds may be free at once. One step is a sweep. At T = 0 a unit goes where
    the energy is lowest, and a discrete one stays where there is no difference.

    Parameters
    ----------
    temperature
        T, 1 by default.
    scan
        The order of a sweep. ``"systematic"``, the default: every unit once, in the order of declaration and
        of the indices; units that do not read each other are drawn at the same time, which is the same.
        ``"block"``: every unit once, by groups of units that do not read each other (the layers of a
        restricted Boltzmann machine, the two colours of a grid), which takes the fewest evaluations.
        ``"random"``: as many units as there are, each picked at random, the same ones for all samples of the
        batch, for two-valued units only. Random scan alone is reversible; all three leave exp(-E / T) as it
        is.
    """

    def __init__(self, temperature: float = 1.0, scan: str = "systematic") -> None:
        super().__init__(temperature)
        if scan not in _SCANS:
            raise ValueError(f"Gibbs: scan must be one of {', '.join(map(repr, _SCANS))}, got {scan!r}")
        self.scan = scan

    def prepare(self, flow: ConditionalFlow) -> None:
        if self.scan == "random":
            for name, units in flow.units.items():
                if not isinstance(units, Pair):
                    raise SettlingError(
                        f"Gibbs(scan='random') picks units with two values; {name!r} is "
                        f"{flow.variables[name]!r}: use scan='systematic' or 'block', or clamp it"
                    )
            flow.couplings(flow.names)
            return
        for name in flow.names:
            if flow.kind(name) is Kind.COUPLED:
                self._packing(_couplings(flow, name))

    def sweep(self, flow: ConditionalFlow, sweep: Sweep, generator: torch.Generator | None) -> None:
        if self.scan == "random":
            like = next(iter(sweep.state.values()))
            units = sum(units.count for units in flow.units.values())
            picks = (uniform((units,), like, generator) * units).long().clamp(max=units - 1)
            in_order(flow, sweep, flow.names, picks, repeats=True)
            return
        groups = flow.forces.groups if self.scan == "block" else [(name,) for name in flow.names]
        for group in groups:
            sweep.separate([name for name in group if flow.kind(name) is Kind.SEPARATE])
            for name in group:
                units = flow.units[name]
                if flow.kind(name) is Kind.COUPLED:
                    self._coupled(name, units, _couplings(flow, name), sweep)
                elif flow.kind(name) is Kind.OTHER:
                    in_order(flow, sweep, (name,), torch.arange(units.count, device=sweep.state[name].device))

    def _coupled(self, name: str, units: Units, couplings: Couplings, sweep: Sweep) -> None:
        packing = self._packing(couplings)
        if 3 * len(packing.pieces) <= couplings.count or not isinstance(units, Pair):
            sweep.groups(name, packing)
        else:
            sweep.sequence([name], couplings, packing.order, repeats=False)

    def _packing(self, couplings: Couplings) -> Packing:
        return packing_of(couplings, "colours" if self.scan == "block" else "levels")


def _couplings(flow: ConditionalFlow, name: str) -> Couplings:
    couplings = flow.couplings((name,))
    assert couplings is not None
    return couplings
