"""Steps of a solver under `torch.compile`: compiled once for each way to settle, kept with the traces.

A block is a number of steps, recorded as one graph of tensor operators (`energynet.recorded`) and compiled as
a whole (``fullgraph=True``). Values, also those of parameters, are its inputs, and the size of the batch is a
symbol. So there is a new one for another solver or other settings of it, for other variables that are free or
held, for other shapes and dtypes, but not for other values and, as a rule, not for another batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from energynet.errors import CompileError
from energynet.flow import EnergyFlow
from energynet.forces import TracedForces
from energynet.programs import mark, note_fallback
from energynet.recorded import SMALLEST, Recorded, record
from energynet.samplers.noise import Tape
from energynet.solvers import Solver
from energynet.solvers.carry import batched, flatten, rebuild
from energynet.state import State

_BLOCKS = 16  # kept for each energy, signature and set of free variables; the oldest goes first
_SIZES = 3  # batches of fixed size that are compiled, where the steps depend on the size of the batch
_ASTRAY = 0.1
_NOTE = "is settled by steps that could not be compiled"


@final
class Block:
    """A compiled number of steps.

    Attributes
    ----------
    recorded
        The graph, and what it reads.
    broken
        Why it cannot be run, if that has come out.
    """

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.broken: str | None = None
        # the method, not the module: each has code of its own, and torch counts what it compiles by code
        self._run: Callable[..., Sequence[Tensor]] = torch.compile(recorded.graph.forward, fullgraph=True)
        self._growing = recorded.growing()
        self._rows = [bool(dims) for dims in batched(recorded.returned)]
        self._points = len(batched(recorded.returned[1][0]))
        self._seen: set[tuple[bool, ...]] = set()

    def known(self, flow: EnergyFlow) -> list[Tensor]:
        """What the graph reads from a flow."""
        found = [(one.source(flow).detach(), one.batched) for one in self.recorded.inputs]
        return [value.contiguous() if dims else value for value, dims in found]

    def __call__(
        self, leaves: Sequence[Tensor], known: Sequence[Tensor], noise: Sequence[Tensor]
    ) -> list[Tensor]:
        """The leaves of point, carry and residual after the steps.

        Raises
        ------
        CompileError
            If torch cannot compile or run the graph.
        """
        if self.broken is not None:
            raise CompileError(self.broken)
        own = [_alone(leaf) for leaf in leaves]
        own = [leaf.contiguous() if row else leaf for leaf, row in zip(own, self._rows, strict=False)]
        inputs = [*own, *known, *noise]
        alone = len(leaves[0]) < SMALLEST and bool(self._growing)
        if alone:
            inputs = [_twice(value, dims) for value, dims in zip(inputs, self._growing, strict=True)]
        try:
            kinds = tuple(value.is_inference() for value in inputs)  # torch compiles for each
            found = list(self._run(*inputs) if kinds in self._seen else self._first(inputs))
            self._seen.add(kinds)
            return [
                value[:1] if row and alone else value for value, row in zip(found, self._rows, strict=True)
            ]
        except CompileError as error:
            self.broken = str(error)
            raise
        except Exception as error:
            self.broken = f"{type(error).__name__}: {_reason(error)}"
            raise CompileError(self.broken) from error

    def _first(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """A run that compiles."""
        for value, dims in zip(inputs, self._growing, strict=False):
            for dim in dims:
                torch._dynamo.maybe_mark_dynamic(value, dim)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch deprecates inside itself
            found = self._run(*inputs)
        self._check(found, self.recorded.graph.forward(*inputs))
        return found

    def _check(self, found: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Raise `CompileError` if the compiled code leads elsewhere: compilers have faults.

        A few samples may go astray, where rounding decides whether a proposal is accepted.
        """
        for one, other in zip(found[: self._points], right, strict=False):
            if not one.numel():
                continue
            atol = 0.01 * float(other.abs().nan_to_num(posinf=0.0).max()) + torch.finfo(one.dtype).eps ** 0.5
            near = torch.isclose(one, other, rtol=0.01, atol=atol, equal_nan=True)
            astray = 1 - float(near.reshape(len(near), -1).all(1).float().mean())
            if astray > _ASTRAY:
                raise CompileError(
                    f"compiled, they lead elsewhere in {astray:.0%} of the samples: a fault of the compiler"
                )


