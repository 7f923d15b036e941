"""Learning at the settled state of clamped data, and while it settles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from energynet.clamp import Partial, common
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.flow import EnergyFlow
from energynet.forces import TracedForces
from energynet.rules.base import LearningRule, Phase, require, settled, standing
from energynet.rules.contrast import Gradient, accumulate, by_parameter, contrast, energy_and_gradient
from energynet.settle import flow_of
from energynet.solution import Solution, check_finite
from energynet.solvers import LBFGS, Euler, Solver
from energynet.state import State
from energynet.stopping import Until
from energynet.terms.errors import ErrorCoordinates
from energynet.terms.graph import predicted, predictions
from energynet.terms.pullback import separate
from energynet.variable import rows

Start = Callable[..., State]
COORDINATES = ("states", "errors")


class Clamped(LearningRule):
    """A rule whose data are clamped while the rest of the energy settles.

    Parameters
    ----------
    energy
        What learns.
    solver
        Moves the variables that are not in the data.
    start
        From the data, by name, to the values from which other variables start. Those that it does not give,
        or all for None, start at what is predicted, where the energy has `Prediction` terms, else at the
        domains' initial values.
    """

    owns_gradient = True

    def __init__(self, energy: Energy, solver: Solver | None, start: Start | None) -> None:
        super().__init__(energy)
        if start is not None and not callable(start):
            raise TypeError(
                f"{type(self).__name__}: start is a function of the data, by name, that returns a dict of "
                f"values; got {start!r}"
            )
        self.solver = solver
        self.start = start

    def flow(self, data: Mapping[str, Tensor]) -> EnergyFlow:
        """The flow of what is not in the data, at its start."""
        self._require(data)
        with torch.no_grad():
            if set(data) < set(self.energy.variables):
                if self.start is not None:
                    return flow_of(self.energy, data, self._started(data, self.start), solver=self.solver)
                return _from_predictions(flow_of(self.energy, data, solver=self.solver))
            self.energy.check(data, partial=True)
            name, value = next(
                iter(data.items())
            )  # nothing is left to settle, but the state is still a phase
            held = Partial(value, torch.ones_like(value, dtype=torch.bool))
            return flow_of(self.energy, {**data, name: held}, solver=self.solver)

    def _started(self, data: Mapping[str, Tensor], start: Start) -> State:
        """The data, what a function of them gives, and what both predict."""
        known = {**start(**data), **data}
        self.energy.check(known, partial=True)
        return {**known, **predicted(self.energy, known)}

    def _require(self, data: Mapping[str, Tensor]) -> None:
        if not data:
            raise StateError(f"{type(self).__name__}: no data; pass what the energy is to explain")
        require(self, data, (), tuple(self.energy.variables))

    def value(self, phases: Sequence[Phase]) -> Tensor:
        return phases[0].solution.energy.mean()


def _from_predictions(flow: EnergyFlow) -> EnergyFlow:
    """The flow from what is predicted by what is known."""
    conditioned, forces = flow.conditioned, flow.forces
    if isinstance(forces, TracedForces):
        return flow.starting(predictions(conditioned, forces.dynamics.program, flow.batch))
    return flow.starting(predicted(conditioned.base, conditioned.clamp))


@final
class MaximumAPosteriori(Clamped):
    """Settle with the data clamped, then descend the energy there in the parameters.

    The rule of predictive coding and of sparse coding: expectation maximisation with a point estimate in
    place of the posterior (Rao and Ballard 1999; Olshausen and Field 1996, eq. 6). The value is the mean
    energy of the settled states. They are stationary, so its total derivative is the partial one.

    Parameters
    ----------
    energy
        Of the data and the hidden variables; with a cost added, of ``target`` too.
    solver
        `BlockDescent` by default, `LBFGS` on errors.
    max_steps, until
        When to stop settling, see `settle`. With few steps the gradient is that of unsettled states, as
        predictive coding is often run.
    start
        Where the hidden variables start; None starts at what the data predict. A ``torch.nn.Module`` is
        amortised inference: its parameters learn as well, to descend 1/2 |start - settled|^2, summed over the
        variables that it gives (Tschantz et al. 2023, PLoS Comput. Biol. 19:e1011280, hybrid predictive
        coding).
    coordinates
        What the solver moves: ``"states"``, or ``"errors"``, where the energy has `Prediction` terms. The
        errors start at zero, and a deep network settles in tens of steps, see `ErrorCoordinates`. The
        gradient is then taken with errors held fixed, not states. Where these are settled it is the same, for
        a point may be varied there in any way; before, it is nearer to the settled one, because every layer
        has heard of the output.

    Examples
    --------
    >>> rule = en.MaximumAPosteriori(en.models.PredictiveCoding([784, 256, 10]))
    >>> rule(x=x, y=label).backward()
    >>> deep = en.models.PredictiveCoding([784, *[128] * 8, 10])
    >>> rule = en.MaximumAPosteriori(deep, coordinates="errors", max_steps=14)
    """

    def __init__(
        self,
        energy: Energy,
        *,
        solver: Solver | None = None,
        max_steps: int = 1000,
        until: Until | None = None,
        start: Start | None = None,
        coordinates: str = "states",
    ) -> None:
        if coordinates not in COORDINATES:
            raise ValueError(
                f"MaximumAPosteriori: coordinates must be one of {', '.join(COORDINATES)}, "
                f"got {coordinates!r}"
            )
        errors = coordinates == "errors"
        super().__init__(energy, LBFGS() if errors and solver is None else solver, start)
        self.max_steps = max_steps
        self.until = until
        self.coordinates = coordinates
        # one for each set of names in the data; in a dict, for its parameters are those of the energy
        self._errors: dict[frozenset[str], ErrorCoordinates] = {}

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """The settled states, whatever was moved to find them."""
        phase = self._settled(data)
        if isinstance(phase.energy, ErrorCoordinates):
            with torch.no_grad():
                states = phase.energy.to_states(phase.solution.state)
            return [Phase(1.0, self.energy, replace(phase.solution, state=states))]
        return [phase]

    def evaluate(self, **data: Tensor) -> Tensor:
        return self.value([self._settled(data)])

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        phase = self._settled(data)
        energies, slopes = energy_and_gradient(phase)
        gradient = by_parameter(phase.energy, slopes)
        if isinstance(self.start, nn.Module):
            state = phase.solution.state
            if isinstance(phase.energy, ErrorCoordinates):
                state = phase.energy.to_states(state)
            accumulate(gradient, _amortise(self.start, data, state))  # weights may be tied
        return energies.mean(), gradient

    def _settled(self, data: Mapping[str, Tensor]) -> Phase:
        """The phase in the coordinates that the solver moves."""
        with torch.no_grad():
            # with everything given no error is free, as no state is
            states = self.coordinates == "states" or set(data) >= set(self.energy.variables)
            flow = self.flow(data) if states else self._flow_of_errors(data)
            solution = settled(flow, solver=self.solver, max_steps=self.max_steps, until=self.until)
        return Phase(1.0, self.energy if states else flow.conditioned.base, solution)

    def _flow_of_errors(self, data: Mapping[str, Tensor]) -> EnergyFlow:
        self._require(data)
        names = frozenset(data)
        if names not in self._errors:
            self._errors[names] = ErrorCoordinates(self.energy, names)
        energy = self._errors[names]
        start: State = {}
        if self.start is not None:
            states = self._started(data, self.start)
            batch, like = common(self.energy, states)
            for name, variable in self.energy.variables.items():
                if name not in states:
                    states[name] = variable.initial(batch, dtype=like.dtype, device=like.device)
            start = {n: v for n, v in energy.to_errors(states).items() if n not in data}
        return flow_of(energy, data, start, solver=self.solver)


def _amortise(start: nn.Module, data: Mapping[str, Tensor], settled: State) -> dict[nn.Parameter, Tensor]:
    """The gradient of the mean squared distance from the guess to the settled state."""
    parameters = [p for p in start.parameters() if p.requires_grad]
    if not parameters:
        return {}
    with torch.enable_grad():
        guess: State = start(**data)
        errors = [rows(v - settled[n]).square().sum(1) for n, v in guess.items() if n not in data]
        distance = 0.5 * torch.stack(errors).sum(0).mean()
        slopes = torch.autograd.grad(distance, parameters, allow_unused=True, materialize_grads=True)
    return dict(
        zip(parameters, separate(slopes, [*parameters, *data.values(), *settled.values()]), strict=True)
    )


@final
class IncrementalPC(Clamped):
    """Incremental predictive coding: the weights move at every step of the inference.

    A step takes the gradient of the energy in the weights and the force on the states at the same point, and
    moves both (Salvatori et al. 2024, ICLR, "A stable, fast, and fully automatic learning algorithm for
    predictive coding networks", algorithm 1). A loss has one gradient, so within a call the weights take
    plain steps of size ``rate`` and are put back at the end; the gradient that is left is the sum of those
    on the way. ``SGD(lr=rate)`` then ends where they had gone, and any other optimiser makes of it what it
    does of a gradient.

    Parameters
    ----------
    energy
        Of the data and the hidden variables.
    rate
        Step of the weights. At zero they stand still, and the gradients on the way are summed.
    steps
        Of the inference, after each of which the weights move.
    solver
        ``Euler(0.1)`` by default, gradient descent as in the paper. It begins anew at every step, for it may
        keep forces or curvatures, which are others once the weights have moved; so it gathers no momentum.
    start
        As in `MaximumAPosteriori`, but a module does not learn.

    Notes
    -----
    The value is the mean energy at the end, under the weights that had moved.

    Examples
    --------
    >>> rule = en.IncrementalPC(model, rate=0.01, steps=8)
    >>> optimiser = torch.optim.SGD(rule.parameters(), lr=0.01)
    """

    def __init__(
        self,
        energy: Energy,
        rate: float,
        *,
        steps: int = 20,
        solver: Solver | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__(energy, Euler(0.1) if solver is None else solver, start)
        if not isinstance(rate, (int, float)) or not 0 <= rate < math.inf:
            raise ValueError(f"IncrementalPC: rate must be a finite number from 0 up, got {rate!r}")
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"IncrementalPC: steps must be a whole number above 0, got {steps!r}")
        self.rate = float(rate)
        self.steps = steps

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """The end of the inference, with the weights back where they were."""
        with torch.no_grad():
            return [Phase(1.0, self.energy, self._walk(data)[0])]

    def evaluate(self, **data: Tensor) -> Tensor:
        with torch.no_grad():
            return self._walk(data)[1]

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        with torch.no_grad():
            _, value, gradient = self._walk(data)
        return value, by_parameter(self.energy, gradient)

    def _walk(self, data: Mapping[str, Tensor]) -> tuple[Solution, Tensor, Gradient]:
        """Move states and weights together: the end, its mean energy, and the sum of the gradients."""
        named = {n: p for n, p in self.energy.named_parameters() if p.requires_grad}
        kept = {n: p.clone() for n, p in named.items()}
        flow = self.flow(data)
        solver = self.solver
        assert solver is not None
        point = flow.start
        total: Gradient = {}
        try:
            for step in range(1, self.steps + 1):
                slopes = contrast([Phase(1.0, self.energy, standing(flow, point, step - 1))])
                total = {n: total[n] + s for n, s in slopes.items()} if total else slopes
                point, _, _ = solver.step(flow, point, solver.init(flow, point), None)
                for name, parameter in named.items():
                    parameter.sub_(slopes[name], alpha=self.rate)
                flow = flow.rebind(flow.start)  # what it had computed of the weights is stale
            value = flow.energy(point).mean()
        finally:
            for name, parameter in named.items():
                parameter.copy_(kept[name])
        end = standing(flow.rebind(flow.start), point, self.steps)
        check_finite(end)
        return end, value, total
