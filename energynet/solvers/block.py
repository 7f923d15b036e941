"""Block coordinate descent: Gauss-Seidel over blocks of variables that do not read each other."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from energynet.dynamics import Block, Curvature
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow, Flow
from energynet.solvers.base import Solver, column, energy_flow, positive
from energynet.state import State
from energynet.variable import rows


@final
class BlockDescent(Solver):
    """Moves one block after the other to the minimum of the energy given the rest.

    The blocks are found from the trace of the energy: in a layered network the even and the odd layers. Where
    the energy of each unit given the rest is quadratic the minimum is exact and takes one evaluation, clipped
    to the domain. Where it is another function of the unit alone, one Newton step is made with the magnitude
    of the curvature, damped for samples whose steps turn back. Variables whose units read each other take
    a damped gradient step.

    Parameters
    ----------
    momentum
        Extrapolate between sweeps by Nesterov's sequence, restarted for each sample when it points uphill
        (O'Donoghue and Candes 2015, eq. 12). About half the sweeps on deep layered networks. It may lead to
        another minimum than plain sweeps, which is why it is off by default.
    dt
        Step for variables whose units read each other, in units of the time constants.
    """

    def __init__(self, momentum: bool = False, dt: float = 0.2) -> None:
        positive(self, dt=dt)
        self.momentum = momentum
        self.dt = dt

    def init(self, flow: Flow, state: State) -> Any:
        flow = energy_flow(self, flow)
        batch = next(iter(state.values()))
        zero = batch.new_zeros(len(batch))
        carry: dict[str, Any] = {}
        if any(block.separable or block.coupled for block in flow.forces.blocks):
            carry["damping"] = zero + 1
            carry["change"] = {n: torch.zeros_like(state[n]) for b in flow.forces.blocks for n in _damped(b)}
        if self.momentum:
            carry["age"] = zero
            carry["previous"] = {name: state[name] for name in _extrapolated(flow)}
        return carry

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        return self._step(flow, state, carry, look=True)

    def advance(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        for _ in range(steps - 1):
            state, carry, _ = self._step(flow, state, carry, look=False)
        return self._step(flow, state, carry, look=True)

    def _step(self, flow: Flow, state: State, carry: Any, *, look: bool) -> tuple[State, Any, Tensor]:
        assert isinstance(flow, EnergyFlow)
        damping = carry.get("damping")
        ahead = flow.project(_extrapolate(state, carry)) if self.momentum else state
        moved, residual = self._sweep(flow, ahead, damping, look)
        new = dict(carry)
        if damping is not None:  # too large a step turns the next one back
            change = {name: moved[name] - ahead[name] for name in carry["change"]}
            along = sum(rows(change[n] * carry["change"][n]).sum(1) for n in change)
            assert isinstance(along, Tensor)
            new["damping"] = torch.where(along < 0, damping * 0.5, damping * 1.2).clamp(2.0**-10, 1.0)
            new["change"] = change
        if self.momentum:
            uphill = sum(
                rows((ahead[n] - moved[n]) * (moved[n] - state[n])).sum(1) for n in carry["previous"]
            )
            if isinstance(uphill, Tensor):
                new["age"] = torch.where(uphill > 0, 0.0, carry["age"] + 1)
            new["previous"] = {name: state[name] for name in carry["previous"]}
        return moved, new, residual

    def _sweep(
        self, flow: EnergyFlow, state: State, damping: Tensor | None, look: bool
    ) -> tuple[State, Tensor]:
        state = dict(state)
        largest: list[Tensor] = []
        for number, block in enumerate(flow.forces.blocks):
            results = flow.forces.block(number, state)
            slopes = flow.forces.separable(number, state) if block.separable else ()
            rates = flow.forces.exact(number)
            for position, name in enumerate(block.names):
                old, result, push = state[name], results[position], None
                if position < len(rates):
                    new = _minimum(flow, name, old, result, rates[position])
                else:
                    assert damping is not None
                    push = _push(flow, name, old, result)
                    pace: Tensor | float = self.dt / flow.variables[name].tau
                    if position - len(rates) < len(slopes):
                        # at most a step of length |force|: where the curvature vanishes Newton's is unbounded
                        pace = 1 / slopes[position - len(rates)].abs().clamp(min=1.0)
                    new = old + result * pace * column(damping, old)
                    new = new if name in flow.links else flow.variables[name].project(new)
                if name in flow.held:
                    new = torch.where(flow.held[name], old, new)
                if look:
                    if push is None:
                        rate = rates[position].value
                        push = new - old if isinstance(rate, float) and rate == 1 else (new - old) * rate
                    most, tau = rows(push.abs()).amax(1), flow.variables[name].tau
                    largest.append(most if tau == 1 else most / tau)
                state[name] = new
        if len(largest) == 1:
            return state, largest[0]
        return state, torch.stack(largest).amax(0) if largest else torch.empty(0)


def _damped(block: Block) -> tuple[str, ...]:
    return block.separable + block.coupled


def _push(flow: EnergyFlow, name: str, old: Tensor, force: Tensor) -> Tensor:
    """The force, less what pushes against the end of a domain or on held units."""
    if name in flow.held:
        force = force.masked_fill(flow.held[name], 0.0)
    if name in flow.links or not flow.variables[name].bounded:
        return force
    return flow.variables[name].project(old + force) - old


def _minimum(flow: EnergyFlow, name: str, old: Tensor, field: Tensor, curvature: Curvature) -> Tensor:
    """The minimiser of curvature s^2 / 2 - field s over the domain."""
    variable, rate = flow.variables[name], curvature.value
    linked = name in flow.links
    if curvature.convex:
        value = field if isinstance(rate, float) and rate == 1 else field / rate
        return value if linked else variable.project(value)
    low, high = variable.low, variable.high
    if linked or not (math.isfinite(low) and math.isfinite(high)):
        raise SettlingError(
            f"variable {name!r}: the energy has no minimum in it given the others (its curvature is not "
            "positive); add a Leak, bound its domain, or use a smaller nudge"
        )
    rate = torch.as_tensor(rate, dtype=field.dtype, device=field.device)
    gain = field * (high - low) - 0.5 * rate * (high**2 - low**2)
    end = torch.where(gain > 0, high, torch.where(gain < 0, low, old)).to(old.dtype)
    inner = variable.project(field / torch.where(rate > 0, rate, 1.0))
    return torch.where(rate > 0, inner, end)


def _extrapolated(flow: EnergyFlow) -> list[str]:
    """All variables but the exact ones of the first block, which no one reads before they are replaced."""
    return [name for name in flow.names if name not in flow.forces.blocks[0].exact]


def _extrapolate(state: State, carry: Any) -> State:
    age = carry["age"]
    factor = age / (age + 3)
    ahead = dict(state)
    for name, previous in carry["previous"].items():
        ahead[name] = torch.addcmul(state[name], column(factor, previous), state[name] - previous)
    return ahead
