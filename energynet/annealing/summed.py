"""Annealing of what is left when some units are summed out: the joint law's path, with smaller weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from energynet.annealing.path import MIXTURE, Path
from energynet.clamp import Clamp, Partial
from energynet.conditional import ConditionalFlow
from energynet.errors import SettlingError
from energynet.samplers import Gibbs, Sampler
from energynet.samplers.noise import uniform
from energynet.state import State
from energynet.variable import TwoValued, rows


@final
class SummedOut:
    r"""The law of the other units along a path, the summed ones being independent given these.

    .. math:: \log p_b(r) = -E_b(r, \text{low}) + \sum_i \log(1 + e^{g_i}), \quad g_i = E_b(\text{low}_i)
              - E_b(\text{high}_i)

    Both E and g are (1 - b) times those of the base plus b times those of the target, so that one evaluation
    of each serves all places of the path.

    Parameters
    ----------
    path
        From base to target.
    names
        Variables of two values to sum out.
    clamp
        What is held; no summed variable in part.
    start
        Values of the other variables, for every chain.
    sampler
        Moves the others, the summed ones being given.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        clamp: Clamp,
        start: State,
        sampler: Sampler,
        generator: torch.Generator | None,
    ) -> None:
        self.names, self.sampler, self.generator = tuple(names), sampler, generator
        whole = {name: value for name, value in clamp.items() if isinstance(value, Tensor)}
        free = [name for name in path.base.variables if name not in whole]
        for name in names:
            if name not in free:
                raise SettlingError(
                    f"AnnealedImportanceSampling: summed names {name!r}, which is not free; free are "
                    f"{', '.join(free)}"
                )
            if not isinstance(path.variables[name], TwoValued):
                raise SettlingError(
                    f"AnnealedImportanceSampling: summed names {name!r}, which is {path.variables[name]!r}; "
                    "leave it out, for bits and spins alone are summed out"
                )
        rest = {name: value for name, value in start.items() if name not in names}
        if not rest:
            raise SettlingError(
                f"AnnealedImportanceSampling: summed names all that is free, {', '.join(free)}, so that "
                "nothing is left to anneal; leave one out"
            )
        like = next(iter(rest.values()))
        count = len(like)
        held = {name: value for name, value in clamp.items() if isinstance(value, Partial)}
        self.low = {
            n: like.new_full((count, *path.variables[n].shape), path.variables[n].low) for n in self.names
        }
        target, _ = path.place(1.0)
        still = {MIXTURE: like.new_tensor(target).expand(count, -1)}
        self.target = _flow(path.condition(**whole), {**held, **still}, {**rest, **self.low}, names)
        given = {name: value for name, value in whole.items() if name in path.base.variables}
        base = path.base.condition(**given) if given else path.base
        self.base = _flow(base, held, {**rest, **self.low}, names)
        self.moving = sampler.flow(
            path.condition(**whole), {**held, **self.low, **still}, rest, generator=generator
        )
        self.rest = self.moving.start  # what is held is as held, whatever the start has there

    def evaluate(self, rest: State) -> Evaluated:
        """What the law of the rest takes at one point, wherever on the path."""
        point = {**self.moving.values(rest), **self.low}
        gaps = [
            torch.cat([rows(gap) for gap in flow.gaps(self.names, point).values()], 1)
            for flow in (self.base, self.target)
        ]
        return Evaluated((self.base.energy(point), self.target.energy(point)), (gaps[0], gaps[1]))

    def move(
        self, rest: State, gap: Tensor, place: tuple[tuple[float, ...], float]
    ) -> tuple[State, dict[str, Tensor]]:
        """Draw the summed units, then the others given these; returns what the sampler tells, too."""
        mixture, temperature = place
        high = uniform(tuple(gap.shape), gap, self.generator).logit() < gap
        sizes = [rows(value).shape[1] for value in self.low.values()]
        drawn = {
            name: self.target.units[name].value(part.t().to(gap.dtype), self.low[name])
            for name, part in zip(self.names, high.split(sizes, 1), strict=True)
        }
        here = gap.new_tensor(mixture).expand(len(gap), -1)
        flow = self.moving.rebind(rest, **drawn, **{MIXTURE: here})
        carry = self.sampler.init(flow, rest)
        moved, carry, _ = self.sampler.sample(flow, rest, carry, self.generator, temperature)
        return moved, self.sampler.statistics(carry)


@final
class Evaluated:
    """Energies with the summed units low, and their gaps, of base and target."""

    def __init__(self, energies: tuple[Tensor, Tensor], gaps: tuple[Tensor, Tensor]) -> None:
        self._energies, self._gaps = energies, gaps

    def gap(self, beta: float) -> Tensor:
        """E(low) - E(high) of the summed units at a place of the path."""
        return torch.lerp(self._gaps[0], self._gaps[1], beta)

    def log_density(self, beta: float) -> Tensor:
        """The logarithm of the law of the rest, but for its constant; float64."""
        base, target = self._energies
        free = functional.softplus(self.gap(beta)).double().sum(1)
        return free - (1 - beta) * base.double() - beta * target.double()


def _flow(energy: object, clamp: Clamp, start: State, names: Sequence[str]) -> ConditionalFlow:
    flow = Gibbs().flow(energy, clamp, start)  # type: ignore[arg-type]
    for name in names:
        if name in flow.held:
            raise SettlingError(
                f"AnnealedImportanceSampling: summed names {name!r}, of which a part is held; clamp all of "
                "it, or leave it out"
            )
    known = flow.forces.quadratic(tuple(names))
    if known is None or not known.separate:
        raise SettlingError(
            f"AnnealedImportanceSampling: the units of {', '.join(names)} read each other, so they cannot be "
            "summed out in closed form; name variables that are independent given the others"
        )
    return flow
