"""The traces and kernels of one module, for one signature of its inputs, made when they are asked for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from energynet.errors import TraceError
from energynet.trace.capture import Function, Recording, Spec, Traced
from energynet.trace.graph import Builder, Combination, Node
from energynet.trace.kernel import Kernel


class Program:
    """Functions of the same inputs, traced into one graph.

    What two of them have in common is one node of the graph, and so computed once for both when it
    depends on known inputs alone.

    Parameters
    ----------
    module
        Whose parameters the functions use.
    inputs
        The inputs that the functions may take.

    Attributes
    ----------
    facts
        What callers have found out about the traces, by a key of theirs.
    """

    def __init__(self, module: torch.nn.Module, inputs: Mapping[str, Spec]) -> None:
        self._module = module
        self._inputs = dict(inputs)
        self._builder = Builder(next(iter(inputs.values())).device)
        self._recordings: dict[Hashable, Recording] = {}
        self._traced: dict[Hashable, Traced] = {}
        self._kernels: dict[Hashable, Kernel] = {}
        self._failures: dict[Hashable, str] = {}
        self.facts: dict[Hashable, Any] = {}

    def traced(
        self,
        key: Hashable,
        function: Function,
        zero: Sequence[str] = (),
        more: Mapping[str, Spec] | None = None,
    ) -> Traced:
        """The graph of ``function``, which ``key`` identifies, with the inputs in ``zero`` set to zero.

        ``more`` are inputs that this function has besides those of the program.
        """
        if (key, tuple(zero)) not in self._traced:
            if key in self._failures:  # so that falling back does not cost an attempt at every settling
                raise TraceError(self._failures[key])
            try:
                if key not in self._recordings:
                    self._recordings[key] = Recording(
                        self._module, function, {**self._inputs, **(more or {})}
                    )
                constant = dict.fromkeys(zero, 0.0)
                self._traced[key, tuple(zero)] = self._recordings[key].build(self._builder, constant)
            except TraceError as error:
                self._failures[key] = str(error)
                raise
        return self._traced[key, tuple(zero)]

    def spec(self, name: str) -> Spec:
        """What an input looks like."""
        return self._inputs[name]

    def node(self, value: Combination) -> Node:
        """The node of a combination."""
        return self._builder.node(value)

    def kernel(
        self,
        key: Hashable,
        function: Function,
        outputs: Sequence[str],
        free: Sequence[str],
        zero: Sequence[str] = (),
        more: Mapping[str, Spec] | None = None,
    ) -> Kernel:
        """Code for some outputs of ``function``, as a function of the inputs in ``free``."""
        whole = (key, tuple(outputs), tuple(free), tuple(zero))
        if whole not in self._kernels:
            self._kernels[whole] = Kernel(self.traced(key, function, zero, more), outputs, free)
        return self._kernels[whole]
