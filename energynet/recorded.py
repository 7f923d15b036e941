"""Some steps of a solver as a graph of tensor operators, whose inputs are all that may change between calls.

The classes, dicts and kernels that the steps are written with are gone from the graph. Its inputs are the
point, the carry, what the kernels read (computed from clamps and parameters), the masks of clamps, and noise.
So it stays right while values change. The size of the batch is a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.graph import CodeGen
from torch.utils._python_dispatch import TorchDispatchMode

from energynet.errors import CompileError, SettlingError, StateError
from energynet.flow import EnergyFlow
from energynet.forces import EagerForces, TracedForces
from energynet.lifting import (
    Input,
    Noise,
    constants_as_inputs,
    drop_unused,
    factors_as_operators,
    noise_as_inputs,
    of_flow,
    of_node,
    refuse_chance,
    tensors_of,
)
from energynet.samplers.noise import Tape
from energynet.solvers import Solver
from energynet.solvers.carry import batched, flatten, rebuild
from energynet.state import State
from energynet.trace import Dim

_BATCH = 7  # while recording; the graph is not used for batches to which the guards of this one do not extend

# operators: a block of more is a single step, which saves as much; a step of more is not compiled
_LONG, _LONGEST = 500, 3000
SMALLEST = 2  # torch takes a size of 1 for a number that does not change


@dataclass(frozen=True, eq=False)
class Recorded:
    """The graph of some steps.

    Attributes
    ----------
    graph
        From the leaves of point and carry, then the tensors of ``inputs``, then ``noise``, to the leaves of
        point, carry and residual.
    inputs
        What is read from the flow.
    noise
        What is drawn before the steps, in the order in which the steps would draw it.
    returned
        The structure of what comes out.
    convexity
        Signs of curvatures that the steps have asked for, as `TracedForces.convexity`.
    batch
        The symbol of the batch and what must hold of it; or the only size that the graph is right for.
    steps
        How many.
    """

    graph: torch.fx.GraphModule
    inputs: list[Input]
    noise: list[Noise]
    returned: Any
    convexity: dict[int, tuple[bool, ...]]
    batch: tuple[Any, tuple[Any, ...]] | int
    steps: int
    _sizes: dict[int, bool] = field(default_factory=dict)
    _shapes: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)

    def fits(self, flow: EnergyFlow) -> bool:
        """Whether the graph is right for a flow of the same kind."""
        forces = flow.forces
        assert isinstance(forces, TracedForces)
        if not self.fits_batch(flow.batch):
            return False
        for number in self.convexity:
            forces.exact(number)
        return all(forces.convexity[number] == signs for number, signs in self.convexity.items())

    def fits_batch(self, size: int) -> bool:
        """Whether the graph is right for a batch of this size; a smaller one than `SMALLEST` is filled up."""
        if isinstance(self.batch, int):
            return size == self.batch
        if size not in self._sizes:
            symbol, guards = self.batch
            filled = max(size, SMALLEST)
            self._sizes[size] = all(guard.subs(symbol, filled) == True for guard in guards)  # noqa: E712
        return self._sizes[size]

    def growing(self) -> list[tuple[int, ...]]:
        """The dimensions of each input of the graph that grow with the batch; none for a fixed batch."""
        if isinstance(self.batch, int):
            return []
        nodes = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        leaves = batched(self.returned)[: len(nodes) - len(self.inputs) - len(self.noise)]
        noise = [tuple(i for i, n in enumerate(one.shape) if not isinstance(n, int)) for one in self.noise]
        return [*leaves, *(one.batched for one in self.inputs), *noise]

    def draw(self, size: int, generator: torch.Generator | None) -> list[Tensor]:
        """The noise of one call."""
        if size not in self._shapes:
            symbol = None if isinstance(self.batch, int) else self.batch[0]
            self._shapes[size] = [
                tuple(n if isinstance(n, int) else int(n.subs(symbol, size)) for n in noise.shape)
                for noise in self.noise
            ]
        shapes = self._shapes[size]
        return [noise.draw(shape, generator) for noise, shape in zip(self.noise, shapes, strict=True)]


def record(flow: EnergyFlow, solver: Solver, point: State, carry: Any, steps: int) -> Recorded:
    """The graph of ``steps`` steps of a solver, or of one step where that is long enough.

    Raises
    ------
    CompileError
        If the steps look at values, draw random numbers of their own, or return other tensors than they
        take; or if one step would take minutes to compile.
    """
    try:
        return _record(flow, solver, point, carry, steps)
    except (CompileError, SettlingError, StateError):
        raise
    except Exception as error:  # whatever a solver does that a recording cannot
        raise CompileError(f"{type(error).__name__}: {error}") from error


def _record(flow: EnergyFlow, solver: Solver, point: State, carry: Any, steps: int) -> Recorded:
    recorder = _Recorder(flow, solver, point, carry, steps)
    if recorder.operators > _LONG and steps > 1:
        recorder = _Recorder(flow, solver, point, carry, 1)
    if recorder.operators > _LONGEST:
        raise CompileError(
            f"a step of {type(solver).__name__} takes {recorder.operators} operators, and compiling more "
            f"than {_LONGEST} takes minutes"
        )
    found = recorder.run(_BATCH)
    if found is not None and found.fits_batch(flow.batch):
        return found
    found = recorder.run(flow.batch, static=True)
    assert found is not None
    return found


class _Recorder:
    """Runs the steps twice: on values, to learn what is read from the flow; then on symbols."""

    def __init__(self, flow: EnergyFlow, solver: Solver, point: State, carry: Any, steps: int) -> None:
        forces = flow.forces
        assert isinstance(forces, TracedForces)
        self.flow, self.forces, self.solver, self.steps = flow, forces, solver, steps
        self.leaves, self.structure = flatten((point, carry))
        self.dims = batched(self.structure)
        for leaf, dims in zip(self.leaves, self.dims, strict=True):
            if dims and (not leaf.ndim or len(leaf) != flow.batch):
                raise CompileError(
                    f"{type(solver).__name__} carries a tensor of shape {tuple(leaf.shape)} without the "
                    f"batch of {flow.batch} in front"
                )
        environment = forces.environment.noting()
        trial = forces.within(environment, {}, _no_eager)
        here = [leaf.device for leaf in self.leaves[:1] if leaf.device.type != "cpu"]
        with torch.random.fork_rng(here, device_type=self.leaves[0].device.type), _Count() as count:
            self._advance(flow.over(trial, flow.batch, lambda value: value), self.leaves, Tape())
        self.operators = count.calls
        self.convexity = trial.convexity
        self.nodes = list(environment.noted)
        self.inputs = [Input(of_flow(i), (0,)) for i in range(len(tensors_of(flow)))]
        for node in self.nodes:
            assert node.shape is not None
            self.inputs.append(
                Input(of_node(node), tuple(i for i, n in enumerate(node.shape) if n is Dim.BATCH))
            )
        self.fixed = any(node.shape and Dim.EXPRESSION in node.shape for node in self.nodes)

    def _advance(self, flow: EnergyFlow, leaves: Sequence[Tensor], tape: Tape) -> Any:
        point, carry = rebuild(self.structure, iter(leaves))
        # a tape stands for the generator, which only `samplers.noise` can tell from it
        return self.solver.advance(flow, point, carry, tape, self.steps)  # type: ignore[arg-type]

    def run(self, batch: int, *, static: bool = False) -> Recorded | None:
        """The graph for a batch of any size, or of this one; None if the steps depend on the size."""
        if self.fixed and not static:
            return None
        shapes = ShapeEnv()
        mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
        known = [(one.source(self.flow), one.batched) for one in self.inputs]
        specimens = [*zip(self.leaves, self.dims, strict=True), *known]
        fakes = [_fake(mode, value, batched, batch, static=static) for value, batched in specimens]
        count, own = len(self.leaves), len(self.inputs) - len(self.nodes)
        tape = Tape()
        returned: list[Any] = []

        def block(*tensors: Tensor) -> list[Tensor]:
            size = tensors[0].shape[0]
            values = iter(tensors[count : count + own])
            environment = self.forces.environment.replaced(
                dict(zip(self.nodes, tensors[count + own :], strict=True)), size
            )
            flow = self.flow.over(
                self.forces.within(environment, self.convexity, _no_eager), size, lambda _: next(values)
            )
            out, structure = flatten(self._advance(flow, tensors[:count], tape))
            returned[:] = [structure]
            self._compare(out, tensors[:count], structure)
            return [*out, *(numbers for _, numbers in tape.drawn)]

        with mode, torch.inference_mode(False), torch.no_grad():
            module = make_fx(block, tracing_mode="symbolic")(*fakes)
        if shapes.replacements and not static:
            return None
        symbol = None if static else fakes[0].shape[0].node.expr  # type: ignore[union-attr]
        graph = module.graph
        noise = noise_as_inputs(graph, [kind for kind, _ in tape.drawn])
        refuse_chance(graph)
        factors_as_operators(graph)
        extra = constants_as_inputs(module, count + len(self.inputs), self.flow, self.solver)
        kept = drop_unused(graph, count, len(self.inputs) + len(extra))
        graph.set_codegen(CodeGen())
        graph.lint()
        inputs = [*self.inputs, *extra]
        return Recorded(
            torch.fx.GraphModule(module, graph),
            [inputs[i] for i in kept],
            noise,
            returned[0],
            self.convexity,
            batch if static else (symbol, tuple(guard.expr for guard in shapes.guards)),
            self.steps,
        )

    def _compare(self, out: Sequence[Tensor], given: Sequence[Tensor], structure: Any) -> None:
        same = structure[1][:2] == self.structure[1]
        for new, old in zip(out, given, strict=False):
            same = same and (new.dtype, new.shape) == (old.dtype, old.shape)
        if not same:
            raise CompileError(f"{type(self.solver).__name__} returns another carry than it takes")


class _Count(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _no_eager() -> EagerForces:
    raise CompileError("the steps take a second derivative that cannot be traced")


def _fake(
    mode: FakeTensorMode, like: Tensor, batched: tuple[int, ...], batch: int, *, static: bool
) -> Tensor:
    """A tensor without data that looks like another, but for the size of the batch."""
    with torch.inference_mode(False):
        if batched:  # such inputs are made contiguous before a call
            size = [batch if i in batched else n for i, n in enumerate(like.shape)]
            specimen = torch.empty(size, dtype=like.dtype, device=like.device)
        else:
            specimen = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        dims = [
            DimDynamic.DUCK if i in batched and not static else DimDynamic.STATIC for i in range(like.ndim)
        ]
        return mode.from_tensor(specimen, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dims))
