"""Annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from energynet.annealing.path import MIXTURE, Mixed, Path, Tilted
from energynet.annealing.summed import SummedOut
from energynet.annealing.tractable import Standard, Tractable, Uncoupled
from energynet.clamp import Clamp, Partial
from energynet.conditional import is_discrete
from energynet.energy import Conditioned, Energy
from energynet.errors import SettlingError, StateError
from energynet.flow import EnergyFlow
from energynet.samplers import Gibbs, HamiltonianMonteCarlo, Sampler
from energynet.state import State
from energynet.variable import Discrete, Variable

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class PartitionEstimate:
    """What annealed importance sampling found.

    Attributes
    ----------
    log_weights
        ``(batch, chains)``, float64: their exponentials have the mean Z / Z_base, or in reverse Z_base / Z.
    log_base
        log Z of the base, ``(batch,)``.
    reverse
        Whether the chains went from the energy to its base.
    state
        Where the chains ended, each ``(batch, chains, *shape)``: forward, samples of the energy's law if they
        are weighted.
    statistics
        Those of the sampler, averaged over its steps, ``(batch, chains, ...)``.
    """

    log_weights: Float[Tensor, batch * chains]
    log_base: Float[Tensor, batch]
    reverse: bool
    state: State
    statistics: dict[str, Tensor]

    @cached_property
    def log_partition(self) -> Float[Tensor, batch]:
        """The estimate of log Z; its expectation is below log Z forward, and above it in reverse."""
        mean = self.log_weights.logsumexp(1) - math.log(self.log_weights.shape[1])
        return self.log_base - mean if self.reverse else self.log_base + mean

    @cached_property
    def standard_error(self) -> Float[Tensor, batch]:
        """Of `log_partition`, to first order: std(w) / mean(w) / sqrt(chains); NaN for a single chain.

        It is itself an estimate from the weights, too small where a few of them carry the sum: see
        `effective_sample_size`.
        """
        weights = self._relative
        if weights.shape[1] == 1:
            return torch.full_like(weights[:, 0], math.nan)
        return weights.std(1) / math.sqrt(weights.shape[1])

    @cached_property
    def effective_sample_size(self) -> Float[Tensor, batch]:
        """(sum of w)^2 / (sum of w^2), from 1 to the number of chains."""
        weights = self._relative
        return weights.sum(1).square() / weights.square().sum(1)

    @property
    def _relative(self) -> Tensor:
        """The weights, of mean 1."""
        return self.log_weights.softmax(1) * self.log_weights.shape[1]


@final
class AnnealedImportanceSampling:
    """log Z of exp(-E), by annealed importance sampling (Neal 2001, Stat. Comput. 11:125).

    Chains start from exact samples of a base law and move at E_b = (1 - b) E_base + b E, where b grows from 0
    to 1 (his eq. 3). Their weights have the mean Z / Z_base without bias for every number of steps, if the
    sampler leaves exp(-E_b) invariant, as Gibbs, MALA and HMC do and unadjusted Langevin does not. The
    estimate of log Z has an expectation below it, by Jensen's inequality. `reverse` starts from samples of
    the energy and gives one above (Burda, Grosse and Salakhutdinov 2015, AISTATS, sec. 3).

    Parameters
    ----------
    energy
        The energy, of all its variables or conditioned on some.
    base
        Where the path starts: a `Tractable`, or any energy of discrete variables whose units are independent,
        such as `terms.Field`, fitted to the data. `Standard` by default: uniform on discrete variables and
        intervals, standard normal on unbounded ones, half of one on those with one end.
    sampler
        Moves the chains, one step at each b; its own temperature is not used. By default `Gibbs` where a free
        variable is discrete, ``HamiltonianMonteCarlo(dt=0.1, steps=10)`` where all are continuous. A dt that
        fits the energy is better; the statistics tell the rate of acceptance.
    steps
        Values of b after 0, evenly spaced. 1000, of the order of what Salakhutdinov and Murray (2008) needed
        for RBMs; halve and double it, and see whether the estimate moves.
    betas
        In place of ``steps``: the values of b, from 0 to 1.
    chains
        For each sample of the clamp. 100, for a standard error of a tenth of the spread of the weights.
    summed
        Names of variables of bits or spins that are summed out in closed form, whose units are independent
        given the others, of which there must be some: one layer of a restricted Boltzmann machine, every
        other layer of a deep one (Salakhutdinov and Murray 2008, eq. 17). The chains are those of the other
        variables; the weights vary less. None by default.

    Raises
    ------
    ValueError
        If ``betas`` do not grow from 0 to 1, or ``steps`` or ``chains`` is not positive.

    Examples
    --------
    >>> estimate = en.AnnealedImportanceSampling(rbm).estimate(generator=generator)
    >>> estimate.log_partition, estimate.standard_error
    """

    def __init__(
        self,
        energy: Energy,
        *,
        base: Energy | None = None,
        sampler: Sampler | None = None,
        steps: int = 1000,
        betas: Sequence[float] | Tensor | None = None,
        chains: int = 100,
        summed: Sequence[str] = (),
    ) -> None:
        for name, number in (("steps", steps), ("chains", chains)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(
                    f"AnnealedImportanceSampling: {name} must be a whole number above 0, got {number!r}"
                )
        if sampler is not None and not isinstance(sampler, Sampler):
            raise TypeError(
                f"AnnealedImportanceSampling: expected a sampler such as Gibbs or MALA, got {sampler!r}"
            )
        self._clamp: Clamp = {}
        if isinstance(energy, Conditioned):
            self._clamp, energy = energy.clamp, energy.base
        self.energy = energy
        self.base = base if base is None or isinstance(base, Tractable) else Uncoupled(base)
        self.sampler = sampler
        self.betas = tuple(step / steps for step in range(steps + 1)) if betas is None else _betas(betas)
        self.chains = chains
        self.summed = tuple(summed)
        self._paths: dict[tuple[str, ...], Path] = {}

    def estimate(
        self, clamp: Clamp | None = None, *, generator: torch.Generator | None = None
    ) -> PartitionEstimate:
        """Anneal from the base to the energy.

        Parameters
        ----------
        clamp
            Variables to hold, each ``(batch, *shape)`` or a `Partial`; Z is that of the others given these.
        generator
            The only source of randomness.
        """
        clamp = {**self._clamp, **(clamp or {})}
        with torch.no_grad():
            path = self._path(clamp)
            like = self._like(clamp, {})
            wide = _repeated(clamp, self.chains)
            start = path.base.draw(wide, like.repeat_interleave(self.chains), generator)
            return self._run(path, clamp, wide, start, like, self.betas, generator)

    def reverse(
        self,
        samples: State,
        clamp: Clamp | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> PartitionEstimate:
        """Anneal from samples of the energy to the base: an upper bound of log Z if the samples are exact.

        Parameters
        ----------
        samples
            Values of the free variables, each ``(batch * chains, *shape)``, the chains of one sample of the
            clamp in a row. Their number takes the place of ``chains``.
        clamp, generator
            As in `estimate`.
        """
        clamp = {**self._clamp, **(clamp or {})}
        with torch.no_grad():
            path = self._path(clamp)
            free = _free(self.energy, clamp)
            needed = [name for name in free if name not in self.summed]
            like = self._like(clamp, samples)
            count = len(next(iter(samples.values()), ()))
            if not set(needed) <= set(samples) <= set(free) or not count or count % len(like):
                raise StateError(
                    f"reverse: expected values of {', '.join(needed)}, as many for each "
                    f"of the {len(like)} samples of the clamp, got {count} of {', '.join(samples) or 'none'}"
                )
            wide = _repeated(clamp, count // len(like))
            return self._run(path, clamp, wide, samples, like, self.betas[::-1], generator)

    def _run(
        self,
        path: Path,
        clamp: Clamp,
        wide: Clamp,
        start: State,
        like: Tensor,
        betas: Sequence[float],
        generator: torch.Generator | None,
    ) -> PartitionEstimate:
        free = {name: path.variables[name] for name in _free(self.energy, clamp)}
        sampler = default_sampler(free) if self.sampler is None else self.sampler
        if self.summed:
            law = SummedOut(path, self.summed, wide, start, sampler, generator)
            return self._run_summed(path, clamp, law, like, betas)
        batch, chains = len(like), len(next(iter(start.values()))) // len(like)
        stops = [path.place(beta) if beta > 0 else None for beta in betas[1:-1]]
        places = [path.place(1.0)[0], path.gap, *(stop[0] for stop in stops if stop)]
        table = torch.tensor(places, dtype=like.dtype)
        mixtures = iter(table.to(like.device).unsqueeze(1).expand(-1, batch * chains, -1))
        flow = self._flow(path, sampler, wide, start, next(mixtures), generator)
        point = flow.start
        # the energy of this flow, which nothing follows, is that of the target less that of the base
        gap = flow.rebind(point, **{MIXTURE: next(mixtures)})
        weights = torch.zeros(batch * chains, dtype=torch.float64, device=like.device)
        told: dict[str, Tensor] = {}
        for (before, beta), stop in zip(pairwise(betas), [*stops, None], strict=True):
            weights = weights - (beta - before) * gap.energy(point).double()
            if stop is not None:
                now = flow.rebind(point, **{MIXTURE: next(mixtures)})
                carry = sampler.init(now, point)  # what a carry knows of its state is of the energy before
                point, carry, _ = sampler.sample(now, point, carry, generator, stop[1])
                for name, value in sampler.statistics(carry).items():
                    told[name] = told[name] + value if name in told else value
        moves = sum(stop is not None for stop in stops)
        return PartitionEstimate(
            log_weights=weights.unflatten(0, (batch, chains)),
            log_base=path.base.log_partition(clamp, like).double(),
            reverse=betas[0] > betas[-1],
            state={n: value.unflatten(0, (batch, chains)) for n, value in flow.values(point).items()},
            statistics={n: (value / moves).unflatten(0, (batch, chains)) for n, value in told.items()},
        )

    def _run_summed(
        self, path: Path, clamp: Clamp, law: SummedOut, like: Tensor, betas: Sequence[float]
    ) -> PartitionEstimate:
        rest, told, moves = law.rest, {}, 0
        count = len(next(iter(rest.values())))
        weights = torch.zeros(count, dtype=torch.float64, device=like.device)
        for before, beta in pairwise(betas):
            here = law.evaluate(rest)
            weights = weights + here.log_density(beta) - here.log_density(before)
            if beta not in (0.0, 1.0):
                moves += 1
                rest, statistics = law.move(rest, here.gap(beta), path.place(beta))
                for name, value in statistics.items():
                    told[name] = told[name] + value if name in told else value
        chains = (len(like), count // len(like))
        return PartitionEstimate(
            log_weights=weights.unflatten(0, chains),
            log_base=path.base.log_partition(clamp, like).double(),
            reverse=betas[0] > betas[-1],
            state={n: value.unflatten(0, chains) for n, value in law.moving.values(rest).items()},
            statistics={n: (value / moves).unflatten(0, chains) for n, value in told.items()},
        )

    def _flow(
        self,
        path: Path,
        sampler: Sampler,
        wide: Clamp,
        start: State,
        mixture: Tensor,
        generator: torch.Generator | None,
    ) -> EnergyFlow:
        whole = {name: value for name, value in wide.items() if isinstance(value, Tensor)}
        parts = {name: value for name, value in wide.items() if not isinstance(value, Tensor)}
        conditioned = path.condition(**whole)
        return sampler.flow(conditioned, {**parts, MIXTURE: mixture}, start, generator=generator)

    def _path(self, clamp: Clamp) -> Path:
        free = _free(self.energy, clamp)
        if not free:
            raise SettlingError(
                f"every variable of {self.energy} is clamped, so there is nothing to sum over; leave one free"
            )
        if free not in self._paths:
            base = self.base
            if base is None:
                base = Standard({name: self.energy.variables[name] for name in free})
            elif not set(free) <= set(base.variables) <= set(self.energy.variables):
                raise ValueError(
                    f"AnnealedImportanceSampling: expected a base of the free variables {', '.join(free)} "
                    f"within {', '.join(self.energy.variables)}, got one of {', '.join(base.variables)}"
                )
            kind = Tilted if is_discrete({name: self.energy.variables[name] for name in free}) else Mixed
            self._paths[free] = kind(base, self.energy)
        return self._paths[free]

    def _like(self, clamp: Clamp, samples: State) -> Float[Tensor, batch]:
        """Zeros of the batch, dtype and device of a clamp; of the parameters where nothing is clamped."""
        held = [value.value if isinstance(value, Partial) else value for value in clamp.values()]
        known = [*held, *self.energy.parameters(), *samples.values()]
        like = next((value for value in known if value.is_floating_point()), torch.empty(0))
        return like.new_zeros(len(held[0]) if held else 1)


def default_sampler(variables: Mapping[str, Variable]) -> Sampler:
    """Gibbs where a variable is discrete, Hamiltonian Monte Carlo for continuous ones."""
    if any(isinstance(variable, Discrete) for variable in variables.values()):
        return Gibbs()
    return HamiltonianMonteCarlo(dt=0.1, steps=10)


def _free(energy: Energy, clamp: Clamp) -> tuple[str, ...]:
    return tuple(name for name in energy.variables if not isinstance(clamp.get(name), Tensor))


def _repeated(clamp: Clamp, times: int) -> Clamp:
    """Each sample of a clamp several times in a row."""
    wide: dict[str, Tensor | Partial] = {}
    for name, value in clamp.items():
        if isinstance(value, Partial):
            wide[name] = Partial(
                value.value.repeat_interleave(times, 0), value.full_mask.repeat_interleave(times, 0)
            )
        else:
            wide[name] = value.repeat_interleave(times, 0)
    return wide


def _betas(betas: Sequence[float] | Tensor) -> tuple[float, ...]:
    found = tuple(float(beta) for beta in betas)
    if len(found) < 2 or found[0] != 0 or found[-1] != 1 or not all(a <= b for a, b in pairwise(found)):
        raise ValueError(
            f"AnnealedImportanceSampling: betas must grow from 0 to 1, got {len(found)}: {found[:9]}"
        )
    return found
