"""Compiled steps are the plain ones: the same numbers, and nothing is compiled twice."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.samplers.noise import normal, uniform
from energynet.terms import Leak
from helpers.compilations import Log, assert_same, both, logged
from helpers.families import FAMILIES
from helpers.functional import Functional

if TYPE_CHECKING:
    from collections.abc import Callable

F64, CPU = torch.float64, torch.device("cpu")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Log:
    return logged(monkeypatch)


class Tiny(en.Energy):
    """An energy as a user writes it: one method; h has a time constant, and y a box."""

    def __init__(self) -> None:
        super().__init__(x=en.Real(3), h=en.Real(4, tau=2.0), y=en.Unit(2))
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def energy(self, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        leak = 0.5 * h.square().sum(-1) + 0.5 * y.square().sum(-1)
        return leak - (h.tanh() * self.first(x)).sum(-1) - (y * self.second(h.tanh())).sum(-1)


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny().double()


def data(batch: int = 6, size: int = 3) -> Tensor:
    """Inputs of very different sizes, so that samples settle at different times."""
    generator = torch.Generator().manual_seed(batch)
    scale = torch.logspace(-2, 1, batch, dtype=F64).unsqueeze(1)
    return torch.randn(batch, size, dtype=F64, generator=generator) * scale


@pytest.mark.parametrize(
    "solver", [en.Euler(0.3), en.BlockDescent(), en.BlockDescent(momentum=True)], ids=repr
)
def test_one_block_serves_an_energy_that_a_user_wrote(compiled: Log, solver: en.Solver) -> None:
    """For every batch, also one that shrinks as samples settle."""
    model = tiny()
    found = both(model, clamp={"x": data()}, solver=solver)
    assert len(set(found.steps.tolist())) > 1
    for batch in (1, 11):
        both(model, clamp={"x": data(batch)}, solver=solver)
    assert len(compiled) == 1
    assert compiled.asked == [{"fullgraph": True}]


EVERY: dict[str, tuple[str, en.Solver]] = {
    "heun": ("sigmoid", en.Heun(0.1)),
    "adaptive": ("sigmoid", en.Adaptive()),
    "momentum": ("box", en.Momentum(0.1)),
    "fire": ("box", en.FIRE()),
    "anderson": ("springs", en.Anderson()),
    "l-bfgs": ("springs", en.LBFGS()),
    "newton": ("springs", en.NewtonKrylov()),
    "proximal": ("lasso", en.Proximal()),
    "admm": ("lasso", en.ADMM()),
    "block": ("partly clamped", en.BlockDescent()),
    "langevin": ("box", en.Langevin(0.1)),
    "mala": ("partly clamped", en.MALA(0.1)),
    "hmc": ("springs", en.HamiltonianMonteCarlo(0.2, 3)),
    "underdamped": ("box", en.Underdamped(0.1, 1.0)),
    "gibbs": ("restricted", en.Gibbs()),
    "annealed": ("springs", en.Annealed(en.Langevin(0.1), [2.0, 1.0, 0.5])),
    "tempering": ("springs", en.ParallelTempering(en.Langevin(0.1), [1.0, 2.0])),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_of_solver_can_be_compiled(compiled: Log, name: str) -> None:
    """The same path as without, through 12 steps: blocks, and plain steps that go on from there."""
    family, solver = EVERY[name]
    problem = FAMILIES[family]()
    start = {}
    if not problem.clamp:
        for key, variable in problem.energy.variables.items():
            start[key] = variable.initial(
                3, dtype=F64, device=CPU, generator=torch.Generator().manual_seed(1)
            )
    both(problem.energy, start, clamp=problem.clamp, solver=solver, max_steps=12)
    assert len(compiled) == 1


def test_with_the_compiler_of_machine_code() -> None:
    """The only test that pays for it; no setting of torch's is changed."""
    before = torch._dynamo.config.get_config_copy()  # type: ignore[attr-defined]
    # s + 0.1 (s H) in one sum with a factor, which the compiler has taken for s + s H
    energy = Functional(
        lambda e, s: 0.5 * ((s @ e.H) * s).sum(1),
        {"H": torch.tensor([[1.0, 0.2, 0.0], [0.2, 2.0, 0.3], [0.0, 0.3, 1.0]], dtype=F64)},
        s=en.Real(3),
    )
    found = both(energy, {"s": data()}, solver=en.Euler(0.1), until=en.Stationary(atol=0.01))
    assert len(set(found.steps.tolist())) > 1
    assert torch._dynamo.config.get_config_copy() == before  # type: ignore[attr-defined]
    assert not torch._dynamo.utils.counters["graph_break"]


