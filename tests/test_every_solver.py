"""Every solver on every family of energies in both precisions: it works, or says why it cannot."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.settle import flow_of
from helpers.families import FAMILIES, SPARSITY, Problem
from helpers.functional import autograd_force
from helpers.host import no_question
from helpers.solvers import CONTINUOUS, DISCRETE, EVERY, MINIMISERS, PROXIMAL

ATOL = {torch.float32: 2e-5, torch.float64: 1e-9}


@functools.cache  # a trace serves every solver
def problem_of(family: str, dtype: torch.dtype = torch.float64) -> Problem:
    return FAMILIES[family]().to(dtype)


def refusal(solver: str, problem: Problem) -> str | None:
    """What the error of a pair that makes no sense has to say."""
    if solver in DISCRETE:
        if solver == "Gibbs random" and problem.leaky:
            return r"scan='random'.*systematic"
        cold = solver in ("Glauber, cold", "Synchronous")
        if not (problem.discrete or problem.normal or (problem.leaky and cold)):
            return r"(quadratic in .*|without a link; .* is )(Real|NonNegative|Unit|Interval)\(.*Langevin"
        pairs = all(isinstance(v, (en.Bit, en.Spin)) for v in problem.energy.variables.values())
        return None if pairs or solver != "Gibbs random" else r"scan='random'.*systematic"
    if problem.discrete:
        return r"(Bit|Spin|OneHot)\(.*(Gibbs|Glauber)"
    if solver in CONTINUOUS:
        return None if problem.density else r"SoftThreshold\(0.2.*density"
    if problem.kink and solver in MINIMISERS:
        return r"Sparsity.*kink.*Proximal.*SoftThreshold"
    if solver in PROXIMAL and any(
        isinstance(p, en.terms.Leak) and p.link is not None for _, p in problem.energy.parts()
    ):
        return r"Leak.*integral of (Sigmoid|Tanh).*mirror flow"
    if solver in ("ADMM", "CoordinateDescent") and not problem.quadratic:
        return f"{solver}.*(quadratic|convex|curvature).*Proximal"
    return None


def stationarity(problem: Problem, state: dict[str, Tensor]) -> Tensor:
    """The largest force that is left within the domain, by autograd alone; for the lasso its conditions."""
    free = [n for n in problem.energy.variables if not isinstance(problem.clamp.get(n), Tensor)]
    force = autograd_force(problem.energy, state, free)
    left = []
    for name in free:
        variable, value, push = problem.energy.variables[name], state[name], force[name]
        if any(isinstance(p, en.terms.Sparsity) and p.variable == name for _, p in problem.energy.parts()):
            smooth = push + SPARSITY * value.sign()
            step = value + smooth
            low = 0.0 if variable.low == 0 else -torch.inf
            push = (step.sign() * (step.abs() - SPARSITY).clamp(min=0)).clamp(min=low) - value
        elif isinstance(variable, en.variable.Continuous) and variable.link is None:
            push = (value + push).clamp(variable.low, variable.high) - value
        held = problem.clamp.get(name)
        if isinstance(held, en.Partial):
            push = push.masked_fill(held.full_mask, 0.0)
        left.append(push.abs().flatten(1).amax(1))
    return torch.stack(left).amax(0)


def settle(problem: Problem, solver: en.Solver, dtype: torch.dtype, steps: int) -> en.Solution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", en.EagerFallback)
        return en.settle(
            problem.energy,
            _start(problem, dtype),
            clamp=problem.clamp,
            solver=solver,
            max_steps=steps,
            until=en.Stationary(atol=ATOL[dtype] / 10) if minimises(solver) else None,
            generator=torch.Generator().manual_seed(0),
        )


def minimises(solver: en.Solver) -> bool:
    return isinstance(solver.until(), en.Stationary) and not isinstance(solver, en.Sampler)


def _start(problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """Generic values for what is free where nothing is clamped, and so nothing tells the batch."""
    if problem.clamp:
        return {}
    generator = torch.Generator().manual_seed(5)
    start = {}
    for name, variable in problem.energy.variables.items():
        noise = torch.randn(3, *variable.shape, generator=generator, dtype=torch.float64).to(dtype)
        start[name] = variable.project(noise)
    return start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EVERY)
def test_a_solver_works_or_says_why_not(name: str, family: str, dtype: torch.dtype) -> None:
    problem, solver = problem_of(family, dtype), EVERY[name]()
    why = refusal(name, problem)
    if why is not None:
        with pytest.raises(en.SettlingError, match=why):
            settle(problem, solver, dtype, 3)
        return
    if name in CONTINUOUS or name in DISCRETE:
        solution = settle(problem, solver, dtype, 30)
        problem.energy.check(solution.state)  # finite, and within the domains
        assert {v.dtype for v in solution.state.values()} == {dtype}
        return
    solution = settle(problem, solver, dtype, 6000)
    assert (solution.status == en.Status.CONVERGED).all(), solution.residual
    problem.energy.check(solution.state)
    assert {v.dtype for v in solution.state.values()} == {dtype}
    assert float(stationarity(problem, solution.state).max()) <= ATOL[dtype]
    if not problem.convex:  # a stationary point may be a saddle, but never above the start
        start = flow_of(problem.energy, problem.clamp, _start(problem, dtype)).start
        assert (solution.energy <= problem.energy.energy(**start).detach() + 1e-6).all()


def test_questions_to_a_tensor_are_heard() -> None:
    value = torch.ones(3)
    for question in (
        value[0].item,
        lambda: float(value.sum()),
        lambda: bool((value > 0).all()),
        lambda: value[value > 0],
        lambda: torch.equal(value, value),
        value.nonzero,
    ):
        with pytest.raises(AssertionError, match="waits for the device"), no_question():
            question()


def runs(family: str, name: str) -> bool:
    return refusal(name, problem_of(family)) is None


PAIRS = [(f, n) for f in FAMILIES if f != "untraceable" for n in EVERY if runs(f, n)]


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_no_step_asks_a_tensor_for_a_number(family: str, name: str) -> None:
    problem, solver = problem_of(family), EVERY[name]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        flow = solver.flow(problem.energy, problem.clamp, _start(problem, torch.float64), generator=generator)
        point, carry = flow.start, solver.init(flow, flow.start)
        point, carry, _ = solver.advance(flow, point, carry, generator, 2)  # may look at what it then keeps
        with no_question():
            solver.advance(flow, point, carry, generator, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_no_step_waits_for_a_gpu(family: str, name: str) -> None:
    problem, solver = FAMILIES[family](), EVERY[name]()
    generator = torch.Generator("cuda").manual_seed(0)
    energy = problem.energy.cuda()
    clamp = {
        n: en.Partial(v.value.cuda(), v.mask.cuda()) if isinstance(v, en.Partial) else v.cuda()
        for n, v in problem.clamp.items()
    }
    start = {n: v.cuda() for n, v in _start(problem, torch.float64).items()}
    with torch.no_grad():
        flow = solver.flow(energy, clamp, start, generator=generator)
        point, carry = flow.start, solver.init(flow, flow.start)
        point, carry, _ = solver.advance(flow, point, carry, generator, 2)
        torch.cuda.set_sync_debug_mode("error")
        try:
            solver.advance(flow, point, carry, generator, 12)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_every_public_solver_is_tried() -> None:
    """A solver that is added is added to the table too."""
    tried = {type(make()) for make in EVERY.values()}
    public = {
        getattr(en, name)
        for name in en.__all__
        if isinstance(getattr(en, name), type) and issubclass(getattr(en, name), en.Solver)
    }
    assert public - {en.Solver, en.Sampler} == tried


@pytest.mark.parametrize("name", EVERY)
def test_the_default_dtype_of_torch_has_no_say(name: str) -> None:
    family = next(f for f in FAMILIES if refusal(name, problem_of(f, torch.float32)) is None)
    problem = problem_of(family, torch.float32)
    expected = settle(problem, EVERY[name](), torch.float32, 12).state
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = settle(problem, EVERY[name](), torch.float32, 12).state
    finally:
        torch.set_default_dtype(before)
    for key, value in expected.items():
        assert torch.equal(found[key], value)
        assert found[key].dtype == value.dtype
