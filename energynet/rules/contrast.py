"""The gradient of a weighted sum of energies at given states, in the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from energynet.derivation import weighted
from energynet.energy import Energy
from energynet.errors import TraceError
from energynet.forces import TracedForces
from energynet.programs import note_fallback, program_of, signature
from energynet.state import State
from energynet.terms.pullback import separate
from energynet.trace import Environment, Kernel, Spec, difference, parameters_of, swapped

if TYPE_CHECKING:
    from energynet.rules.base import Phase

_WEIGHT = "weight of the sample"
_ENERGY = "energy of the sample"
Gradient = dict[str, Tensor]


def contrast(phases: Sequence[Phase]) -> Gradient:
    """The gradient of the batch mean of ``sum of weight * energy``, by name of the parameter.

    Every tensor is in memory of its own. All phases must be of one energy. Two phases of opposite weights are
    contracted as differences of their states, which costs less than two gradients and cancels no large
    numbers.
    """
    energy = phases[0].energy
    if any(phase.energy is not energy for phase in phases):
        raise ValueError("the phases of one rule must be phases of one energy")
    with torch.no_grad():
        try:
            return _traced(energy, phases)
        except TraceError as error:
            note_fallback(energy, error)
    return _eager(energy, phases)


def energy_and_gradient(phase: Phase) -> tuple[Tensor, Gradient]:
    """The energy of each sample at a phase, and the gradient of its weighted mean, for less than both."""
    with torch.no_grad():
        try:
            found = _single(phase, _names(phase.energy), value=True)
            return found.pop(_ENERGY), found
        except TraceError as error:
            note_fallback(phase.energy, error)
    return phase.solution.energy, _eager(phase.energy, [phase])


def _names(energy: Energy) -> list[str]:
    return [name for name, p in energy.named_parameters() if p.requires_grad]


def _traced(energy: Energy, phases: Sequence[Phase]) -> Gradient:
    names = _names(energy)
    if len(phases) == 2 and phases[0].opposite(phases[1]) and _aligned(phases):
        return _paired(energy, phases, names)
    total: Gradient = {}
    for phase in phases:
        for name, value in _single(phase, names).items():
            total[name] = total[name] + value if name in total else value
    return total


def _aligned(phases: Sequence[Phase]) -> bool:
    """Whether the samples of all phases are as many."""
    return len({len(phase.solution.status) for phase in phases}) == 1


def _single(phase: Phase, names: Sequence[str], *, value: bool = False) -> Gradient:
    """The gradient of one phase; what its flow has computed of the clamp is not computed again."""
    energy, solution = phase.energy, phase.solution
    state, flow = solution.state, solution.flow
    reference = next(v for v in state.values() if v.is_floating_point())
    batch = len(reference)
    moving = (*flow.conditioned.variables,)
    if flow.conditioned.base is energy and isinstance(flow.forces, TracedForces):
        program, environment = flow.forces.dynamics.program, flow.conditioned.environment(batch)
    else:
        program = program_of(energy, signature(state))
        known = {name: value for name, value in state.items() if name not in moving}
        environment = Environment({**parameters_of(energy), **known}, batch)
    function, more = _gradient(energy, names, value=value), _weights(reference)
    wanted = [_ENERGY, *names] if value else [*names]
    kernel = program.kernel(("gradient", value, *names), function, wanted, (*moving, _WEIGHT), more=more)
    weight = _per_sample(phase.weight, reference, batch) / batch
    bound, free = kernel.bind(environment), [*(state[name] for name in moving), weight]
    return dict(zip(wanted, separate(bound(*free), [*free, *bound.tensors]), strict=True))


def _weights(like: Tensor) -> dict[str, Spec]:
    return {_WEIGHT: Spec((), like.dtype, like.device)}


def _paired(energy: Energy, phases: Sequence[Phase], names: list[str]) -> Gradient:
    plus, minus = (phase.solution.state for phase in phases)
    reference = next(v for v in plus.values() if v.is_floating_point())
    batch = len(reference)
    program = program_of(energy, signature(plus))
    function = _gradient(energy, names, value=False)
    traced = program.traced(("gradient", False, *names), function, more=_weights(reference))
    weight = _per_sample(phases[0].weight, reference, batch) / batch
    moving = tuple(name for name in plus if plus[name] is not minus[name])
    key = ("difference", moving, *names)
    if key not in program.facts:
        sides = [name + side for name in moving for side in "+-"]
        program.facts[key] = Kernel(difference(traced, moving), names, sides)
    still = {name: value for name, value in plus.items() if name not in moving}
    known = {**parameters_of(energy), **still, _WEIGHT: weight}
    points = [side[name] for name in moving for side in (plus, minus)]
    found = program.facts[key].bind(Environment(known, batch))(*points)
    return dict(zip(names, separate(found, [*known.values(), *points]), strict=True))


def _gradient(energy: Energy, names: Sequence[str], *, value: bool) -> Callable[[State], State]:
    """The function from a state and a weight for each sample to the gradient of the weighted energy."""

    def function(point: State) -> State:
        state = {name: point[name] for name in energy.variables}
        tensors: dict[str, Tensor] = {name: p for name, p in energy.named_parameters() if name in names}

        def scalar(parameters: dict[str, Tensor]) -> Tensor:
            with swapped(energy, parameters):
                return (weighted(energy.parts(), state) * point[_WEIGHT]).sum()

        slopes: State = torch.func.grad(scalar)(tensors)
        return {**slopes, _ENERGY: weighted(energy.parts(), state)} if value else slopes

    return function


def _per_sample(weight: float | Tensor, like: Tensor, batch: int) -> Tensor:
    if isinstance(weight, Tensor):
        return weight
    return torch.full((batch,), weight, dtype=like.dtype, device=like.device)


def _eager(energy: Energy, phases: Sequence[Phase]) -> Gradient:
    tensors = {name: p for name, p in energy.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        total: Tensor | None = None
        for phase in phases:
            mean = (phase.weight * energy.energy(**phase.solution.state)).mean()
            total = mean if total is None else total + mean
        assert total is not None
        slopes = torch.autograd.grad(total, list(tensors.values()), allow_unused=True, materialize_grads=True)
    held = (value for phase in phases for value in phase.solution.state.values())
    return dict(zip(tensors, separate(slopes, [*held, *tensors.values()]), strict=True))


def by_parameter(module: nn.Module, gradient: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """A gradient by name as a gradient by parameter."""
    named = dict(module.named_parameters())
    return {named[name]: value for name, value in gradient.items()}


def accumulate(total: dict[nn.Parameter, Tensor], found: Mapping[nn.Parameter, Tensor]) -> None:
    """Add a gradient to another, which may be of other parameters."""
    for parameter, slope in found.items():
        total[parameter] = total[parameter] + slope if parameter in total else slope