def test_potentials_partial_clamps_and_trajectories(compiled: Log) -> None:
    model = en.models.LayeredHopfield([3, 4, 2], "sigmoid").double()
    target = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"solver": en.Euler(0.3), "record": "state", "record_every": 3}
    for column in (0, 1):  # which entries are held is a value
        mask = torch.arange(2) == column
        clamp = {"x": data(), "y": en.Partial(target, mask)}
        plain, found = (en.settle(model, clamp=clamp, **options, compile=one) for one in (False, True))
        assert_same(plain, found)
        assert torch.equal(found.state["y"][:, column], target[:, column])
        for name, values in plain.trajectory.items():
            torch.testing.assert_close(found.trajectory[name], values, rtol=1e-9, atol=1e-9)
    assert len(compiled) == 1


def test_values_change_without_compiling_again(compiled: Log) -> None:
    model = tiny()
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    ends = []
    for seed in range(4):
        x = data().roll(seed, 0) + seed
        state = {"h": torch.full((6, 4), float(seed), dtype=F64)}
        # a solver of equal settings is the same solver
        ends.append(both(model, state, clamp={"x": x}, solver=en.BlockDescent(momentum=True)).state["h"])
        model.zero_grad()
        model.energy(x=x, h=ends[-1], y=torch.ones(6, 2, dtype=F64)).mean().backward()
        optimiser.step()
        if seed == 2:
            model.load_state_dict(tiny(7).state_dict())
    assert all(not torch.allclose(one, other) for one, other in pairwise(ends))
    with torch.inference_mode():
        both(model, clamp={"x": data()}, solver=en.BlockDescent(momentum=True))
    assert len(compiled.asked) == 1
    assert len(compiled) <= 2  # torch's front end tells tensors of inference mode from others


def test_what_is_not_a_value_is_compiled_anew(compiled: Log) -> None:
    model, x = tiny(), data()
    for number, solver in enumerate((en.Euler(0.3), en.Euler(0.2), en.Heun(0.3)), 1):
        both(model, clamp={"x": x}, solver=solver, max_steps=10)
        assert len(compiled) == number
    y = torch.full((6, 2), 0.5, dtype=F64)
    both(model, clamp={"x": x, "y": y}, solver=en.Euler(0.3), max_steps=10)
    assert len(compiled) == 4
    mask = torch.tensor([True, False])
    both(model, clamp={"x": x, "y": en.Partial(y, mask)}, solver=en.Euler(0.3), max_steps=10)
    assert len(compiled) == 5
    with torch.autocast("cpu"):  # products are in another dtype there
        en.settle(tiny().float(), clamp={"x": x.float()}, solver=en.Euler(0.3), max_steps=5, compile=True)
    assert len(compiled) == 6


def test_other_shapes_are_right(compiled: Log) -> None:
    """E = |s|^2 / 2 - s.f is least at s = f."""
    for count, size in enumerate((3, 5), 1):
        energy = Leak(s=en.Real(size)) + Functional(
            lambda e, s, f: -(s * f).sum(1), s=en.Real(size), f=en.Real(size)
        )
        field = data(4, size)
        found = en.settle(energy, clamp={"f": field}, solver=en.Euler(0.5), compile=True)
        torch.testing.assert_close(found.state["s"], field, atol=1e-8, rtol=0)
        assert len(compiled) == count


def test_many_energies_share_no_limit(compiled: Log) -> None:
    """Torch stops compiling one function after 8 times; each block is a function of its own."""
    for _ in range(10):
        both(Leak(s=en.Real(2)), {"s": data(3, 2)}, solver=en.Euler(0.3), max_steps=1)
    assert len(compiled) == 10


