"""What the graph of a force tells: which variable reads which, and which units are affine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from energynet.trace.capture import Traced
from energynet.trace.graph import LINEAR, PRODUCTS, Combination, Kind, Node, nodes_in

aten = torch.ops.aten


def dependence(traced: Traced, output: str, name: str) -> str:
    """How an output reads an input: ``"none"``, ``"elementwise"`` or ``"mixed"``.

    Elementwise means that each entry of the output reads only the entry at the same place.
    """
    memo: dict[Node, str] = {}

    def visit(node: Node) -> str:
        if name not in node.reads:
            return "none"
        if node not in memo:
            memo[node] = _visit(node)
        return memo[node]

    def _visit(node: Node) -> str:
        if node.op is Kind.INPUT:
            return "elementwise"
        pointwise = node.op is Kind.COMBINATION or (
            isinstance(node.op, torch._ops.OpOverload) and torch.Tag.pointwise in node.op.tags
        )
        for argument in nodes_in((node.args, node.kwargs)):
            if name in argument.reads and not (
                pointwise and argument.shape == node.shape and visit(argument) == "elementwise"
            ):
                return "mixed"
        return "elementwise"

    return visit(traced.builder.node(traced.outputs[output]))


# Operators that are linear in all of their tensors together.
_LINEAR_IN_ALL = {aten.cat, aten.stack, aten.flip, aten.roll, aten.select_backward, aten.constant_pad_nd}


def affine(traced: Traced, outputs: Collection[str], names: Collection[str]) -> bool:
    """Whether the trace shows that outputs are affine in some inputs together, the others being given.

    The test is on sums, products and reshapings, not on every expression that happens to be affine.
    """
    inputs = frozenset(names)
    memo: dict[Node, bool] = {}

    def visit(node: Node) -> bool:
        if node.reads.isdisjoint(inputs) or node.op is Kind.INPUT:
            return True
        if node not in memo:
            moving = [n for n in nodes_in((node.args, node.kwargs)) if not n.reads.isdisjoint(inputs)]
            memo[node] = _linear_in(node, moving) and all(visit(inner) for inner in moving)
        return memo[node]

    return all(visit(traced.builder.node(traced.outputs[name])) for name in outputs)


def _linear_in(node: Node, moving: Sequence[Node]) -> bool:
    """Whether a call is linear in some of its arguments, or is affine for being a combination."""
    if not isinstance(node.op, torch._ops.OpOverload):
        return node.op is Kind.COMBINATION
    packet = node.op.overloadpacket
    if packet in _LINEAR_IN_ALL:
        return True
    if packet in PRODUCTS:
        return len(moving) == 1
    position = 0 if packet is aten.div else LINEAR.get(packet)
    return position is not None and len(moving) == 1 and moving[0] is node.args[position]


def curvature(traced: Traced, output: str, name: str) -> Combination | None:
    """Minus the slope of an output in an input of the same shape, where that does not depend on the input.

    The output must read the input elementwise. None where it is not affine in it, or where the trace does
    not show that it is: the test is on sums and products, not on every expression that happens to be affine.
    """
    value = traced.outputs[output]
    builder = traced.builder

    def slope(node: Node) -> Combination | None:
        assert node.shape is not None and node.dtype is not None
        if name not in node.reads:
            return Combination({}, 0.0, node.shape, node.dtype)
        if node.op is Kind.INPUT:
            return Combination({}, 1.0, node.shape, node.dtype)
        if node.op is Kind.COMBINATION:
            return total({n: c for c, n in node.args[1:]}, node)
        if node.op is aten.mul.Tensor:
            first, second = node.args
            if name in first.reads and name in second.reads:
                return None
            inner, other = (first, second) if name in first.reads else (second, first)
            rate = slope(inner)
            if rate is None:
                return None
            factor = Combination({other: 1.0}, 0.0, other.shape, node.dtype)
            result = builder.call(aten.mul.Tensor, (rate, factor), {}, node.shape, node.dtype)
            return result if isinstance(result, Combination) else None
        return None

    def total(terms: dict[Node, float], like: Node | Combination) -> Combination | None:
        assert like.shape is not None and like.dtype is not None
        result = Combination({}, 0.0, like.shape, like.dtype)
        for node, coefficient in terms.items():
            rate = slope(node)
            if rate is None:
                return None
            result = result.plus(rate.scaled(coefficient), like.shape)
        return result

    rate = total(value.terms, value)
    return None if rate is None else rate.scaled(-1.0)
