"""Heteroassociative memories: pairs, which have an energy, and sequences, which have none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor, nn

from energynet.energy import Composite, Energy
from energynet.errors import StateError
from energynet.flow import Flow
from energynet.models.hopfield import checked_patterns
from energynet.recording import Recorder
from energynet.samplers import Gibbs
from energynet.settle import flow_of, relax
from energynet.solution import Solution
from energynet.solvers import Euler
from energynet.state import State
from energynet.stopping import Stationary
from energynet.terms import Bilinear, Field
from energynet.variable import Spin, rows

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class BidirectionalMemory(Composite):
    """A memory of pairs of spin patterns, each of which recalls the other.

    Kosko 1988, IEEE Trans. SMC 18:49.

    E = -y . W x - a . x - b . y; the variables are ``x`` and ``y``. All couplings are zero at first.

    Parameters
    ----------
    n, m
        Units of x and of y.

    Attributes
    ----------
    coupling
        `Bilinear` term with the parameter ``weight`` W, (m, n).
    fields
        `Field` terms of ``x`` and ``y``.
    """

    def __init__(self, n: int, m: int) -> None:
        x, y = Spin(n), Spin(m)
        super().__init__(x=x, y=y)
        self.coupling = Bilinear("x", "y", x=x, y=y)
        nn.init.zeros_(self.coupling.weight)
        self.fields = nn.ModuleDict({"x": Field(x=x), "y": Field(y=y)})

    @property
    def weight(self) -> nn.Parameter:
        """W, of shape (m, n)."""
        return self.coupling.weight

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        fields = [(1.0, field) for field in self.fields.values() if isinstance(field, Energy)]
        return ((1.0, self.coupling), *fields)

    def store(self, x: Float[Tensor, "count n"], y: Float[Tensor, "count m"]) -> Self:
        """Add pairs of rows: W += sum of y x' / sqrt(n m)."""
        with torch.no_grad():
            first = checked_patterns("store", x, self.weight)
            second = checked_patterns("store", y, self.weight.t())
            if len(first) != len(second):
                raise StateError(
                    f"store: expected as many patterns of x as of y, got {len(first)}, {len(second)}"
                )
            self.weight.add_(second.t() @ first, alpha=1 / math.sqrt(first.shape[1] * second.shape[1]))
        return self

    def recall(
        self,
        x: Float[Tensor, "batch n"] | None = None,
        y: Float[Tensor, "batch m"] | None = None,
        *,
        max_steps: int = 1000,
        record: Recorder | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Settle from a cue of x, of y, or of both.

        One side after the other, so that the energy never rises. What is not given starts where the
        other puts it.
        """
        if x is None and y is None:
            raise StateError("recall: expected a cue of x or of y")
        self.check({n: cue for n, cue in (("x", x), ("y", y)) if cue is not None}, partial=True)
        with torch.no_grad():
            fields = {name: field.bias for name, field in self.fields.items() if isinstance(field, Field)}
            if x is None and y is not None:
                x = _signs(y @ self.weight + fields["x"])
            if y is None and x is not None:
                y = _signs(x @ self.weight.t() + fields["y"])
            assert x is not None and y is not None
            solver = Gibbs(0.0, scan="block")
            flow = flow_of(self, None, {"x": x, "y": y}, solver=solver, generator=generator)
            until = Stationary(atol=0.0)
            return relax(
                flow, solver=solver, until=until, max_steps=max_steps, record=record, generator=generator
            )


def _signs(field: Tensor) -> Tensor:
    return torch.where(field >= 0, 1.0, -1.0).to(field.dtype)


@final
class SequenceFlow(Flow):
    """du/dt = -u + gain (W a + strength V p), tau dp/dt = a - p, a = tanh(u): a flow without an energy.

    V is not symmetric, so that there is no function that this flow descends, and no `EnergyFlow` is made of
    it; solvers that need an energy refuse it. The point holds ``u`` and ``p``, both (batch, n).
    """

    names = ("u", "p")

    def __init__(self, memory: SequenceMemory, cues: Float[Tensor, "batch n"]) -> None:
        self.memory = memory
        self.start: State = {"u": 3.0 * cues, "p": cues}

    def velocity(self, point: State) -> State:
        memory, value = self.memory, point["u"].tanh()
        drive = value @ memory.weight.t() + memory.strength * (point["p"] @ memory.transition.t())
        return {"u": memory.gain * drive - point["u"], "p": (value - point["p"]) / memory.delay}

    def project(self, point: State) -> State:
        return dict(point)

    def values(self, point: State) -> State:
        return {"u": point["u"].tanh(), "p": point["p"]}

    def residual(self, point: State, velocity: State) -> Tensor:
        return torch.stack([rows(v.abs()).amax(1) for v in velocity.values()]).amax(0)

    def take(self, index: Tensor) -> SequenceFlow:
        twin = SequenceFlow(self.memory, self.start["p"][index])
        twin.start = {name: value[index] for name, value in self.start.items()}
        return twin


@final
class SequenceMemory(nn.Module):
    """Patterns that follow each other (Sompolinsky and Kanter 1986, Phys. Rev. Lett. 57:2861).

    Symmetric couplings W hold each pattern; asymmetric ones V, which read a trace of the past, drive the
    network on to the next. It is no `Energy`, for it has none.

    Parameters
    ----------
    n
        Number of units.
    delay
        Time constant of the trace, in units of that of the neurons: how long each pattern lasts, about.
    strength
        Of V against W, 2 by default; above 1 the sequence goes on, below it stays.
    gain
        Of the neurons.

    Attributes
    ----------
    weight, transition
        Parameters W and V, (n, n); zero at first.
    """

    def __init__(self, n: int, delay: float = 8.0, strength: float = 2.0, gain: float = 10.0) -> None:
        super().__init__()
        for name, number in (("delay", delay), ("gain", gain)):
            if not 0 < number < math.inf:
                raise ValueError(f"SequenceMemory: {name} must be a positive number, got {number!r}")
        self.delay, self.strength, self.gain = float(delay), float(strength), float(gain)
        self.weight = nn.Parameter(torch.zeros(n, n))
        self.transition = nn.Parameter(torch.zeros(n, n))

    def store(self, sequence: Float[Tensor, "length n"], *, cyclic: bool = False) -> Self:
        """Add a sequence of spin patterns, each leading to the next; if ``cyclic``, the last to the first."""
        with torch.no_grad():
            spins = checked_patterns("store", sequence, self.weight)
            following = spins.roll(-1, 0) if cyclic else spins[1:]
            leading = spins if cyclic else spins[:-1]
            units = spins.shape[1]
            self.weight.add_((spins.t() @ spins).fill_diagonal_(0.0), alpha=1 / units)
            self.transition.add_(following.t() @ leading, alpha=1 / units)
        return self

    def flow(self, cues: Float[Tensor, "batch n"]) -> SequenceFlow:
        """The flow from cues, for any solver of flows without an energy, such as `Euler`."""
        n = len(self.weight)
        if cues.ndim != 2 or cues.shape[1] != n:
            raise StateError(
                f"SequenceMemory: expected cues of shape (batch, {n}), one row a sample, got "
                f"{tuple(cues.shape)}"
            )
        return SequenceFlow(self, cues.to(self.weight))

    def recall(
        self, cues: Float[Tensor, "batch n"], time: float, *, dt: float = 0.1
    ) -> Float[Tensor, "times batch n"]:
        """The values tanh(u) at the start and after every Euler step of ``dt``, until ``time``."""
        with torch.no_grad():
            flow, solver = self.flow(cues), Euler(dt)
            point, carry = flow.start, solver.init(flow, flow.start)
            path = [flow.values(point)["u"]]
            for _ in range(round(time / dt)):
                point, carry, _ = solver.step(flow, point, carry, None)
                path.append(flow.values(point)["u"])
        return torch.stack(path)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, delay={self.delay:g}, strength={self.strength:g}, gain={self.gain:g}"
