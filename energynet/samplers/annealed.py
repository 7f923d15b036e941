"""Annealing: a sampler whose temperature follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.energy import Energy
from energynet.flow import EnergyFlow, Flow
from energynet.samplers.base import Sampler
from energynet.solvers import Solver
from energynet.state import State
from energynet.stopping import Never, Until

if TYPE_CHECKING:
    from jaxtyping import Float

Schedule = Sequence[float] | Tensor | Callable[[Tensor], Tensor]

_LOOKED_AT = 100  # steps of a callable schedule that are checked before the first


@final
class Annealed(Solver):
    """Any sampler under a schedule of temperatures (Kirkpatrick, Gelatt and Vecchi 1983, Science 220:671).

    Parameters
    ----------
    solver
        A sampler; its own temperature is not used.
    schedule
        Temperatures, one for each step, of which the last one holds after the end: numbers from 0 up, such as
        `geometric` and `linear` make. Or a function from the numbers of steps that are done, an int64 tensor
        ``(batch,)``, to temperatures ``(batch,)``.

    Raises
    ------
    TypeError
        If the solver is not a sampler, and so has no temperature.
    ValueError
        If a temperature is negative, infinite or NaN. Those of a function are looked at for its first 100
        steps, when settling begins.

    Examples
    --------
    >>> solver = en.Annealed(en.Gibbs(), en.samplers.geometric(5.0, 0.05, 200))
    >>> en.settle(model, solver=solver, max_steps=200, generator=generator)
    """

    def __init__(self, solver: Solver, schedule: Schedule) -> None:
        self.solver = sampler(self, solver)
        self.schedule: Callable[[Tensor], Tensor] | None = None
        self.temperatures: tuple[float, ...] = ()
        if callable(schedule):
            self.schedule = schedule
        else:
            self.temperatures = _numbers(schedule)
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> EnergyFlow:
        return self.solver.flow(energy, clamp, state, generator=generator, differentiable=differentiable)

    def until(self) -> Until:
        """Never, whatever the sampler says at its own temperature."""
        return Never()

    def init(self, flow: Flow, state: State) -> Any:
        like = next(iter(state.values()))
        done = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        if self.schedule is not None:
            _look(self.schedule, like.device)
        return {"done": done, "solver": self.solver.init(flow, state)}

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        temperature = self._temperature(carry["done"], next(iter(state.values())))
        state, inner, residual = self.solver.sample(flow, state, carry["solver"], generator, temperature)
        return state, {"done": carry["done"] + 1, "solver": inner}, residual

    def statistics(self, carry: Any) -> dict[str, Float[Tensor, batch]]:
        return self.solver.statistics(carry["solver"])

    def _temperature(self, done: Tensor, like: Tensor) -> Tensor:
        if self.schedule is not None:
            return self.schedule(done).to(like.dtype)
        key = like.dtype, like.device
        if key not in self._tables:  # a copy to a device waits for it, so there is one for each
            self._tables[key] = torch.tensor(self.temperatures, dtype=like.dtype, device=like.device)
        return self._tables[key][done.clamp(max=len(self.temperatures) - 1)]


def sampler(owner: Solver, solver: Solver) -> Sampler:
    """The solver, if it is a sampler, whose temperature another can set; else `TypeError`."""
    if not isinstance(solver, Sampler):
        raise TypeError(
            f"{type(owner).__name__} sets the temperature of a sampler such as Langevin or Gibbs; "
            f"{solver!r} is no Sampler, so it has no temperature to set"
        )
    return solver


def geometric(start: float, end: float, steps: int) -> tuple[float, ...]:
    """Temperatures from ``start`` to ``end``, each the same factor from the one before.

    Parameters
    ----------
    start, end
        Positive.
    steps
        How many, at least 2.
    """
    if not (0 < start < math.inf and 0 < end < math.inf):
        raise ValueError(
            f"geometric: temperatures are positive numbers, got {start!r} and {end!r}; linear may end at 0"
        )
    return tuple(start * (end / start) ** way for way in _ways("geometric", steps))


def linear(start: float, end: float, steps: int) -> tuple[float, ...]:
    """Temperatures from ``start`` to ``end`` in equal steps.

    Parameters
    ----------
    start, end
        From 0 up.
    steps
        How many, at least 2.
    """
    return _numbers([start * (1 - way) + end * way for way in _ways("linear", steps)])


def _ways(name: str, steps: int) -> list[float]:
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"{name}: a schedule has at least 2 steps, got {steps!r}")
    return [step / (steps - 1) for step in range(steps)]


def _numbers(schedule: Sequence[float] | Tensor) -> tuple[float, ...]:
    values = torch.as_tensor(schedule, dtype=torch.float64).tolist()
    if not isinstance(values, list) or not values or not all(isinstance(value, float) for value in values):
        raise ValueError(
            f"Annealed: a schedule is a sequence of at least one number, got {values!r}; or give a function"
        )
    for step, value in enumerate(values):
        if not 0 <= value < math.inf:
            raise ValueError(
                f"Annealed: a temperature is a finite number from 0 up, got {value!r} at step {step}"
            )
    return tuple(values)


def _look(schedule: Callable[[Tensor], Tensor], device: torch.device) -> None:
    found = schedule(torch.arange(_LOOKED_AT, device=device))
    if not isinstance(found, Tensor) or found.shape != (_LOOKED_AT,):
        came = tuple(found.shape) if isinstance(found, Tensor) else found
        raise ValueError(
            "Annealed: a schedule is a function from the numbers of steps, (batch,), to temperatures, "
            f"(batch,); for {_LOOKED_AT} numbers of steps it gave {came!r}"
        )
    _numbers(found)
