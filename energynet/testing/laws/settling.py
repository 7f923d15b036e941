"""Laws of settling: it goes downhill, and ends where the force vanishes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.settle import settle
from energynet.solvers import Euler, Proximal, Solver
from energynet.state import State
from energynet.stopping import Never, Stationary, Status
from energynet.testing.laws.law import law
from energynet.testing.oracle import slope, tolerance, values_of
from energynet.testing.report import Violation
from energynet.testing.subject import Subject
from energynet.variable import Continuous

_STEPS = 6
_ATOL = 1e-9


@law(slow=True, examples=6)
def settling_descends(subject: Subject, data: st.DataObject) -> None:
    """Small steps, by Euler or where a term has a kink by its proximal map, never raise the energy."""
    subject.require_shapes()
    subject.require_moving()
    start, clamp = subject.problem(data)
    solver, flow = subject.settler(start, clamp)
    kink = isinstance(solver, Proximal)
    dt = 0.2 / _rate(flow)
    rise: tuple[Tensor, float] | None = None
    for _ in range(4):  # the curvature may grow along the way, so that a smaller step is needed
        rise = _rise(subject, start, clamp, Proximal(accelerate=False, dt=dt) if kink else Euler(dt=dt))
        if rise is None:
            subject.compared += 1
            return
        dt = dt / 8
    assert rise is not None
    _raise_rise(rise, f"energy along {'Proximal' if kink else 'Euler'}(dt={dt * 8:.2g})")


@law(slow=True, examples=6)
def exact_blocks_descend(subject: Subject, data: st.DataObject) -> None:
    """A sweep of block descent never raises the energy where each block is minimised exactly."""
    subject.require_shapes()
    subject.require_moving()
    start, clamp = subject.problem(data)
    solver, flow = subject.settler(start, clamp)
    kink = isinstance(solver, Proximal)
    if kink or any(block.separable or block.coupled for block in flow.forces.blocks):
        return
    try:
        rise = _rise(subject, start, clamp, solver)
    except SettlingError:  # no minimum in a variable, for instance one without a leak
        return
    if rise is not None:
        _raise_rise(rise, "energy along BlockDescent()")
    subject.compared += 1


@law(slow=True, examples=6)
def fixed_point_is_stationary(subject: Subject, data: st.DataObject) -> None:
    """Where settling says that it has converged, plain autograd finds no force: zero is a subgradient."""
    subject.require_shapes()
    subject.require_moving()
    start, clamp = subject.problem(data)
    atol = _ATOL if subject.dtype == torch.float64 else 1e-5
    solver, _ = subject.settler(start, clamp)
    until = Stationary(atol=atol)
    try:
        solution = settle(subject.model, start, clamp=clamp, solver=solver, max_steps=1000, until=until)
    except SettlingError:
        return
    converged = solution.status == Status.CONVERGED
    if not bool(converged.any()):
        return
    for name, force in _projected(subject.model, solution.state, list(start), subject.dtype).items():
        size = force.masked_fill(~converged.view(-1, *[1] * (force.ndim - 1)), 0.0)
        # a sweep looks at each block before the next moves: what is left is the residual times the coupling
        limit = 1e3 * atol
        if not float(size.max()) <= limit:
            raise Violation(
                f"force on {name!r} at a fixed point",
                expected=0.0,
                got=float(size.max()),
                tolerance=limit,
                hint="settling follows another force than the gradient of the energy",
            )
    subject.compared += 1


def _rate(flow: EnergyFlow) -> float:
    """An estimate of the fastest rate of the flow: power iteration on differences of its velocity."""
    generator = torch.Generator().manual_seed(0)
    point, fastest = flow.start, 1e-3
    width = torch.finfo(next(iter(point.values())).dtype).eps ** 0.5
    direction = {
        name: torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v)
        for name, v in point.items()
    }
    with torch.no_grad():
        here = flow.velocity(point)
        for _ in range(8):
            size = float(sum(d.square().sum() for d in direction.values())) ** 0.5
            if not 0 < size < torch.inf:
                break
            step = {name: d * (width / size) for name, d in direction.items()}
            there = flow.velocity({name: point[name] + step[name] for name in point})
            direction = {name: (there[name] - here[name]) / width for name in point}
            fastest = max(fastest, float(sum(d.square().sum() for d in direction.values())) ** 0.5)
    return fastest


def _rise(subject: Subject, start: State, clamp: State, solver: Solver) -> tuple[Tensor, float] | None:
    """The energies around the worst rise of a few steps, and what was allowed; None if there was none."""
    solution = settle(
        subject.model,
        start,
        clamp=clamp,
        solver=solver,
        max_steps=_STEPS,
        until=Never(),
        record="state",
    )
    count = len(next(iter(solution.trajectory.values())))
    path = torch.stack(
        [values_of(subject.model, {n: v[i] for n, v in solution.trajectory.items()}) for i in range(count)]
    )
    finite = path[path.isfinite()]
    if finite.numel() == 0:
        return None
    limit = tolerance(subject.dtype, float(finite.abs().max())) * 1e-3
    steps = (path[1:] - path[:-1]).nan_to_num(nan=torch.inf)
    if not bool((steps > limit).any()):
        return None
    time, sample = (int(i) for i in torch.unravel_index(steps.argmax(), steps.shape))
    return path[time : time + 2, sample], limit


def _raise_rise(rise: tuple[Tensor, float], where: str) -> None:
    (before, after), limit = rise
    raise Violation(
        where,
        expected=f"at most {float(before):.12g}, the energy a step before",
        got=float(after),
        tolerance=limit,
        hint="the force is not minus the gradient of this energy, or the energy mixes samples",
    )


def _projected(energy: Energy, state: State, names: list[str], dtype: torch.dtype) -> State:
    """The size of the force that is left, less what pushes against the end of a domain, by autograd."""
    found: State = {}
    for name in names:
        variable, value = energy.variables[name], state[name]
        assert isinstance(variable, Continuous)
        link = variable.link
        if link is None or link.high == torch.inf:
            low, high = variable.low if link is None else max(variable.low, link.low), variable.high
            force = _least_force(energy, state, name, low, high, dtype)
            found[name] = ((value + force).clamp(low, high) - value).abs()
            continue
        gradient = slope(energy, state, [name])[name]
        leaf = link.potential(value).detach().requires_grad_()
        with torch.enable_grad():
            (gain,) = torch.autograd.grad(link.value(leaf).sum(), leaf)
        # the inverse of a link magnifies the rounding of a value by 1 / gain
        rounding = 64 * torch.finfo(dtype).eps / gain.clamp(min=torch.finfo(dtype).tiny)
        found[name] = (gradient.abs() - rounding).clamp(min=0.0).nan_to_num(nan=torch.inf)
    return found


def _least_force(
    energy: Energy, state: State, name: str, low: float, high: float, dtype: torch.dtype
) -> Tensor:
    """The least force, in magnitude, between those just below and just above a value.

    It is zero where both point back to the value, as they do at the minimum of an energy with a kink.
    """
    value = state[name]
    beside = 64 * torch.finfo(dtype).eps * value.abs().clamp(min=1.0)
    below, above = (
        -slope(energy, {**state, name: (value + side).clamp(low, high)}, [name])[name]
        for side in (-beside, beside)
    )
    between = (below >= 0) & (above <= 0)
    nearer = torch.where(below.abs() <= above.abs(), below, above)
    return nearer.masked_fill(between, 0.0).nan_to_num(nan=torch.inf)
