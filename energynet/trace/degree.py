"""The degree of a traced output as a polynomial in some of its inputs."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

import torch

from energynet.trace.capture import Traced
from energynet.trace.graph import LINEAR, PRODUCTS, Kind, Node, nodes_in

aten = torch.ops.aten

# Operators that move, copy or add entries of their first argument, beside those that the graph simplifies.
_MOVING = {
    *LINEAR,
    aten._to_copy,
    aten.cat,
    aten.constant_pad_nd,
    aten.cumsum,
    aten.diagonal,
    aten.flip,
    aten.gather,
    aten.index,
    aten.index_select,
    aten.roll,
    aten.split,
    aten.split_with_sizes,
    aten.stack,
    aten.tril,
    aten.triu,
    aten.unbind,
    aten.unfold,
}
# The arguments that are multiplied, and one that is added.
_PRODUCTS: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys(PRODUCTS, (0, 1)),
    aten.addmm: (1, 2, 0),
    aten.baddbmm: (1, 2, 0),
    aten.convolution: (0, 1, 2),
}


def degree(traced: Traced, output: str, names: Collection[str]) -> float:
    """The degree of an output in some inputs together, with coefficients that may depend on all others.

    An upper bound: terms that cancel count. Infinite where the trace does not show a polynomial; for most
    operators that is so, which includes everything with a jump or a kink.
    """
    wanted = frozenset(names)
    memo: dict[Node, float] = {}

    def visit(value: Any) -> float:
        if not isinstance(value, Node):
            return max((visit(node) for node in nodes_in(value)), default=0.0)
        if wanted.isdisjoint(value.reads):
            return 0.0
        if value not in memo:
            memo[value] = of(value)
        return memo[value]

    def of(node: Node) -> float:
        if node.op is Kind.INPUT:
            return 1.0
        if node.op is Kind.COMBINATION or node.op is operator.getitem:
            return visit(node.args)
        if not isinstance(node.op, torch._ops.OpOverload) or visit(node.kwargs):
            return math.inf
        packet = node.op.overloadpacket
        if packet in _PRODUCTS:
            first, *rest = (visit(node.args[place]) for place in _PRODUCTS[packet])
            return max([first + rest[0], *rest[1:]])
        if packet is aten.pow:
            power = node.args[1]
            whole = isinstance(power, (int, float)) and float(power).is_integer() and power >= 0
            return visit(node.args[0]) * power if whole else math.inf
        if packet in _MOVING or (packet is aten.div and not node.kwargs):
            floating = node.dtype is None or node.dtype.is_floating_point or node.dtype.is_complex
            return visit(node.args[0]) if floating and not visit(node.args[1:]) else math.inf
        return math.inf

    return visit(traced.builder.node(traced.outputs[output]))
