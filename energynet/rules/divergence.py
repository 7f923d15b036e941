"""Contrastive divergence: the data against what a few steps of a sampler make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.factorial import Factorial, check_means, drawn, entropy, factorial
from energynet.flow import EnergyFlow
from energynet.meanfield import MeanField
from energynet.rules.base import LearningRule, Phase, require
from energynet.rules.centring import Centring
from energynet.rules.contrast import by_parameter, contrast
from energynet.rules.kept import Kept
from energynet.samplers import Gibbs
from energynet.settle import flow_of, relax, settle
from energynet.solution import Solution, check_finite
from energynet.solvers import Solver
from energynet.state import State
from energynet.stopping import Status
from energynet.variable import Spin

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class ContrastiveDivergence(LearningRule):
    r"""Lower the free energy of the data, raise that of samples (Hinton 2002, Neural Comput. 14:1771).

    .. math:: \tfrac{1}{N}\sum_{v \in data} F(v) - \tfrac{1}{M}\sum_{v \in samples} F(v),
              \quad F(v) = -\log \sum_h e^{-E(v, h)}

    is the value, and with the samples held fixed its gradient is the rule. Were the samples from the model's
    own law, that would be the exact gradient of the negative log likelihood; after k steps from the data it
    is off by what the sampler has forgotten too little.

    Where the hidden variables are independent given the visible ones (one layer of bits or spins, as in a
    restricted Boltzmann machine), they are summed out in both phases: the gradient is taken at their
    means (Rao-Blackwell). Otherwise they are settled by ``clamped``, and F is E less the entropy of the means
    that it finds: an upper bound of F for means of independent units; E for samples.

    Parameters
    ----------
    energy
        Of the data and the hidden variables.
    k
        Steps of the sampler in the free phase; 1 by default, which learns fast and with the most bias.
    persistent
        Go on with the same chains from call to call rather than from the data (Tieleman 2008, ICML): less
        bias, for steps of learning that are small beside those of the chains. They are buffers: a
        ``state_dict`` holds them, and training resumes where it was.
    given
        Variables that are clamped in both phases: conditions. Chains then depend on the sample, and cannot
        persist.
    sampler
        Of the free phase; by default `Gibbs` by blocks. `ParallelTempering` keeps all its replicas, so that
        persistent chains cross from mode to mode (Desjardins et al. 2010, AISTATS).
    clamped
        What becomes of hidden variables that depend on each other given the data: a solver, by default
        `Gibbs` by blocks, or the `MeanField` of the energy, which is settled by the default solver (deep
        machines: Salakhutdinov and Hinton 2009, AISTATS, sec. 3.1).
    clamped_steps
        Its steps, or the most of them; 10 by default.
    chains
        How many chains, persistent or not; None, the default, for as many as the (first) batch has samples.
    centring
        Rate at which the means are followed that units are centred by (Montavon and Mueller 2012; Melchior,
        Fischer and Wiskott 2016, JMLR 17:99, who take 0.01), 0, the default, for no centring. The gradient is
        then that of a machine of s - offset, told in the parameters of this one.
    generator
        The only source of randomness.

    Notes
    -----
    Data may be means of bits or spins, such as grey levels between 0 and 1, for variables in which the energy
    is affine: the clamped phase takes them as they are, chains start from bits drawn from them.

    Weight decay is that of the optimiser: ``torch.optim.SGD(..., weight_decay=)`` adds it to this gradient.

    With gradients disabled nothing persistent moves.

    Examples
    --------
    >>> rule = en.ContrastiveDivergence(en.models.RestrictedBoltzmannMachine(784, 500), persistent=True)
    >>> rule(v=images).backward()
    """

    owns_gradient = True

    def __init__(
        self,
        energy: Energy,
        k: int = 1,
        persistent: bool = False,
        given: Sequence[str] = (),
        *,
        sampler: Solver | None = None,
        clamped: Solver | MeanField | None = None,
        clamped_steps: int = 10,
        chains: int | None = None,
        centring: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(energy)
        for name, number in (
            ("k", k),
            ("clamped_steps", clamped_steps),
            ("chains", 1 if chains is None else chains),
        ):
            if not isinstance(number, int) or number < 1:
                raise ValueError(
                    f"ContrastiveDivergence: {name} must be a whole number above 0, got {number!r}"
                )
        self.given = (given,) if isinstance(given, str) else tuple(given)
        for name in self.given:
            if name not in energy.variables:
                raise StateError(
                    f"ContrastiveDivergence: given {name!r} is no variable of the energy; "
                    f"it has {', '.join(map(repr, energy.variables))}"
                )
        for name in getattr(energy, "given", ()):
            if name not in self.given:
                raise StateError(
                    f"ContrastiveDivergence: the law of {energy} is conditional on {name!r}; "
                    f"pass given=({name!r},)"
                )
        if sampler is not None and not isinstance(sampler, Solver):
            raise TypeError(
                f"ContrastiveDivergence: sampler must be an instance such as Gibbs(), got {sampler!r}"
            )
        if clamped is not None and not isinstance(clamped, Solver | MeanField):
            raise TypeError(
                "ContrastiveDivergence: clamped must be an instance such as MeanField(energy) or Gibbs(), "
                f"got {clamped!r}"
            )
        if isinstance(clamped, MeanField) and clamped.base is not energy:
            raise ValueError(
                f"ContrastiveDivergence: clamped is the mean field of {clamped.base}, not of what learns, "
                f"{energy}; pass MeanField(energy) of the same energy"
            )
        if persistent and self.given:
            raise ValueError(
                "ContrastiveDivergence: persistent chains are of one law, but what is given makes another "
                "for "
                "each sample; use persistent=False, with a larger k"
            )
        if chains is not None and self.given:
            raise ValueError(
                "ContrastiveDivergence: chains under a condition are as many as the samples; leave out chains"
            )
        self.k = k
        self.persistent = persistent
        self.sampler = sampler
        self._clamped_by = (clamped,)  # in a tuple, for a mean field's parameters are those of the energy
        self.clamped_steps = clamped_steps
        self.count = chains
        self.generator = generator
        self.chains = Kept()
        self.centring: nn.Module | None = Centring(energy, centring) if centring else None

    @property
    def clamped(self) -> Solver | MeanField | None:
        """What becomes of hidden variables that depend on each other given the data."""
        return self._clamped_by[0]

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        require(self, data, self.given, tuple(self.energy.variables))
        if set(data) == set(self.given):
            raise StateError(
                f"ContrastiveDivergence: all data are given ({', '.join(self.given) or 'there are none'}); "
                "pass what is to be learnt as well"
            )
        moves = torch.is_grad_enabled()
        with torch.no_grad():
            check_means(self.energy, data)
            given = {name: data[name] for name in self.given}
            hidden = [name for name in self.energy.variables if name not in data]
            law = factorial(self.energy, hidden, data)
            clamped = self._clamped(data, hidden, law)
            free = self._free(given, clamped, law, moves=moves)
        return [Phase(1.0, self.energy, clamped), Phase(-1.0, self.energy, free)]

    def value(self, phases: Sequence[Phase]) -> Float[Tensor, ""]:
        clamped, free = (phase.solution for phase in phases)
        # a flow that has moved the data, too, is at samples of all, which have no entropy
        summed = free.flow.names == clamped.flow.names
        by = self.clamped
        if isinstance(by, MeanField) and clamped.flow.conditioned.base is by:
            data = _free_energy_of_means(by, clamped)
        else:
            data = _free_energy(clamped)
        return data.mean() - (_free_energy(free) if summed else free.energy).mean()

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        phases = self.phases(**data)
        gradient = contrast(phases)
        by = self.clamped
        if isinstance(by, MeanField):
            names = {parameter: name for name, parameter in self.energy.named_parameters()}
            for parameter, slope in by.reaction_gradient(phases[0].solution.state).items():
                gradient[names[parameter]] = gradient[names[parameter]] + slope
        if self.centring is not None:
            self.centring(gradient, phases[0].solution.state)
        return self.value(phases), by_parameter(self.energy, gradient)

    def _clamped(self, data: State, hidden: Sequence[str], law: Factorial | None) -> Solution:
        """The clamped phase: hidden variables at their means, or settled."""
        if law is not None:
            return _at_means(law, data)
        by = self.clamped
        if hidden and isinstance(by, MeanField):
            solution = settle(by, clamp=data, max_steps=self.clamped_steps)
            check_finite(solution)
            return solution
        if hidden:
            solver = by if isinstance(by, Solver) else Gibbs(scan="block")
            flow = flow_of(self.energy, data, solver=solver, generator=self.generator)
            solution = relax(flow, solver=solver, max_steps=self.clamped_steps, generator=self.generator)
            check_finite(solution)
            return solution
        # nothing to settle: a flow of what is not given, for its energy at the data
        given = {name: data[name] for name in self.given}
        rest = {name: value for name, value in data.items() if name not in given}
        start = {name: self.energy.variables[name].project(value) for name, value in rest.items()}
        flow = flow_of(self.energy, given, start, solver=self._sampler())
        return _solution(flow, data, rest)

    def _free(self, given: State, clamped: Solution, law: Factorial | None, *, moves: bool) -> Solution:
        """The free phase: k steps of the sampler, then hidden variables at their means."""
        device = next(iter(clamped.state.values())).device
        kept = self.chains.get(device) if self.persistent else {}
        start = {name: kept[name] for name in self.energy.variables if name in kept}
        if not start:
            rest = {name: value for name, value in clamped.state.items() if name not in given}
            if self.count is not None:
                index = torch.arange(self.count, device=next(iter(rest.values())).device)
                rest = {name: value[index % len(value)] for name, value in rest.items()}
            start = drawn(self.energy.variables, rest, self.generator)
        hidden = () if law is None else law.flow.names
        visible = [name for name in start if name not in hidden]
        state = {**given, **start}
        down = None
        if law is not None and self.sampler is None:
            down = factorial(self.energy, visible, state)
        carry: State = {}
        if law is None or down is None:
            solution, carry = self._sampled(given, start, kept)
            state = solution.state
            if law is not None:
                solution = _means_after(self.energy, hidden, state)
        else:
            solution = self._alternating(down, hidden, state)
        if self.persistent and moves:
            means = {name: solution.state[name] for name in hidden}
            ends = {name: solution.state[name] for name in start}
            self.chains.put({**ends, **drawn(self.energy.variables, means, self.generator), **carry})
        return solution

    def _alternating(self, down: Factorial, hidden: Sequence[str], state: State) -> Solution:
        """Visible units given the hidden ones, hidden ones given the visible ones, and again."""
        variables = self.energy.variables
        for step in range(self.k):
            if step:
                state = {**state, **drawn(variables, {n: state[n] for n in hidden}, self.generator)}
            state = {**state, **drawn(variables, down.given(state).means(), self.generator)}
            solution = _means_after(self.energy, hidden, state)
            state = solution.state
        return solution  # type: ignore[possibly-undefined]

    def _sampled(self, given: State, start: State, kept: State) -> tuple[Solution, State]:
        """Steps of the sampler on all that is free, and what it keeps of its own."""
        sampler = self._sampler()
        flow = flow_of(self.energy, given, start, solver=sampler, generator=self.generator)
        point, carry = flow.start, sampler.resume(flow, flow.start, kept)
        point, carry, residual = sampler.advance(flow, point, carry, self.generator, self.k)
        values = flow.values(point)
        solution = _solution(flow, {**given, **values}, point)
        solution = replace(
            solution,
            steps=torch.full_like(solution.steps, self.k),
            status=torch.where(residual < torch.inf, int(Status.MAX_STEPS), int(Status.DIVERGED)),
        )
        check_finite(solution)
        return solution, sampler.kept(carry)

    def _sampler(self) -> Solver:
        return Gibbs(scan="block") if self.sampler is None else self.sampler


def _solution(flow: EnergyFlow, state: State, point: State) -> Solution:
    """A state that nothing has moved."""
    like = next(iter(state.values()))
    steps = torch.zeros(len(like), dtype=torch.int64, device=like.device)
    ordered = {name: state[name] for name in flow.conditioned.base.variables}
    return Solution(ordered, steps, torch.full_like(steps, int(Status.CONVERGED)), None, flow, point)


def _at_means(law: Factorial, state: State) -> Solution:
    """The units of a factorial law at their means, given the rest of a state."""
    law = law.given(state)
    means = law.means()
    return _solution(law.flow, {**state, **means}, means)


def _means_after(energy: Energy, hidden: Sequence[str], state: State) -> Solution:
    law = factorial(energy, hidden, state)
    assert law is not None
    return _at_means(law, state)


def _free_energy(solution: Solution) -> Tensor:
    """The energy of each sample, less the entropy of what has settled."""
    moved = {name: solution.state[name] for name in solution.flow.names}
    return solution.energy - entropy(solution.flow.variables, moved, solution.energy)


def _free_energy_of_means(by: MeanField, solution: Solution) -> Tensor:
    """The same where a mean field has settled: what is given has no entropy here, and spins no constant."""
    variables, energy = by.base.variables, solution.energy
    given = {name: value for name, value in solution.state.items() if name not in solution.flow.names}
    spins = sum(math.prod(v.shape) for v in variables.values() if isinstance(v, Spin))
    return energy + by.temperature * (entropy(variables, given, energy) - spins * math.log(2))
