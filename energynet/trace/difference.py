"""The difference of a traced function between two points, without cancellation where it is multilinear.

For a product, a+ b+ - a- b- = (a+ - a-) mean(b) + mean(a) (b+ - b-) exactly, so a difference of two large
gradients becomes a gradient of the small differences of the states; factors that do not move drop out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from energynet.trace.capture import Traced
from energynet.trace.graph import LINEAR, PRODUCTS, Builder, Combination, Kind, Node, nodes_in, substitute


def difference(traced: Traced, moving: Collection[str]) -> Traced:
    """The function output(plus) - output(minus).

    Parameters
    ----------
    traced
        The function.
    moving
        Inputs that differ. An input ``h`` is read as the inputs ``"h+"`` and ``"h-"``; all others are shared.
    """
    rewriter = _Rewriter(traced.builder, frozenset(moving))
    outputs = {name: rewriter.sum(value, rewriter.delta) for name, value in traced.outputs.items()}
    sides = {name + side: traced.inputs[name] for name in moving for side in "+-"}
    return Traced(traced.builder, outputs, {**traced.inputs, **sides})


class _Rewriter:
    def __init__(self, builder: Builder, moving: frozenset[str]) -> None:
        self._builder = builder
        self._moving = moving
        self._memo: dict[tuple[str, Node], Any] = {}

    def sum(self, value: Combination, part: Any) -> Combination:
        """Apply a linear map to a combination of nodes."""
        result = Combination({}, 0.0, value.shape, value.dtype)
        for node, coefficient in value.terms.items():
            result = result.plus(part(node).scaled(coefficient), value.shape)
        if part != self.delta:
            result.constant += value.constant
        return result

    def delta(self, node: Node) -> Combination:
        return self._remember("delta", node)

    def mean(self, node: Node) -> Combination:
        return self._remember("mean", node)

    def _remember(self, kind: str, node: Node) -> Combination:
        key = (kind, node)
        if key not in self._memo:
            self._memo[key] = self._delta(node) if kind == "delta" else self._mean(node)
        return self._memo[key]

    def _still(self, node: Node) -> bool:
        return node.reads.isdisjoint(self._moving)

    def _itself(self, node: Node) -> Combination:
        assert node.shape is not None and node.dtype is not None
        return Combination({node: 1.0}, 0.0, node.shape, node.dtype)

    def _delta(self, node: Node) -> Combination:
        assert node.shape is not None and node.dtype is not None
        if self._still(node):
            return Combination({}, 0.0, node.shape, node.dtype)
        if node.op is Kind.COMBINATION:
            return self.sum(self._combination(node), self.delta)
        position = self._linear_in(node)
        if position is not None:
            return self._with(node, position, self.delta)
        if self._is_product(node):
            first, second = node.args
            left = self._call(node, (self.delta(first), self.mean(second)))
            right = self._call(node, (self.mean(first), self.delta(second)))
            return left.plus(right, node.shape)
        return self._at(node, "+").plus(self._at(node, "-").scaled(-1.0), node.shape)

    def _mean(self, node: Node) -> Combination:
        assert node.shape is not None
        if self._still(node):
            return self._itself(node)
        if node.op is Kind.COMBINATION:
            return self.sum(self._combination(node), self.mean)
        position = self._linear_in(node)
        if position is not None:
            return self._with(node, position, self.mean)
        return self._at(node, "+").plus(self._at(node, "-"), node.shape).scaled(0.5)

    def _combination(self, node: Node) -> Combination:
        assert node.shape is not None and node.dtype is not None
        return Combination({n: c for c, n in node.args[1:]}, node.args[0], node.shape, node.dtype)

    def _linear_in(self, node: Node) -> int | None:
        """The argument that an operator is linear in, if it is the only one that moves."""
        if not isinstance(node.op, torch._ops.OpOverload):
            return None
        position = LINEAR.get(node.op.overloadpacket)
        if position is None:
            return None
        others = (*node.args[:position], *node.args[position + 1 :], node.kwargs)
        return position if all(self._still(n) for n in nodes_in(others)) else None

    def _is_product(self, node: Node) -> bool:
        return (
            isinstance(node.op, torch._ops.OpOverload)
            and node.op.overloadpacket in PRODUCTS
            and all(isinstance(argument, Node) for argument in node.args)
        )

    def _with(self, node: Node, position: int, part: Any) -> Combination:
        args = tuple(part(a) if i == position else self._wrapped(a) for i, a in enumerate(node.args))
        return self._call(node, args)

    def _wrapped(self, value: Any) -> Any:
        return substitute(value, lambda n: n if n.shape is None else self._itself(n))

    def _call(self, node: Node, args: tuple[Any, ...]) -> Combination:
        assert not isinstance(node.op, Kind)
        result = self._builder.call(node.op, args, self._wrapped(node.kwargs), node.shape, node.dtype)
        assert isinstance(result, Combination)
        return result

    def _at(self, node: Node, side: str) -> Combination:
        """The node at one of the two points."""
        value = self._point(node, side)
        return value if isinstance(value, Combination) else self._itself(value)

    def _point(self, node: Node, side: str) -> Any:
        key = (side, node)
        if key not in self._memo:
            self._memo[key] = self._make_point(node, side)
        return self._memo[key]

    def _make_point(self, node: Node, side: str) -> Any:
        if self._still(node):
            return node if node.shape is None else self._itself(node)
        if node.op is Kind.INPUT:
            assert node.shape is not None and node.dtype is not None
            return self._builder.input(node.name + side, node.shape, node.dtype)
        if node.op is Kind.COMBINATION:
            return self.sum(self._combination(node), lambda n: self._at(n, side))
        args = substitute(node.args, lambda n: self._point(n, side))
        kwargs = substitute(node.kwargs, lambda n: self._point(n, side))
        assert not isinstance(node.op, Kind)
        return self._builder.call(node.op, args, kwargs, node.shape, node.dtype)
