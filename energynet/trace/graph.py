"""The graph of a traced function, kept simple while it is built.

Every tensor is held as a linear combination of nodes, ``constant + sum of coefficient * node``, so that
negations, scalings, sums and the ones that autograd starts from never become operations of their own.
Equal nodes are one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from energynet.errors import TraceError

aten = torch.ops.aten


class Dim(Enum):
    """A dimension that is not a plain number."""

    BATCH = "batch"
    EXPRESSION = "expression of the batch"


Shape = tuple[int | Dim, ...]


class Kind(Enum):
    """What a node is, where it is not the call of an operator."""

    INPUT = "input"
    BATCH_SIZE = "batch size"
    COMBINATION = "combination"


@dataclass(eq=False, slots=True)
class Node:
    """One value of the graph.

    ``shape`` is None where the value is no tensor (a size, or a tuple of tensors). The arguments of a
    combination are ``(constant, (coefficient, node), ...)``.
    """

    op: Callable[..., Any] | Kind
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Shape | None
    dtype: torch.dtype | None
    reads: frozenset[str]
    name: str = ""
    number: int = 0


@dataclass(slots=True)
class Combination:
    """A tensor as constant + sum of coefficient * node; nodes may broadcast to ``shape``."""

    terms: dict[Node, float]
    constant: float
    shape: Shape
    dtype: torch.dtype

    @property
    def uniform(self) -> bool:
        return not self.terms

    def scaled(self, factor: float, shape: Shape | None = None) -> Combination:
        terms = {node: c * factor for node, c in self.terms.items()} if factor else {}
        return Combination(terms, self.constant * factor, self.shape if shape is None else shape, self.dtype)

    def plus(self, other: Combination, shape: Shape) -> Combination:
        terms = dict(self.terms)
        for node, coefficient in other.terms.items():
            total = terms.pop(node, 0.0) + coefficient
            if total:
                terms[node] = total
        return Combination(terms, self.constant + other.constant, shape, self.dtype)


def nodes_in(value: Any) -> Iterable[Node]:
    """The nodes among the arguments of a call."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from nodes_in(item)


def substitute(value: Any, replace: Callable[[Node], Any]) -> Any:
    """The arguments of a call with every node replaced."""
    if isinstance(value, Node):
        return replace(value)
    if isinstance(value, (tuple, list)):
        return type(value)(substitute(item, replace) for item in value)
    if isinstance(value, dict):
        return {key: substitute(item, replace) for key, item in value.items()}
    return value