@final
class CompiledSteps:
    """Advances a solver by blocks that are compiled, and by plain steps where that cannot be.

    Parameters
    ----------
    solver
        What is advanced.
    length
        Steps in a block, if these are short steps; what is left over is done plainly.
    """

    def __init__(self, solver: Solver, length: int) -> None:
        self.solver = solver
        self.length = length
        self._flow: EnergyFlow | None = None
        self._block: Block | None = None
        self._known: list[Tensor] = []

    def advance(
        self, flow: EnergyFlow, point: State, carry: Any, generator: torch.Generator | None, steps: int
    ) -> tuple[State, Any, Tensor]:
        """As `Solver.advance`."""
        residual: Tensor | None = None
        while (block := self._bound(flow, point, carry)) is not None and steps >= block.recorded.steps:
            point, carry, residual = self._one(block, flow, point, carry, generator)
            steps -= block.recorded.steps
        if steps or residual is None:
            point, carry, residual = self.solver.advance(flow, point, carry, generator, steps)
        return point, carry, residual

    def _bound(self, flow: EnergyFlow, point: State, carry: Any) -> Block | None:
        """The block for a flow, with what it reads from it; None where there can be none."""
        if self._flow is not flow:  # the first block, or samples have been dropped
            self._flow, self._block = flow, None
            try:
                self._block = self._find(flow, point, carry)
                self._known = [] if self._block is None else self._block.known(flow)
            except CompileError as error:
                note_fallback(flow.conditioned.base, error, _NOTE, stacklevel=6)
        return self._block

    def _one(
        self, block: Block, flow: EnergyFlow, point: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Tensor]:
        noise = block.recorded.draw(flow.batch, generator)
        leaves, _ = flatten((point, carry))
        try:
            return rebuild(block.recorded.returned, iter(block(leaves, self._known, noise)))
        except CompileError as error:
            self._block = None
            note_fallback(flow.conditioned.base, error, _NOTE, stacklevel=6)
        tape: Any = Tape(noise)  # what has been drawn for the block
        return self.solver.advance(flow, point, carry, tape, block.recorded.steps)

    def _find(self, flow: EnergyFlow, point: State, carry: Any) -> Block | None:
        """The block for a flow; None where its forces come from autograd, of which there was a warning."""
        forces = flow.forces
        if not isinstance(forces, TracedForces):
            return None
        if torch.is_grad_enabled():
            raise CompileError("steps that gradients flow through are not compiled; use torch.no_grad()")
        kept = forces.dynamics.compiled
        variants = kept.get(self._key(flow, point, carry), ())
        if isinstance(variants, str):
            raise CompileError(variants)
        for block in variants:
            if block.recorded.fits(flow):
                return block
        return self._add(flow, point, carry, kept)

    def _add(self, flow: EnergyFlow, point: State, carry: Any, kept: dict[Hashable, Any]) -> Block:
        try:
            recorded = record(flow, self.solver, point, carry, self.length)
        except CompileError as error:
            kept[self._key(flow, point, carry)] = str(error)  # so that it is not tried at every settling
            raise
        key = self._key(flow, point, carry)  # once more: a solver may make tensors when it is first run
        variants = kept.pop(key, ())
        fixed = [block for block in variants if isinstance(block.recorded.batch, int)]
        if isinstance(recorded.batch, int) and len(fixed) >= _SIZES:
            kept[key] = variants
            raise CompileError(
                f"the steps depend on the size of the batch, and have been compiled for {_SIZES} sizes"
            )
        while len(kept) >= _BLOCKS:
            kept.pop(next(iter(kept)))
        block = Block(recorded)
        kept[key] = (*variants, block)
        return block

    def _key(self, flow: EnergyFlow, point: State, carry: Any) -> Hashable:
        """What a block is right for, besides what its graph knows itself and the traces are kept under."""
        leaves, structure = flatten((point, carry))
        rows = zip(leaves, batched(structure), strict=True)
        layout = tuple((leaf.shape[len(dims) :], leaf.dtype) for leaf, dims in rows)
        device = leaves[0].device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        held = tuple(flow.held), tuple(flow.links)
        return type(flow), held, settings(self.solver), self.length, structure, layout, cast


def settings(solver: Solver) -> Hashable:
    """What tells two solvers apart: equal for two of one class with equal numbers."""
    own = vars(solver).items()
    return type(solver), tuple((n, settings(v) if isinstance(v, Solver) else mark(v)) for n, v in own)


def _alone(value: Tensor) -> Tensor:
    """The tensor as an object of its own: which inputs are one is compiled in, and so is inference mode."""
    foreign = torch.is_inference_mode_enabled() and not value.is_inference()
    return value.clone() if foreign else value.detach()


def _twice(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    for dim in dims:
        value = torch.cat([value, value], dim)
    return value


def _reason(error: Exception) -> str:
    """The first two lines: torch names the part that failed, then says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
