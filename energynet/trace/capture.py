"""From a Python function of named tensors to a graph, without running it on data.

The batch is traced as a symbol, so one trace serves every batch size. Parameters and buffers are inputs
of the graph like the state, so a trace stays right while their values change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from energynet.errors import StateError, TraceError
from energynet.trace.graph import Builder, Combination, Dim, Kind, Node, Shape

aten = torch.ops.aten
Function = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

_BATCH = 7  # a size that no layer is likely to have, so that no dimension is taken for the batch
_OTHERS = (2, 4999)  # to see whether the operators depend on it


@dataclass(frozen=True)
class Spec:
    """Shape of one sample, dtype and device of an input; ``batched`` inputs have the batch in front."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batched: bool = True

    @classmethod
    def of(cls, tensor: Tensor, *, batched: bool) -> Spec:
        shape = tuple(tensor.shape[1:] if batched else tensor.shape)
        return cls(shape, tensor.dtype, tensor.device, batched)


PARAMETER = "parameter "


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module, under the names they have as inputs of a trace."""
    found: dict[str, Tensor] = {}
    _collect(module, PARAMETER, found, set())
    return found


def _collect(module: nn.Module, prefix: str, found: dict[str, Tensor], seen: set[int]) -> None:
    """What ``named_parameters`` and ``named_buffers`` list, in a tenth of their time: each tensor once."""
    seen.add(id(module))
    for store in (module._parameters, module._buffers):
        for name, value in store.items():
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                found[prefix + name] = value
    for name, part in module._modules.items():
        if part is not None and id(part) not in seen:
            _collect(part, f"{prefix}{name}.", found, seen)


def versions(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """What changes when one of the tensors does; tensors of inference mode have no version."""
    return tuple((t.data_ptr(), t._version) for t in tensors.values() if not t.is_inference())


@contextmanager
def swapped(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of parameters and buffers, and the old ones back at the end.

    A tensor that is shared is replaced wherever it is. `torch.func.functional_call` does the same, but a
    module that is reachable by two names it leaves with the new tensors.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    new = {id(named[name]): value for name, value in tensors.items()}
    slots = [
        (store, name, value)
        for part in module.modules()
        for store in (part._parameters, part._buffers)
        for name, value in store.items()
        if id(value) in new
    ]
    try:
        for store, name, value in slots:
            store[name] = new[id(value)]  # type: ignore[assignment]
        yield
    finally:
        for store, name, value in slots:
            store[name] = value  # type: ignore[assignment]


@dataclass(frozen=True)
class Traced:
    """A function of named tensors as a graph.

    Attributes
    ----------
    outputs
        The node of each output, or a `Combination` of nodes.
    inputs
        What each input looked like.
    """

    builder: Builder
    outputs: dict[str, Combination]
    inputs: dict[str, Spec]


class Recording:
    """A function as torch recorded it, from which simplified graphs are built.

    Parameters
    ----------
    module
        Its parameters and buffers become inputs, named as by `parameters_of`.
    function
        From a dict of tensors to a dict of tensors; it may use the parameters of ``module``.
    inputs
        What the function is called with.

    Raises
    ------
    TraceError
        If Python control flow depends on the values of tensors, or an operator has a side effect.
    """

    def __init__(
        self, module: nn.Module, function: Function, inputs: Mapping[str, Spec], batch: int = _BATCH
    ) -> None:
        self._inputs = dict(inputs)
        self._graph, self._names, shapes = _record(batch, module, function, inputs)
        if shapes.replacements:
            raise TraceError(
                "the size of the batch was taken as a fixed number; write s.shape[0] where a size is needed, "
                "not len(s)"
            )
        if shapes.guards and batch == _BATCH:  # most branches are torch's own, and lead to the same operators
            builder = Builder(next(iter(inputs.values())).device)
            whole = [self, *(Recording(module, function, inputs, other) for other in _OTHERS)]
            outputs = [one.build(builder).outputs for one in whole]
            if any(
                builder.node(outputs[0][name]) is not builder.node(other[name])
                for other in outputs[1:]
                for name in self._names
            ):
                raise TraceError("what is computed depends on the size of the batch")

    def build(self, builder: Builder, constant: Mapping[str, float] | None = None) -> Traced:
        """The simplified graph, in ``builder``; inputs in ``constant`` are replaced by a number."""
        try:
            return _rebuild(builder, self._graph, self._names, self._inputs, constant or {})
        except TraceError:
            raise
        except Exception as error:  # an operator this reader has not met: the caller uses autograd
            raise TraceError(f"the trace could not be read: {type(error).__name__}: {error}") from error


def _record(
    batch: int, module: nn.Module, function: Function, inputs: Mapping[str, Spec]
) -> tuple[torch.fx.GraphModule, list[str], ShapeEnv]:
    named = parameters_of(module)
    output_names: list[str] = []
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def fake(tensor: Tensor, batched: bool) -> Tensor:
        dims = [DimDynamic.STATIC] * tensor.ndim
        if batched:
            dims[0] = DimDynamic.DUCK
        context = StatelessSymbolicContext(dynamic_sizes=dims)
        return mode.from_tensor(tensor.detach(), symbolic_context=context)

    def run(parameters: dict[str, Tensor], state: dict[str, Tensor]) -> list[Tensor]:
        with swapped(module, {k.removeprefix(PARAMETER): v for k, v in parameters.items()}):
            result = function(state)
        output_names[:] = list(result)
        return list(result.values())

    state = {}
    for name, spec in inputs.items():
        size = (batch, *spec.shape) if spec.batched else spec.shape
        state[name] = fake(torch.empty(size, dtype=spec.dtype, device=spec.device), spec.batched)
    parameters = {name: fake(value, False) for name, value in named.items()}
    try:
        with mode, torch.inference_mode(False), torch.enable_grad():
            graph = make_fx(run, tracing_mode="symbolic")(parameters, state)
    except StateError:  # what is wrong with the energy is wrong without a trace too
        raise
    except Exception as error:
        raise TraceError(f"{type(error).__name__}: {error}") from error
    graph.meta["inputs"] = [*parameters, *state]
    assert mode.shape_env is not None
    return graph, output_names, mode.shape_env


def _rebuild(
    builder: Builder,
    graph: torch.fx.GraphModule,
    names: list[str],
    inputs: Mapping[str, Spec],
    constant: Mapping[str, float],
) -> Traced:
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    input_names: list[str] = graph.meta["inputs"]
    if len(placeholders) != len(input_names):
        raise TraceError(f"expected {len(input_names)} inputs in the trace, got {len(placeholders)}")
    named = dict(zip(placeholders, input_names, strict=True))
    batch = next(
        (p.meta["val"].shape[0].node.expr for p, n in named.items() if n in inputs and inputs[n].batched),
        None,
    )
    values: dict[torch.fx.Node, Any] = {}
    specs = dict(inputs)
    outputs: dict[str, Combination] = {}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            name = named[node]
            shape, dtype = _shape(value, batch), value.dtype
            assert shape is not None
            if name in constant:
                values[node] = Combination({}, constant[name], shape, dtype)
            else:
                values[node] = builder.input(name, shape, dtype)
                specs.setdefault(name, Spec(tuple(value.shape), dtype, value.device, batched=False))
        elif node.op == "get_attr":
            values[node] = _attribute(builder, graph, node)
        elif node.op == "call_function":
            values[node] = _call(builder, node, value, values, batch)
        elif node.op == "output":
            results = node.args[0]
            for name, result in zip(names, results, strict=True):
                outputs[name] = values[result]
        else:
            raise TraceError(f"unexpected {node.op} in the trace")
    return Traced(builder, outputs, specs)


def _shape(value: Any, batch: Any) -> Shape | None:
    if not isinstance(value, Tensor):
        return None
    shape: list[int | Dim] = []
    for size in value.shape:
        if isinstance(size, int):
            shape.append(size)
        elif size.node.expr == batch:
            shape.append(Dim.BATCH)
        elif size.node.expr.is_number:
            shape.append(int(size.node.expr))
        else:
            shape.append(Dim.EXPRESSION)
    return tuple(shape)


def _attribute(builder: Builder, graph: torch.fx.GraphModule, node: torch.fx.Node) -> Any:
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        raise TraceError(f"{node.target} is not a constant tensor")
    if value.ndim == 0 and value.dtype.is_floating_point:
        return Combination({}, float(value), (), value.dtype)
    return builder.opaque(aten.clone.default, (value,), {}, tuple(value.shape), value.dtype)


def _call(
    builder: Builder, node: torch.fx.Node, value: Any, values: dict[torch.fx.Node, Any], batch: Any
) -> Any:
    op: Any = node.target
    if op in (aten.sym_size.int, aten.sym_numel.default):
        size = value.node.expr if isinstance(value, torch.SymInt) else value
        if size == batch:
            return builder.batch_size()
        if isinstance(size, int) or size.is_number:
            return int(size)
    if isinstance(op, torch._ops.OpOverload):
        if torch.Tag.nondeterministic_seeded in op.tags:
            raise TraceError(f"{op} draws random numbers")
        if op._schema.is_mutable:
            op = _functional(op, node)
    args = torch.fx.map_arg(node.args, lambda n: values[n])
    kwargs = {k: v for k, v in torch.fx.map_arg(node.kwargs, lambda n: values[n]).items() if v is not None}
    args = _plain(args)
    if op in (aten.view.default, aten._unsafe_view.default):
        op = aten.reshape.default  # copies are dropped here, so strides may differ from the trace's
    if op is aten.as_strided.default:
        raise TraceError("as_strided depends on the memory layout")
    shape = _shape(value, batch)
    return builder.call(op, args, kwargs, shape, value.dtype if isinstance(value, Tensor) else None)


def _plain(value: Any) -> Any:
    """Fx's immutable lists as plain ones."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _functional(op: torch._ops.OpOverload, node: torch.fx.Node) -> torch._ops.OpOverload:
    """The out-of-place twin of an operator whose argument nobody else reads."""
    name = op.overloadpacket.__name__.split(".")[-1]
    target = node.args[0]
    if name.endswith("_") and _unread(target):
        packet = getattr(aten, name[:-1], None)
        if packet is not None and op._overloadname in packet.overloads():
            return getattr(packet, op._overloadname)
    raise TraceError(f"{op} changes a tensor in place")


def _unread(target: Any) -> bool:
    """Whether one operator alone reads a tensor, and what the tensor is a view of."""
    if not isinstance(target, torch.fx.Node) or target.op != "call_function" or len(target.users) > 1:
        return False
    made_by: Any = target.target
    is_view = isinstance(made_by, torch._ops.OpOverload) and any(
        result.alias_info is not None for result in made_by._schema.returns
    )
    return not is_view or _unread(target.args[0])


__all__ = ["PARAMETER", "Kind", "Node", "Recording", "Spec", "Traced", "parameters_of", "swapped", "versions"]
