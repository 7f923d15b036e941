"""Some steps of a solver as a graph of tensor operators, whose inputs are all that may change between calls.

The classes, dicts and kernels that the steps are written with are gone from the graph. Its inputs are the
point, the carry, what the kernels read (computed from clamps and parameters), the masks of clamps, and noise.
So it stays right while values change. The size of the batch is a symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.graph import CodeGen

from energynet.errors import CompileError, SettlingError, StateError
from energynet.flow import EnergyFlow
from energynet.forces import EagerForces, TracedForces
from energynet.programs import tensors_beside, tensors_in
from energynet.samplers.noise import Draw, Tape
from energynet.solvers import Solver
from energynet.solvers.carry import batched, flatten, rebuild
from energynet.state import State
from energynet.trace import Dim, parameters_of

_BATCH = 7  # while recording; the graph is not used for batches to which the guards of this one do not extend

# operators that make a tensor of a literal
_LIFTS = {
    torch.ops.aten.lift_fresh_copy.default,
    torch.ops.aten.lift_fresh.default,
    torch.ops.aten.lift.default,
}
SMALLEST = 2  # torch takes a size of 1 for a number that does not change

Source = Callable[[EnergyFlow], Tensor]


@dataclass(frozen=True)
class Input:
    """A tensor that the graph reads, and which of its dimensions are the batch."""

    source: Source
    batched: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Noise:
    """Random numbers that the graph reads; a size is a number or an expression of the batch."""

    draw: Draw
    shape: tuple[Any, ...]


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
    """

    graph: torch.fx.GraphModule
    inputs: list[Input]
    noise: list[Noise]
    returned: Any
    convexity: dict[int, tuple[bool, ...]]
    batch: tuple[Any, tuple[Any, ...]] | int
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
    """The graph of ``steps`` steps of a solver.

    Raises
    ------
    CompileError
        If the steps look at values, draw random numbers of their own, or return other tensors than they take.
    """
    recorder = _Recorder(flow, solver, point, carry, steps)
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
        self._advance(flow.over(trial, flow.batch, lambda value: value), self.leaves, Tape())
        self.convexity = trial.convexity
        self.nodes = list(environment.noted)
        self.inputs = [Input(_of_flow(i), (0,)) for i in range(len(tensors_of(flow)))]
        for node in self.nodes:
            assert node.shape is not None
            self.inputs.append(
                Input(_of_node(node), tuple(i for i, n in enumerate(node.shape) if n is Dim.BATCH))
            )
        self.fixed = any(node.shape and Dim.EXPRESSION in node.shape for node in self.nodes)

    def _advance(self, flow: EnergyFlow, leaves: Sequence[Tensor], tape: Tape) -> Any:
        point, carry = rebuild(self.structure, iter(leaves))
        try:
            # a tape stands for the generator, which only `samplers.noise` can tell from it
            return self.solver.advance(flow, point, carry, tape, self.steps)  # type: ignore[arg-type]
        except (SettlingError, StateError):
            raise
        except Exception as error:
            raise CompileError(f"{type(error).__name__}: {error}") from error

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

        try:
            with mode, torch.inference_mode(False), torch.no_grad():
                module = make_fx(block, tracing_mode="symbolic")(*fakes)
        except (CompileError, SettlingError, StateError):
            raise
        except Exception as error:
            raise CompileError(f"{type(error).__name__}: {error}") from error
        if shapes.replacements and not static:
            return None
        symbol = None if static else fakes[0].shape[0].node.expr  # type: ignore[union-attr]
        graph = module.graph
        noise = _noise_as_inputs(graph, [kind for kind, _ in tape.drawn])
        _refuse_chance(graph)
        extra = _constants_as_inputs(module, count + len(self.inputs), self.flow, self.solver)
        kept = _drop_unused(graph, count, len(self.inputs) + len(extra))
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
        )

    def _compare(self, out: Sequence[Tensor], given: Sequence[Tensor], structure: Any) -> None:
        same = structure[1][:2] == self.structure[1]
        for new, old in zip(out, given, strict=False):
            same = same and (new.dtype, new.shape) == (old.dtype, old.shape)
        if not same:
            raise CompileError(f"{type(self.solver).__name__} returns another carry than it takes")


