"""Partial evaluation: what depends on known inputs is computed once, the rest is compiled to Python.

An `Environment` holds the known inputs and computes, once each, the nodes that depend on them alone. A
`Kernel` is straight-line code for the nodes that depend on the free inputs; its constants come from an
environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from energynet import backends
from energynet.trace.capture import Traced
from energynet.trace.graph import Combination, Dim, Kind, Node, nodes_in, substitute
from energynet.trace.sharing import shared_sums

aten = torch.ops.aten


class Environment:
    """Known inputs, and the values of the nodes that depend on them alone.

    Parameters
    ----------
    values
        Known inputs by name.
    batch
        The number of samples.
    parent
        An environment that knows some of these inputs already: what it has computed is not computed again.
    index
        Where given, the samples of the parent that this environment is about.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        batch: int,
        parent: Environment | None = None,
        index: Tensor | None = None,
    ) -> None:
        self.known: frozenset[str] = frozenset(values) | (parent.known if parent else frozenset())
        self.batch = batch
        self._values = dict(values)
        self.parent = parent
        self._index = index
        self._computed: dict[Node, Any] = {}

    def get(self, node: Node) -> Any:
        """The value of a node all of whose inputs are known."""
        if node not in self._computed:
            self._computed[node] = self._inherited(node) if self._inherits(node) else self._compute(node)
        return self._computed[node]

    def _inherits(self, node: Node) -> bool:
        if self.parent is None or node.shape is None or not node.reads <= self.parent.known:
            return False
        if self._index is None:
            return True
        return Dim.EXPRESSION not in node.shape and node.shape.count(Dim.BATCH) <= 1

    def _inherited(self, node: Node) -> Tensor:
        assert self.parent is not None and node.shape is not None
        value: Tensor = self.parent.get(node)
        if self._index is not None and Dim.BATCH in node.shape:
            return value.index_select(node.shape.index(Dim.BATCH), self._index)
        return value

    def _compute(self, node: Node) -> Any:
        if node.op is Kind.INPUT:
            return self._values[node.name]
        if node.op is Kind.BATCH_SIZE:
            return self.batch
        if node.op is Kind.COMBINATION:
            return self._combine(node)
        assert not isinstance(node.op, Kind)
        if _is_product(node):
            return backends.mm(self.get(node.args[0]), self.get(node.args[1]))
        return node.op(*substitute(node.args, self.get), **substitute(node.kwargs, self.get))

    def _combine(self, node: Node) -> Tensor:
        constant, *terms = node.args
        total: Any = None
        for coefficient, term in sorted(terms, key=lambda t: _is_product(t[1])):
            value = self.get(term)  # kept: a product fused into one sum would be computed again for another
            total = (
                _scaled(value, coefficient) if total is None else torch.add(total, value, alpha=coefficient)
            )
        assert node.shape is not None
        if constant:
            total = total + constant
        size = [n if isinstance(n, int) else self.batch for n in node.shape]
        return total if list(total.shape) == size else total.expand(size)

    def take(self, index: Tensor) -> Environment:
        """The same environment for the samples of ``index``, which may repeat some."""
        return Environment({}, index.shape[0], self, index)

    def noting(self) -> Environment:
        """The same environment, which notes what is asked for in `noted`."""
        return Environment({}, self.batch, self)

    @property
    def noted(self) -> dict[Node, Tensor]:
        """The tensors that have been asked for."""
        return {node: value for node, value in self._computed.items() if isinstance(value, Tensor)}

    def replaced(self, computed: Mapping[Node, Tensor], batch: int) -> Environment:
        """An environment that knows the same inputs, but only through the values of some nodes."""
        twin = Environment({}, batch)
        twin.known = self.known
        twin._computed = dict(computed)
        return twin


def _is_product(node: Node) -> bool:
    return node.op is aten.mm.default


