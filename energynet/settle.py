"""Settling: run a solver until each sample of the batch is stationary."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.compiled import CompiledSteps
from energynet.conditional import ConditionalFlow
from energynet.derivation import Derivation
from energynet.energy import Energy, ProximalTerm
from energynet.flow import EnergyFlow
from energynet.link import Link
from energynet.recording import Recorder, Recording
from energynet.running import Run
from energynet.samplers import Glauber
from energynet.solution import Solution, check_converged, check_finite
from energynet.solvers import LBFGS, BlockDescent, Proximal, Solver
from energynet.stopping import Never, Until
from energynet.variable import Discrete


def settle(
    energy: Energy,
    state: Mapping[str, Tensor] | None = None,
    *,
    clamp: Clamp | None = None,
    solver: Solver | None = None,
    max_steps: int = 1000,
    until: Until | None = None,
    record: Recorder | None = None,
    record_every: int = 1,
    generator: torch.Generator | None = None,
    throw: bool = False,
    compile: bool = False,  # noqa: A002 (torch's word)
) -> Solution:
    """Move the free variables until the energy is stationary, sample by sample.

    Parameters
    ----------
    energy
        What to settle.
    state
        Values to start from, for any of the free variables; the solution of another settling is a warm
        start. The others start at their domain's initial value.
    clamp
        Variables to hold: tensors, or `Partial` for a part of one. A clamp overrides ``state``.
    solver
        By default the one that `default_solver` chooses: `BlockDescent`, or `LBFGS` where units of one
        variable read each other; `Proximal` for terms with a kink; `Glauber` at T = 0 where a variable is
        discrete.
    max_steps
        The most steps that any sample takes.
    until
        When a sample has settled; by default what the solver says: `Stationary`, or `Never` for samplers,
        which run for ``max_steps``.
    record
        ``"energy"``, ``"residual"``, ``"state"``, a function of the state, or a dict of such functions by
        name, evaluated at the start and after every ``record_every`` steps. A settled sample stays as it is.
    record_every
        Steps between two records.
    generator
        The only source of randomness.
    throw
        Raise `SettlingError` if a sample diverges, comes into a cycle or runs out of steps.
    compile
        Run blocks of steps under `torch.compile`, each as one graph. Clamps, parameters and the size of the
        batch may change without compiling again, and settled samples are dropped as usual. Another solver or
        number of its, other free variables, shapes or dtypes are compiled anew, which takes 5 to 20 seconds,
        less where torch's cache has the code. Results are those without compiling up to rounding, also of
        noise. Where it cannot be done there is one `EagerFallback` warning for each energy. Off by default:
        it pays where a step is many small operators.

    Returns
    -------
    Solution
        The end state of each sample, with energy, residual, steps, status and trajectory.

    Raises
    ------
    StateError
        If a value does not fit its variable.
    SettlingError
        If the solver cannot move the variables, or with ``throw`` if a sample did not converge.
    """
    if not isinstance(energy, Energy):
        raise TypeError(
            f"settle: expected an energy first, got {type(energy).__name__}; what has none, such as "
            "SequenceMemory, has a method of its own, as recall()"
        )
    for what, values in (("state", state), ("clamp", clamp)):
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(
                f"settle: {what} must be a dict of tensors by the names of variables, such as "
                f"{{{next(iter(energy.variables))!r}: x}}, got {type(values).__name__}"
            )
    if solver is not None and not isinstance(solver, Solver):
        raise TypeError(f"settle: solver must be an instance such as MALA(dt=0.1), got {solver!r}")
    with torch.no_grad():
        flow = flow_of(energy, clamp, state, solver=solver, generator=generator)
        solver = default_solver(flow) if solver is None else solver
        until = solver.until() if until is None else until
        solution = relax(
            flow,
            solver=solver,
            max_steps=max_steps,
            until=until,
            record=record,
            record_every=record_every,
            generator=generator,
            compile=compile,
        )
        if throw:
            (check_finite if isinstance(until, Never) else check_converged)(solution)
        _ = solution.energy, solution.residual
    return solution


def flow_of(
    energy: Energy,
    clamp: Clamp | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    solver: Solver | None = None,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
) -> EnergyFlow:
    """The flow that a solver, or else the default one, advances; see `EnergyFlow`."""
    solver = _mover(energy, clamp or {}) if solver is None else solver
    return solver.flow(energy, clamp, state, generator=generator, differentiable=differentiable)


def _mover(energy: Energy, clamp: Clamp) -> Solver:
    """A solver whose flow is that of `default_solver`."""
    free = {n: v for n, v in energy.variables.items() if not isinstance(clamp.get(n), Tensor)}
    if any(isinstance(v, Discrete) for v in free.values()):
        return Glauber()
    links = {n: v.link for n, v in free.items() if v.link is not None}
    kinks = [p for _, p in energy.parts() if isinstance(p, ProximalTerm) and _by_map(p, links)]
    return Proximal() if any(not free.keys().isdisjoint(p.variables) for p in kinks) else BlockDescent()


def _by_map(term: ProximalTerm, links: Mapping[str, Link]) -> bool:
    """Whether a term is best moved by its proximal map: also where a link would do, if it is convex."""
    kink = Derivation.PROXIMAL
    return term.derivation(links) is kink or (term.convex and term.derivation({}) is kink)


def default_solver(flow: EnergyFlow) -> Solver:
    """The solver of a flow where the user names none, as `experiments/minimisers` found them quickest.

    `Glauber` where a variable is discrete, `Proximal` where a term has a kink, `BlockDescent` where no unit
    reads another of its own variable, else `LBFGS`.
    """
    if isinstance(flow, ConditionalFlow):
        return Glauber()
    if flow.proximal:
        return Proximal()
    return LBFGS() if any(block.coupled for block in flow.forces.blocks) else BlockDescent()


def relax(
    flow: EnergyFlow,
    *,
    solver: Solver | None = None,
    max_steps: int = 1000,
    until: Until | None = None,
    record: Recorder | None = None,
    record_every: int = 1,
    generator: torch.Generator | None = None,
    compile: bool = False,  # noqa: A002
) -> Solution:
    """Settle a flow from its start; `settle` says what the arguments are."""
    solver = default_solver(flow) if solver is None else solver
    until = solver.until() if until is None else until
    for name, number in (("max_steps", max_steps), ("record_every", record_every)):
        if not isinstance(number, int) or number < (name == "record_every"):
            raise ValueError(f"settle: {name} must be a whole number above 0, got {number!r}")
    run = Run(flow, solver, until)
    recording = Recording(record) if record is not None else None
    point, carry = flow.start, solver.init(flow, flow.start)
    if recording is not None:
        recording.add(run.current(point, carry))
    done, every = 0, run.every
    advance = solver.advance
    if compile:
        length = every if recording is None else math.gcd(every, record_every)
        advance = CompiledSteps(solver, min(length, max_steps)).advance
    while done < max_steps and run.active:
        steps = min(every - done % every, max_steps - done)
        if recording is not None:
            steps = min(steps, record_every - done % record_every)
        point, carry, residual = advance(run.flow, point, carry, generator, steps)
        done += steps
        if done % every == 0 or done == max_steps:
            point, carry = run.look(point, carry, residual, done)
        if recording is not None and done % record_every == 0:
            recording.add(run.current(point, carry))
    final, statistics = run.finish(point, carry, done)
    if not done:  # nothing has moved: the caller keeps tensors of its own
        final = {name: value.clone() for name, value in final.items()}
    values = {**flow.conditioned.clamp, **flow.values(final)}
    return Solution(
        state={name: values[name] for name in flow.conditioned.base.variables},
        steps=run.steps,
        status=run.status,
        trajectory=None if recording is None else recording.stacked(),
        flow=flow,
        point=final,
        statistics=statistics,
    )