def _no_eager() -> EagerForces:
    raise CompileError("the steps take a second derivative that cannot be traced")


def tensors_of(flow: EnergyFlow) -> list[Tensor]:
    """The tensors of a flow besides those of its forces."""
    found: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        found.append(value)
        return value

    flow.over(flow.forces, flow.batch, note)
    return found


def _of_flow(place: int) -> Source:
    return lambda flow: tensors_of(flow)[place]


def _of_node(node: Any) -> Source:
    def source(flow: EnergyFlow) -> Tensor:
        assert isinstance(flow.forces, TracedForces)
        return flow.forces.environment.get(node)

    return source


def _of_parameter(name: str) -> Source:
    return lambda flow: parameters_of(flow.conditioned.base)[name]


def _of_constant(value: Tensor) -> Source:
    return lambda _: value


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


def _noise_as_inputs(graph: torch.fx.Graph, kinds: Sequence[str]) -> list[Noise]:
    """Turn the last outputs of a graph, what the tape has handed out, into inputs."""
    output = graph.output_node()
    results = list(output.args[0])  # type: ignore[arg-type]
    split = len(results) - len(kinds)
    output.args = (results[:split],)
    noise = []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for kind, node in zip(kinds, results[split:], strict=True):
        value = node.meta["val"]
        shape = tuple(n if isinstance(n, int) else _expression(n) for n in value.shape)
        with graph.inserting_after(last):
            last = graph.placeholder(f"noise_{len(noise)}")
        last.meta["val"] = value
        node.replace_all_uses_with(last)
        noise.append(Noise(Draw(kind, value.dtype, value.device), shape))
    graph.eliminate_dead_code()
    return noise


def _expression(size: torch.SymInt) -> Any:
    expression = size.node.expr
    return int(expression) if expression.is_number else expression


def _refuse_chance(graph: torch.fx.Graph) -> None:
    for node in graph.nodes:
        op = node.target
        if isinstance(op, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.tags:
            raise CompileError(
                f"{op} draws random numbers of its own; draw them with energynet.samplers.noise"
            )


def _constants_as_inputs(
    module: torch.fx.GraphModule, place: int, flow: EnergyFlow, solver: Solver
) -> list[Input]:
    """Turn tensors that the graph holds into inputs.

    Parameters are read by name. What the solver or a term of the energy holds is kept: with another tensor
    they are another solver or energy. Anything else, such as the value of a clamp, would grow old unnoticed.
    """
    graph, base = module.graph, flow.conditioned.base
    named = {id(value): name for name, value in parameters_of(base).items()}
    fixed = {id(value) for value in (*tensors_in(vars(solver)), *tensors_beside(base))}
    inputs: list[Input] = []
    last = [node for node in graph.nodes if node.op == "placeholder"][place - 1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        literal = all(user.target in _LIFTS for user in node.users)
        name = named.get(id(value))
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            raise CompileError(f"the steps keep {type(value).__name__} {node.target}")
        if name is None and not literal and id(value) not in fixed:
            raise CompileError(
                f"the steps read a tensor of shape {tuple(value.shape)} that comes from neither the state, "
                "the carry, the energy nor the solver"
            )
        with graph.inserting_after(last):
            last = graph.placeholder(f"constant_{len(inputs)}")
        last.meta.update(node.meta)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
        inputs.append(Input(_of_constant(value) if name is None else _of_parameter(name), ()))
    return inputs


def _drop_unused(graph: torch.fx.Graph, first: int, count: int) -> list[int]:
    """Remove inputs that nothing reads, of ``count`` after the ``first``; the places of those that stay."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    kept = []
    for place, node in enumerate(placeholders[first : first + count]):
        if node.users:
            kept.append(place)
        else:
            graph.erase_node(node)
    return kept
