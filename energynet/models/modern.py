"""Modern Hopfield networks of real units, whose one-step update is attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.flow import Clamp
from energynet.link import Softmax
from energynet.models.hierarchical import HierarchicalMemory
from energynet.models.hopfield import recalled
from energynet.recording import Recorder
from energynet.solution import Solution
from energynet.solvers import Euler, Solver
from energynet.variable import Real, Unit, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from energynet.state import State


@final
class ModernHopfield(Energy):
    r"""A memory of real vectors (Ramsauer et al. 2021, ICLR, eq. 2).

    .. math:: E = -\tfrac1\beta \log \sum_\mu e^{\beta x_\mu \cdot s} + \tfrac12 s \cdot s
                  + \tfrac1\beta \log N + \tfrac12 M^2

    with N patterns, the longest of length M, so that E is not negative. A step of gradient flow of length 1
    is the concave-convex update, s <- softmax(beta s X') X, under which E never rises: attention with
    queries s and the patterns as keys and values.

    Parameters
    ----------
    patterns
        Real vectors, (count, n).
    beta
        Inverse temperature of the softmax, positive; 1 / sqrt(n) by default, as in attention.

    Attributes
    ----------
    patterns
        Parameter of shape (count, n).
    """

    def __init__(self, patterns: Float[Tensor, "count n"], beta: float | None = None) -> None:
        if not isinstance(patterns, Tensor):
            raise StateError(
                f"ModernHopfield: expected a tensor of patterns, (count, n), got {type(patterns).__name__}; "
                "it is made of what it stores"
            )
        if patterns.ndim != 2 or not patterns.is_floating_point():
            raise StateError(
                "ModernHopfield: expected real patterns of shape (count, n), got "
                f"{patterns.dtype} of shape {tuple(patterns.shape)}"
            )
        super().__init__(s=Real(patterns.shape[1]))
        self.beta = float(patterns.shape[1] ** -0.5 if beta is None else beta)
        if not 0 < self.beta < math.inf:
            raise ValueError(f"ModernHopfield: beta must be a positive number, got {beta!r}")
        self.patterns = nn.Parameter(patterns.detach().clone())

    def energy(self, **state: Tensor) -> Tensor:
        s = state["s"]
        match = (self.beta * (s @ self.patterns.t())).logsumexp(1) / self.beta
        longest = self.patterns.square().sum(1).amax()
        constant = math.log(len(self.patterns)) / self.beta + 0.5 * longest
        return 0.5 * rows(s).square().sum(1) - match + constant

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """What attention gives, less the state."""
        force = self.attend(state["s"]) - state["s"]
        return dict.fromkeys(wrt, force)

    def attend(self, queries: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """The concave-convex update: softmax(beta queries X') X."""
        return (self.beta * (queries @ self.patterns.t())).softmax(1) @ self.patterns

    def hierarchical(self) -> HierarchicalMemory:
        """The same network with its memory neurons kept: layers ``s`` and ``h``.

        Its energy at the best ``h`` is this one, less the constant (Krotov and Hopfield 2021, ICLR, model B).
        """
        count, n = self.patterns.shape
        layers = {"s": Real(n), "h": Unit(count, link=Softmax(self.beta))}
        model = HierarchicalMemory(layers, {("s", "h"): None}).to(self.patterns)
        model.synapses.load_state_dict({"s_h.weight": self.patterns.detach()})
        return model

    def recall(
        self,
        cues: Float[Tensor, "batch n"],
        *,
        solver: Solver | None = None,
        clamp: Clamp | None = None,
        max_steps: int = 1000,
        record: Recorder | None = None,
    ) -> Solution:
        """Settle from cues: concave-convex updates, which are `Euler` steps of 1, unless a solver is given.

        ``max_steps=1`` is one layer of attention. Further arguments as in `settle`.
        """
        solver = Euler(1.0) if solver is None else solver
        return recalled(self, cues, solver, clamp=clamp, max_steps=max_steps, record=record)