def _scaled(value: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return value
    return -value if factor == -1 else value * factor


class Kernel:
    """Straight-line code for some outputs of a trace.

    Parameters
    ----------
    traced
        The trace.
    outputs
        Which of its outputs to compute, in this order.
    free
        The inputs that are given at every call, in this order; all others must be known.

    Attributes
    ----------
    constants
        Nodes whose values the code reads from an `Environment`.
    source
        The code, for inspection.
    work
        Multiplications for each sample in the matrix products of the code.
    reads
        The inputs, free or known, that the outputs depend on.
    """

    def __init__(self, traced: Traced, outputs: Sequence[str], free: Sequence[str]) -> None:
        self.constants: list[Node] = []
        self.work = 0
        self._traced = traced
        self._free = frozenset(free)
        self._names: dict[Node, str] = {}
        self._scope: dict[str, Any] = {"torch": torch, "backends": backends, "_device": traced.builder.device}
        self._lines: list[str] = []
        arguments = [f"s{position}" for position in range(len(free))]
        self._inputs = dict(zip(free, arguments, strict=True))
        self._batch = next((f"s{i}" for i, n in enumerate(free) if traced.inputs[n].batched), None)
        nodes = [traced.builder.node(traced.outputs[name]) for name in outputs]
        whole = [node for node in nodes if isinstance(node, Node)]
        self.reads: frozenset[str] = frozenset().union(*(node.reads for node in whole))
        self._nested = shared_sums(whole, self._free)
        self._shared = self._shared_products(whole)
        results = [self._lower(node) for node in nodes]
        body = "".join(f"    {line}\n" for line in self._lines)
        head = ", ".join([*arguments, *(f"c{i}" for i in range(len(self.constants)))])
        self.source = f"def kernel({head}):\n{body}    return ({''.join(r + ', ' for r in results)})\n"
        exec(compile(self.source, "<energynet kernel>", "exec"), self._scope)
        self.run: Callable[..., tuple[Tensor, ...]] = self._scope["kernel"]

    def bind(self, environment: Environment) -> BoundKernel:
        """The kernel with its constants."""
        return BoundKernel(self, [environment.get(node) for node in self.constants])

    def _lower(self, node: Any) -> str:
        """The expression that holds the value of ``node``; emits the lines that compute it."""
        if not isinstance(node, Node):
            if isinstance(node, (tuple, list)):
                inner = ", ".join(self._lower(item) for item in node)
                return f"[{inner}]" if isinstance(node, list) else f"({inner},)"
            return self._literal(node)
        if node not in self._names:
            self._names[node] = self._emit(node)
        return self._names[node]

    def _literal(self, value: Any) -> str:
        if isinstance(value, (int, float, bool, str, type(None))) and repr(value) not in (
            "inf",
            "-inf",
            "nan",
        ):
            return repr(value)
        name = f"k{len(self._scope)}"
        self._scope[name] = value
        return name

    def _dynamic(self, node: Node) -> bool:
        return not node.reads.isdisjoint(self._free)

    def _constant(self, node: Node) -> str:
        self.constants.append(node)
        return f"c{len(self.constants) - 1}"

    def _emit(self, node: Node) -> str:
        if node.op is Kind.BATCH_SIZE:
            if self._batch is None:
                return self._constant(node)
            return self._assign(f"{self._batch}.shape[0]")
        if node.op is Kind.INPUT and node.name in self._inputs:
            return self._inputs[node.name]
        if node.shape is not None and not self._dynamic(node):
            return self._constant(node)
        if node.op is Kind.COMBINATION:
            return self._combine(node)
        self._count(node)
        arguments = [self._lower(argument) for argument in node.args]
        arguments += [f"{key}={self._lower(value)}" for key, value in node.kwargs.items()]
        return self._assign(f"{self._function(node.op)}({', '.join(arguments)})")

    def _count(self, node: Node) -> None:
        if node.op in (aten.mm.default, aten.bmm.default):
            sizes = [n for n in (*node.args[0].shape, *node.args[1].shape[-1:]) if isinstance(n, int)]
            self.work += math.prod(sizes)

    def _function(self, op: Any) -> str:
        known = _FAST.get(op)
        return known if known is not None else self._literal(op)

    def _assign(self, expression: str) -> str:
        name = f"v{len(self._lines)}"
        self._lines.append(f"{name} = {expression}")
        return name

    def _merged(self, terms: list[tuple[float, Node]]) -> list[tuple[float, Node]]:
        """Products of one moving factor with known ones as one product: c s A + d s B = s (c A + d B)."""
        groups: dict[Any, list[tuple[float, Node]]] = {}
        rest = []
        for coefficient, term in terms:
            place = self._known_factor(term)
            if place is None:
                rest.append((coefficient, term))
            else:
                key = (term.op, place, term.args[1 - place], term.args[place].shape, term.shape)
                groups.setdefault(key, []).append((coefficient, term))
        for several in groups.values():
            rest += several if len(several) == 1 else [(1.0, self._scaled_product(several))]
        return rest

    def _known_factor(self, term: Node) -> int | None:
        """Which argument is known, of a product that nobody else needs: a matrix on the right, or units."""
        if term in self._names or term.op not in (aten.mm.default, aten.mul.Tensor):
            return None
        places = (1,) if _is_product(term) else (0, 1)
        known = [place for place in places if not self._dynamic(term.args[place])]
        return known[0] if len(known) == 1 else None

    def _scaled_product(self, terms: list[tuple[float, Node]]) -> Node:
        """A sum of products of the same moving factor with known ones, which are added once and for all."""
        first = terms[0][1]
        place = self._known_factor(first)
        assert place is not None and first.shape is not None and first.dtype is not None
        builder, factor = self._traced.builder, first.args[place]
        weights = Combination({term.args[place]: c for c, term in terms}, 0.0, factor.shape, factor.dtype)
        pair = [first.args[0], first.args[1]]
        pair[place] = builder.node(weights)
        return builder.product(first.op, pair, first.shape, first.dtype)

    def _scaled(self, coefficient: float, term: Node) -> str:
        if coefficient == 1:
            return self._lower(term)
        if self._known_factor(term) is not None:  # scale what is known
            return self._lower(self._scaled_product([(coefficient, term)]))
        if _is_product(term) and term not in self._shared and term not in self._names:
            self._count(term)  # BLAS scales for nothing; with beta=0 what is added is not read
            first, second = (self._lower(argument) for argument in term.args)
            zero = self._literal(torch.zeros((), dtype=term.dtype, device=self._scope["_device"]))
            return self._assign(f"backends.addmm({zero}, {first}, {second}, beta=0, alpha={coefficient!r})")
        total = self._lower(term)
        return self._assign(f"-{total}" if coefficient == -1 else f"{total} * {coefficient!r}")

    def _shared_products(self, outputs: Sequence[Node]) -> set[Node]:
        """Products that several nodes read: computed once, and not fused into each of the sums."""
        seen: set[Node] = set()
        read: set[Node] = set()
        shared: set[Node] = set()
        stack = list(outputs)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            for inner in {*nodes_in(self._nested.get(node, node.args)), *nodes_in(node.kwargs)}:
                if _is_product(inner) and inner in read:
                    shared.add(inner)
                read.add(inner)
                stack.append(inner)
        return shared

    def _combine(self, node: Node) -> str:
        constant, *terms = self._nested.get(node, node.args)
        known = [(c, n) for c, n in terms if not self._dynamic(n)]
        moving = self._merged([(c, n) for c, n in terms if self._dynamic(n)])
        total, ours, full = "", "", False
        if known:
            part = self._traced.builder.known_part(node, known, constant)
            total, full, constant = self._lower(part), part.shape == node.shape, 0.0
        for coefficient, term in sorted(moving, key=lambda t: _is_product(t[1])):
            alpha = "" if coefficient == 1 else f", alpha={coefficient!r}"
            fits = term.shape == node.shape  # a fused multiply-add broadcasts only what is added
            fused = _is_product(term) and fits and term not in self._shared
            if total and fused and term not in self._names:
                self._count(term)
                first, second = (self._lower(argument) for argument in term.args)
                if full and ours == total:  # nobody else has it
                    total = ours = self._assign(f"backends.addmm_({total}, {first}, {second}{alpha})")
                else:
                    total = ours = self._assign(f"backends.addmm({total}, {first}, {second}{alpha})")
            elif total:
                total = self._assign(f"torch.add({total}, {self._lower(term)}{alpha})")
            else:
                total = self._scaled(coefficient, term)
                ours = "" if total in self._names.values() else total
            full = full or term.shape == node.shape
        if constant:
            total = self._assign(f"{total} + {constant!r}")
        assert node.shape is not None
        if not full:
            batch = self._traced.builder.batch_size()
            size = self._lower([batch if n is Dim.BATCH else n for n in node.shape])
            total = self._assign(f"{total}.expand({size})")
        return total


class BoundKernel:
    """A kernel and its constants: a function of the free inputs."""

    def __init__(self, kernel: Kernel, constants: list[Any]) -> None:
        self.kernel = kernel
        self._constants = constants

    @property
    def tensors(self) -> list[Tensor]:
        """The constants that are tensors."""
        return [value for value in self._constants if isinstance(value, Tensor)]

    def __call__(self, *free: Tensor) -> tuple[Tensor, ...]:
        return self.kernel.run(*free, *self._constants)


# Spellings with less overhead than the dispatcher's own objects.
_FAST: dict[Any, str] = {
    aten.mul.Tensor: "torch.mul",
    aten.mm.default: "backends.mm",
    aten.bmm.default: "torch.bmm",
    aten.t.default: "torch.t",
    aten.tanh.default: "torch.tanh",
    aten.sigmoid.default: "torch.sigmoid",
    aten.div.Tensor: "torch.div",
    aten.unsqueeze.default: "torch.unsqueeze",
}
