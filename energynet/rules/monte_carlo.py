"""Learning from samples of what is hidden, given the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.flow import EnergyFlow
from energynet.rules.base import LearningRule, Phase, require, standing
from energynet.rules.contrast import Gradient, by_parameter, energy_and_gradient
from energynet.rules.kept import Kept
from energynet.samplers import MALA, Gibbs, Sampler
from energynet.settle import flow_of, relax
from energynet.solution import Solution, check_finite
from energynet.solvers.proximal import steepest
from energynet.state import State
from energynet.variable import Discrete


@final
class MonteCarloEM(LearningRule):
    r"""Sample the hidden variables given the data, then descend the mean energy of the samples.

    .. math:: \nabla_\theta = \langle \partial E(x, z) / \partial \theta \rangle_{p(z | x)}, \qquad
              p(z | x) \propto \exp(-E(x, z) / T)

    Where E = -log p(x, z) this is the gradient of -log p(x): the step M of expectation maximisation as one
    step of an optimiser, the step E by a chain (Wei and Tanner 1990, J. Am. Stat. Assoc. 85:699; for sparse
    coding Fang et al. 2022, arXiv:2204.11150). So every factor of p that depends on a parameter must be in
    the energy: the normalisers of a sparsity or variance that is learned are, see `terms.Sparsity`. A model
    of unknown normaliser, such as a Boltzmann machine, needs a second phase.

    The value is the mean energy. What falls in learning is -log p(x), which is the mean energy less the
    entropy of the samples, so that the value alone may rise.

    Parameters
    ----------
    energy
        -log p of the data and the hidden variables together.
    sampler
        By default `Gibbs` where a variable is discrete, else `MALA` with a step from the largest curvature of
        the energy, found anew for each batch. The bias of others, such as `Langevin`, is passed
        on to the gradient.
    steps
        Steps of each chain after the burn-in.
    burn_in
        Steps before the first sample.
    every
        Steps from one sample to the next; each call averages ``steps // every`` of them for each chain. With
        the defaults five, ten steps apart: neighbours are too alike to be worth a gradient each.
    chains
        Chains for each datum.
    persistent
        Begin at the end of the last call that learned, which must have been of a batch of the same size:
        for the same data in every call, so that one call need not forget the start. With other data in each
        call this is how the codes of Fang et al. go on while the image changes, and the burn-in matters.
        The chains are buffers: a ``state_dict`` holds them.
    generator
        The only source of randomness.
    compile
        Sample by compiled steps, see `settle`.

    Attributes
    ----------
    held
        Values of the hidden variables where the persistent chains are, as buffers; none at first.

    Examples
    --------
    >>> model = en.models.SparseCoding(64, 128, learn_sparsity=True, link=False)
    >>> rule = en.MonteCarloEM(model, sampler=en.Langevin(0.01), steps=100, burn_in=50)
    >>> rule(x=patches).backward()
    """

    owns_gradient = True

    def __init__(
        self,
        energy: Energy,
        *,
        sampler: Sampler | None = None,
        steps: int = 50,
        burn_in: int = 50,
        every: int = 10,
        chains: int = 1,
        persistent: bool = False,
        generator: torch.Generator | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__(energy)
        for name, number, least in (
            ("steps", steps, 1),
            ("burn_in", burn_in, 0),
            ("every", every, 1),
            ("chains", chains, 1),
        ):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ValueError(f"MonteCarloEM: {name} is a whole number from {least} up, got {number!r}")
        if every > steps:
            raise ValueError(
                f"MonteCarloEM: one in {every} steps is a sample, so none in {steps}; give more steps"
            )
        if hasattr(energy, "log_partition"):
            raise TypeError(
                f"MonteCarloEM: {energy} is -log p but for a normaliser that learning moves, without which "
                "its energy falls without end; use ContrastiveDivergence, or MaximumLikelihood if it is small"
            )
        if sampler is not None and not isinstance(sampler, Sampler):
            raise TypeError(
                f"MonteCarloEM: sampler must be one such as Langevin(0.01), got {sampler!r}; a minimiser "
                "settles in one state, see MaximumAPosteriori"
            )
        self.sampler = sampler
        self.steps, self.burn_in, self.every = steps, burn_in, every
        self.chains = chains
        self.persistent = persistent
        self.generator = generator
        self.compiled = compile
        self.held = Kept()

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """One phase for each sample of the chains, all of one weight."""
        return self._sampled(data, keep=self.persistent)

    def evaluate(self, **data: Tensor) -> Tensor:
        return self.value(self._sampled(data, keep=False))

    def value(self, phases: Sequence[Phase]) -> Tensor:
        return torch.stack([phase.solution.energy.mean() for phase in phases]).mean()

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        values: list[Tensor] = []
        total: Gradient = {}
        for phase in self.phases(**data):
            energies, slopes = energy_and_gradient(phase)
            values.append(energies.mean())
            total = {n: total[n].add_(s) for n, s in slopes.items()} if total else _own(slopes)
        return torch.stack(values).mean(), by_parameter(self.energy, total)

    def _sampled(self, data: Mapping[str, Tensor], *, keep: bool) -> list[Phase]:
        if not data:
            raise StateError("MonteCarloEM: no data; pass what the energy is to explain")
        require(self, data, (), tuple(self.energy.variables))
        with torch.no_grad():
            flow, sampler = self._flow(data)
            # the first record is that of the start
            first = self.burn_in // self.every + 1
            solution = relax(
                flow,
                solver=sampler,
                max_steps=self.burn_in + self.steps // self.every * self.every,
                record={name: _reading(name) for name in flow.names},
                record_every=self.every,
                generator=self.generator,
                compile=self.compiled,
            )
            check_finite(solution)
            if keep:
                self.held.put({name: solution.state[name] for name in flow.names})
            records = {n: v[first:] for n, v in solution.trajectory.items()}
            return self._phases(flow, records, first)

    def _phases(self, flow: EnergyFlow, records: State, first: int) -> list[Phase]:
        count = len(next(iter(records.values())))
        found: list[Solution] = []
        for number in range(count):
            point = flow.starting({name: value[number] for name, value in records.items()}).start
            found.append(standing(flow, point, (first + number) * self.every))
        return [Phase(1 / count, self.energy, solution) for solution in found]

    def _flow(self, data: Mapping[str, Tensor]) -> tuple[EnergyFlow, Sampler]:
        clamp = {n: v.repeat_interleave(self.chains, 0) for n, v in data.items()} if self.chains > 1 else data
        hidden = {n: v for n, v in self.energy.variables.items() if n not in data}
        device = next(iter(clamp.values())).device
        start = self.held.get(device) if self.persistent else {}
        batch = len(next(iter(clamp.values())))
        for name, value in start.items():
            if len(value) != batch or name not in hidden:
                raise StateError(
                    f"MonteCarloEM: the persistent chains are {len(value)} of {name!r}, but the data are "
                    f"for {batch} of {', '.join(map(repr, hidden))}; keep the batch, or call held.put({{}})"
                )
        sampler = self.sampler
        if sampler is None:
            discrete = any(isinstance(variable, Discrete) for variable in hidden.values())
            sampler = Gibbs() if discrete else MALA(1.0)  # which step is not known yet
        flow = flow_of(self.energy, dict(clamp), start, solver=sampler, generator=self.generator)
        if self.sampler is None and isinstance(sampler, MALA):
            sampler = MALA(_step(flow, self.generator))
        return flow, sampler


def _step(flow: EnergyFlow, generator: torch.Generator | None) -> float:
    """1 over the largest curvature, and over the cube root of the units, by which proposals fail.

    Roberts and Rosenthal (1998, J. R. Stat. Soc. B 60:255). The curvature is the larger of those at the start
    and at a point a standard normal step away, for a threshold has none at zero.
    """
    if flow.links:
        raise ValueError(
            f"MonteCarloEM: {', '.join(map(repr, flow.links))} is sampled through a link, and no step for "
            "that is known; pass a sampler such as MALA(dt=0.01)"
        )
    away = flow.project(
        {
            n: v + torch.randn(v.shape, dtype=v.dtype, device=v.device, generator=generator)
            for n, v in flow.start.items()
        }
    )
    curvature = max(float(steepest(flow, point).max()) for point in (flow.start, away))
    units = max(sum(v[0].numel() for v in flow.start.values()), 1)
    return 1 / (max(curvature, 1e-3) * units ** (1 / 3))


def _own(slopes: Gradient) -> Gradient:
    return {name: value.clone() for name, value in slopes.items()}


def _reading(name: str) -> Any:
    # a record must not change with the chain, which may move in place
    return lambda state: state[name].clone()
