"""What is done to a recorded graph: what it holds or draws becomes an input; factors become operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from energynet.errors import CompileError
from energynet.flow import EnergyFlow
from energynet.forces import TracedForces
from energynet.programs import tensors_beside, tensors_in
from energynet.samplers.noise import Draw
from energynet.solvers import Solver
from energynet.trace import parameters_of

aten = torch.ops.aten
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.add_.Tensor, aten.sub_.Tensor}
_PRODUCTS = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}
# operators that make a tensor of a literal
_LIFTS = {
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.lift.default,
}
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


def tensors_of(flow: EnergyFlow) -> list[Tensor]:
    """The tensors of a flow besides those of its forces."""
    found: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        found.append(value)
        return value

    flow.over(flow.forces, flow.batch, note)
    return found


def of_flow(place: int) -> Source:
    """One of `tensors_of` a flow."""
    return lambda flow: tensors_of(flow)[place]


def of_node(node: Any) -> Source:
    """What the environment of the forces says of a node."""

    def source(flow: EnergyFlow) -> Tensor:
        assert isinstance(flow.forces, TracedForces)
        return flow.forces.environment.get(node)

    return source


def _of_parameter(name: str) -> Source:
    return lambda flow: parameters_of(flow.conditioned.base)[name]


def _of_constant(value: Tensor) -> Source:
    return lambda _: value


def noise_as_inputs(graph: torch.fx.Graph, kinds: Sequence[str]) -> list[Noise]:
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


def refuse_chance(graph: torch.fx.Graph) -> None:
    """Raise `CompileError` if an operator of the graph draws random numbers."""
    for node in graph.nodes:
        op = node.target
        if isinstance(op, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.tags:
            raise CompileError(
                f"{op} draws random numbers of its own; draw them with energynet.samplers.noise"
            )


def constants_as_inputs(
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


def factors_as_operators(graph: torch.fx.Graph) -> None:
    """Write the factors of sums and products as operators of their own.

    The compiler's patterns for a product and a sum do not look at factors: it has taken x + 0.1 A B, written
    as one sum with a factor, for x + A B (PyTorch's issues 167313 and 196577 are of this kind).
    """
    for node in list(graph.nodes):
        alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
        if node.target not in {*_SUMS, *_PRODUCTS} or (alpha == 1 and beta == 1):
            continue
        with graph.inserting_before(node):
            if node.target in _PRODUCTS:
                total, *factors = node.args
                product = graph.call_function(_PRODUCTS[node.target], tuple(factors))
                total = _times(graph, total, beta)
                new = graph.call_function(aten.add.Tensor, (total, _times(graph, product, alpha)))
                new.meta.update(node.meta)
                node.replace_all_uses_with(new)
            else:
                node.args = (node.args[0], _times(graph, node.args[1], alpha))
                node.kwargs = {}
    graph.eliminate_dead_code()


def _times(graph: torch.fx.Graph, value: Any, factor: Any) -> Any:
    return value if factor == 1 else graph.call_function(aten.mul.Tensor, (value, factor))


def drop_unused(graph: torch.fx.Graph, first: int, count: int) -> list[int]:
    """Remove inputs that nothing reads, of ``count`` after the ``first``; the places of those that stay."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    kept = []
    for place, node in enumerate(placeholders[first : first + count]):
        if node.users:
            kept.append(place)
        else:
            graph.erase_node(node)
    return kept