def test_a_curvature_that_changes_its_sign_is_another_block(compiled: Log) -> None:
    """k s^2 / 2 - f s in [0, 1]: least at f / k clipped where k > 0, else at the end of lower energy."""
    energy = Functional(
        lambda e, f, s: (0.5 * e.k * s.square() - f * s).sum(1),
        {"k": torch.tensor([2.0, 4.0], dtype=F64)},
        f=en.Real(2),
        s=en.Unit(2),
    )
    f = torch.tensor([[1.0, 1.0], [-1.0, 0.4]], dtype=F64)
    for k, least in (
        ([2.0, 4.0], [[0.5, 0.25], [0.0, 0.1]]),
        ([-1.0, -2.0], [[1.0, 1.0], [0.0, 1.0]]),  # k / 2 - f is negative where 1 is lower than 0
        ([1.0, 8.0], [[1.0, 0.125], [0.0, 0.05]]),
    ):
        with torch.no_grad():
            energy.k.copy_(torch.tensor(k, dtype=F64))
        found = en.settle(energy, clamp={"f": f}, compile=True)
        torch.testing.assert_close(found.state["s"], torch.tensor(least, dtype=F64))
    assert len(compiled) == 2


class Walk(en.Sampler):
    """Noise of both kinds, a carry of counts, and a link whose slope comes from autograd."""

    def flow(self, *args: Any, **options: Any) -> Any:
        return en.LiftedFlow(*args, **options)

    def init(self, flow: Any, state: Any) -> Any:
        return {"kept": torch.zeros(flow.batch, dtype=torch.int64), "first": (state["s"],)}

    def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
        velocity, s = flow.velocity(state), state["s"]
        moved = s + 0.1 * velocity["s"] + (0.2 * temperature) ** 0.5 * normal(tuple(s.shape), s, generator)
        keep = uniform((s.shape[0],), s, generator) < 0.7
        new = {"s": torch.where(keep[:, None], moved, s)}
        return new, {"kept": carry["kept"] + keep, "first": carry["first"]}, flow.residual(state, velocity)

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        return {"kept": carry["kept"]}


class Sinh(en.Link):
    def value(self, potential: Tensor) -> Tensor:
        return potential.sinh()

    def potential(self, value: Tensor) -> Tensor:
        return value.asinh()

    def integral(self, value: Tensor) -> Tensor:
        return value * value.asinh() - (1 + value.square()).sqrt()


@pytest.mark.parametrize("own", [True, False], ids=["generator", "global"])
def test_one_seed_gives_the_same_noise(compiled: Log, own: bool) -> None:
    """33 steps: three blocks of ten, and three plain ones that go on with the same generator."""
    energy = Functional(lambda e, s: 0.5 * s.square().sum(1), s=en.Real(4, link=Sinh()))

    def run(batch: int, compile_: bool) -> tuple[en.Solution, Tensor]:
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6) if own else None
        start = {"s": torch.ones(batch, 4, dtype=F64)}
        options: dict[str, Any] = {"solver": Walk(0.5), "max_steps": 33, "generator": generator}
        return en.settle(energy, start, **options, compile=compile_), torch.rand(3, generator=generator)

    for batch in (6, 1, 3):
        (plain, after), (found, later) = run(batch, False), run(batch, True)
        assert_same(plain, found)
        assert 0 < int(found.statistics["kept"].sum()) < 33 * batch
        assert torch.equal(after, later)  # neither more numbers nor fewer have been drawn
    assert len(compiled) == 1


def test_the_rules_take_compiled_steps(compiled: Log) -> None:
    x = data().abs()
    target = torch.rand(6, 2, dtype=F64, generator=torch.Generator().manual_seed(1))

    def gradients(make: Callable[..., en.LearningRule], **inputs: Tensor) -> list[Tensor]:
        found = []
        for compile_ in (False, True):
            model = tiny()
            make(model, solver=en.Euler(0.3), compile=compile_)(**inputs).backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        return found

    def propagation(model: en.Energy, **options: Any) -> en.LearningRule:
        return en.EquilibriumPropagation(model, en.SquaredError("y"), 0.05, **options)

    plain, found = gradients(propagation, x=x, target=target)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)
    assert len(compiled) == 1  # for three phases
    plain, found = gradients(en.ContrastiveHebbian, x=x, y=target)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)
    assert len(compiled) == 3  # the clamped phase has other free variables


def test_a_copy_of_an_energy_can_be_made_after_compiling(compiled: Log) -> None:
    model = tiny()
    both(model, clamp={"x": data()}, solver=en.Euler(0.3), max_steps=5)
    both(copy.deepcopy(model), clamp={"x": data()}, solver=en.Euler(0.3), max_steps=5)
    assert len(compiled) == 2