# Operators that are linear in one argument and leave its coefficient alone: op -> position.
LINEAR = {
    aten.t: 0,
    aten.transpose: 0,
    aten.permute: 0,
    aten.view: 0,
    aten._unsafe_view: 0,
    aten.reshape: 0,
    aten.expand: 0,
    aten.unsqueeze: 0,
    aten.squeeze: 0,
    aten.slice: 0,
    aten.slice_backward: 0,
    aten.select: 0,
    aten.sum: 0,
    aten.mean: 0,
    aten.tanh_backward: 0,
    aten.sigmoid_backward: 0,
    aten.threshold_backward: 0,
}
_SHAPE_ONLY = {
    aten.t,
    aten.transpose,
    aten.permute,
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten.expand,
    aten.unsqueeze,
    aten.squeeze,
    aten.slice,
    aten.select,
}
_IDENTITY = {aten.alias, aten.detach, aten.clone, aten.lift_fresh_copy, aten.lift_fresh, aten.contiguous}
_ONES, _ZEROS = {aten.ones_like, aten.ones, aten.new_ones}, {aten.zeros_like, aten.zeros, aten.new_zeros}
_FULL = {aten.full_like: 1, aten.full: 1, aten.scalar_tensor: 0, aten.new_full: 2}
PRODUCTS = {aten.mul, aten.mm, aten.bmm, aten.mv, aten.dot}
_RESHAPING = {aten.view, aten._unsafe_view, aten.reshape, aten.expand, aten.slice, aten.slice_backward}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class Builder:
    """Builds a graph call by call; `call` returns a `Combination`, or a `Node` where there is no tensor."""

    device: torch.device
    _nodes: dict[Any, Node] = field(default_factory=dict)

    def input(self, name: str, shape: Shape, dtype: torch.dtype) -> Combination:
        node = self._make(Kind.INPUT, (name,), {}, shape, dtype, name)
        return Combination({node: 1.0}, 0.0, shape, dtype)

    def batch_size(self) -> Node:
        return self._make(Kind.BATCH_SIZE, (), {}, None, None)

    def _make(
        self,
        op: Callable[..., Any] | Kind,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shape: Shape | None,
        dtype: torch.dtype | None,
        name: str = "",
    ) -> Node:
        key = (op, _hashable(args), _hashable(kwargs), shape if op is Kind.COMBINATION else name)
        if key not in self._nodes:
            reads = frozenset([name]) if op is Kind.INPUT else frozenset()
            for node in nodes_in((args, kwargs)):
                reads |= node.reads
            self._nodes[key] = Node(op, args, kwargs, shape, dtype, reads, name, len(self._nodes))
        return self._nodes[key]

    def node(self, value: Any) -> Any:
        """The node of a combination; everything else as it is."""
        if isinstance(value, Combination):
            if len(value.terms) == 1 and not value.constant:
                ((node, coefficient),) = value.terms.items()
                if coefficient == 1 and node.shape == value.shape:
                    return node
            terms = tuple((c, node) for node, c in value.terms.items())
            if not terms:
                size = [self.batch_size() if n is Dim.BATCH else n for n in value.shape]
                if Dim.EXPRESSION in size:
                    raise TraceError("a constant whose shape is an expression of the batch")
                kwargs = {"dtype": value.dtype, "device": self.device}
                return self._make(aten.full.default, (size, value.constant), kwargs, value.shape, value.dtype)
            return self._make(Kind.COMBINATION, (value.constant, *terms), {}, value.shape, value.dtype)
        if isinstance(value, (tuple, list)):
            return type(value)(self.node(item) for item in value)
        if isinstance(value, dict):
            return {key: self.node(item) for key, item in value.items()}
        return value

    def known_part(self, node: Node, known: Iterable[tuple[float, Node]], constant: float) -> Node:
        """The sum of some terms of a combination, as a node of its own."""
        known = list(known)
        shape: Shape = max((n.shape or () for _, n in known), key=len)
        for _, other in known:
            assert other.shape is not None
            shape = _broadcast(shape, other.shape)
        assert node.dtype is not None
        return self.node(Combination({n: c for c, n in known}, constant, shape, node.dtype))

    def product(self, op: Any, factors: Sequence[Node], shape: Shape, dtype: torch.dtype) -> Node:
        """The node of a product; of elementwise ones the order does not matter."""
        pair = sorted(factors, key=lambda n: n.number) if op is aten.mul.Tensor else factors
        return self._make(op, tuple(pair), {}, shape, dtype)

    def opaque(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape: Shape | None, dtype: Any
    ) -> Combination | Node:
        """A call that nothing is known about."""
        node = self._make(op, self.node(args), self.node(kwargs), shape, dtype)
        if shape is None:
            return node
        assert dtype is not None
        return Combination({node: 1.0}, 0.0, shape, dtype)

    def call(
        self,
        op: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shape: Shape | None,
        dtype: torch.dtype | None,
    ) -> Combination | Node:
        """Add one operator, simplified where its algebra is known."""
        if shape is None or dtype is None or not isinstance(op, torch._ops.OpOverload):
            return self.opaque(op, args, kwargs, shape, dtype)
        tensors = [a for a in args if isinstance(a, Combination)]
        if (dtype.is_floating_point or dtype.is_complex) and all(t.dtype == dtype for t in tensors):
            simple = self._simplify(op, args, kwargs, shape, dtype)
            if simple is not None:
                return simple
        return self.opaque(op, args, kwargs, shape, dtype)

    def _simplify(  # noqa: C901  a table of rules, one for each operator
        self,
        op: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shape: Shape,
        dtype: torch.dtype,
    ) -> Combination | None:
        packet = op.overloadpacket
        if packet in _ONES or packet in _ZEROS:
            return Combination({}, float(packet in _ONES), shape, dtype)
        if packet in _FULL and _number(args[_FULL[packet]]):
            return Combination({}, float(args[_FULL[packet]]), shape, dtype)
        first = args[0] if args else None
        if packet is aten.mul and _number(first):
            args = (args[1], args[0])
            first = args[0]
        if not isinstance(first, Combination):
            return None
        second = args[1] if len(args) > 1 else None
        if packet in _IDENTITY or (packet is aten._to_copy and first.dtype == dtype):
            return first
        if packet is aten.neg:
            return first.scaled(-1.0)
        if packet in (aten.add, aten.sub, aten.rsub):
            return self._sum(packet, first, second, kwargs.get("alpha", 1), shape, dtype)
        if packet is aten.mul:
            return self._product(op, first, second, shape, dtype)
        if packet is aten.div and not kwargs and second is not None:
            if _number(second):
                return first.scaled(1 / second, shape)
            if isinstance(second, Combination) and second.uniform and second.constant:
                return first.scaled(1 / second.constant, shape)
            return self._pull(op, 0, args, kwargs, shape, dtype)
        if packet in (aten.pow, aten.square):
            power: Any = 2 if packet is aten.square else second
            return self._power(first, power, shape, dtype) if _number(power) else None
        if packet is aten.addmm:
            scale, bias = kwargs.get("alpha", 1), kwargs.get("beta", 1)
            operands: Any = args
            product = self._bilinear(aten.mm.default, operands[1], operands[2], shape, dtype)
            if not (_number(scale) and _number(bias)):
                return None
            return first.scaled(bias).plus(product.scaled(scale), shape)
        if packet in PRODUCTS and isinstance(second, Combination):
            return self._bilinear(op, first, second, shape, dtype)
        if packet in LINEAR:
            if first.uniform and packet in _SHAPE_ONLY:
                return Combination({}, first.constant, shape, dtype)
            if packet is aten.t and first.terms:
                undone = self._transposed_twice(first, shape)
                if undone is not None:
                    return undone
            if packet in _RESHAPING and first.shape == shape and Dim.EXPRESSION not in shape:
                return first
            return self._pull(op, LINEAR[packet], args, kwargs, shape, dtype)
        return None

    def _transposed_twice(self, value: Combination, shape: Shape) -> Combination | None:
        if value.constant or len(value.terms) != 1:
            return None
        ((node, coefficient),) = value.terms.items()
        if node.op is not aten.t.default:
            return None
        return Combination({node.args[0]: coefficient}, 0.0, shape, value.dtype)

    def _sum(
        self, packet: Any, first: Combination, second: Any, alpha: Any, shape: Shape, dtype: torch.dtype
    ) -> Combination | None:
        if not _number(alpha):
            return None
        if _number(second):
            second = Combination({}, float(second), shape, dtype)
        if not isinstance(second, Combination):
            return None
        if packet is aten.sub:
            alpha = -alpha
        if packet is aten.rsub:
            first, alpha = first.scaled(-alpha), 1
        return first.plus(second.scaled(alpha), shape)

    def _product(
        self, op: Any, first: Combination, second: Any, shape: Shape, dtype: torch.dtype
    ) -> Combination | None:
        if _number(second):
            return first.scaled(second, shape)
        if not isinstance(second, Combination):
            return None
        if second.uniform:
            return first.scaled(second.constant, shape)
        if first.uniform:
            return second.scaled(first.constant, shape)
        return self._bilinear(op, first, second, shape, dtype)

    def _bilinear(self, op: Any, first: Any, second: Any, shape: Shape, dtype: torch.dtype) -> Combination:
        factor, first = _factor(first)
        other, second = _factor(second)
        if isinstance(first, Combination) and first.uniform and not first.constant:
            return Combination({}, 0.0, shape, dtype)
        if isinstance(second, Combination) and second.uniform and not second.constant:
            return Combination({}, 0.0, shape, dtype)
        node = self.product(op, (self.node(first), self.node(second)), shape, dtype)
        return Combination({node: factor * other}, 0.0, shape, dtype)

    def _power(self, base: Combination, power: float, shape: Shape, dtype: torch.dtype) -> Combination | None:
        if power == 1:
            return base
        if power == 0:
            return Combination({}, 1.0, shape, dtype)
        if base.uniform and float(power).is_integer() and power > 0:
            return Combination({}, base.constant**power, shape, dtype)
        if power == 2:
            return self._bilinear(aten.mul.Tensor, base, base, shape, dtype)
        return None

    def _pull(
        self,
        op: Any,
        position: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shape: Shape,
        dtype: torch.dtype,
    ) -> Combination | None:
        factor, inner = _factor(args[position])
        if isinstance(inner, Combination) and inner.uniform and not inner.constant:
            return Combination({}, 0.0, shape, dtype)
        args = (*args[:position], inner, *args[position + 1 :])
        value = self.opaque(op, args, kwargs, shape, dtype)
        return value.scaled(factor) if isinstance(value, Combination) else None


def _factor(value: Any) -> tuple[float, Any]:
    """Split a one-term combination into its coefficient and the rest."""
    if isinstance(value, Combination) and len(value.terms) == 1 and not value.constant:
        ((_, coefficient),) = value.terms.items()
        return coefficient, value.scaled(1 / coefficient)
    return 1.0, value


def _broadcast(first: Shape, second: Shape) -> Shape:
    if len(first) < len(second):
        first, second = second, first
    second = (1,) * (len(first) - len(second)) + second
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def _hashable(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return (type(value), *(_hashable(item) for item in value))
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, torch.Tensor):
        return id(value)
    return (type(value), value)  # 1, 1.0 and True are different arguments
