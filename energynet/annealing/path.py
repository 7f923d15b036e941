"""Paths from one energy to another: the law exp(-((1 - b) base + b target)) for b from 0 to 1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import final

from torch import Tensor

from energynet.annealing.tractable import Tractable
from energynet.energy import Energy
from energynet.state import merged
from energynet.variable import Real

MIXTURE = "mixture"


class Path(Energy):
    """Two energies, mixed by a variable, so that one trace serves every place on the path.

    Parameters
    ----------
    base, target
        Where the path starts and ends.
    numbers
        How many make the mixture.
    """

    gap: tuple[float, ...]  # the mixture at which the energy is target - base

    def __init__(self, base: Tractable, target: Energy, numbers: int) -> None:
        if MIXTURE in target.variables or MIXTURE in base.variables:
            raise ValueError(f"{MIXTURE!r} is the name of the place on the path; call the variable otherwise")
        variables = merged([target.variables, base.variables])
        super().__init__(**variables, **{MIXTURE: Real(numbers)})
        self.base, self.target = base, target

    @abstractmethod
    def place(self, beta: float) -> tuple[tuple[float, ...], float]:
        """The mixture, and the temperature, of the law at a place; ``beta`` is above 0."""

    def energies(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of base and target."""
        base, target = (
            part.energy(**{name: state[name] for name in part.variables}) for part in (self.base, self.target)
        )
        return base, target

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        for part in (self.base, self.target):
            part.check_values({name: state[name] for name in part.variables if name in state})


@final
class Mixed(Path):
    """(1 - b) base + b target at T = 1: steps keep their size, whatever b is; for continuous variables."""

    gap = (-1.0, 1.0)

    def __init__(self, base: Tractable, target: Energy) -> None:
        super().__init__(base, target, 2)

    def place(self, beta: float) -> tuple[tuple[float, ...], float]:
        return (1 - beta, beta), 1.0

    def energy(self, **state: Tensor) -> Tensor:
        base, target = self.energies(state)
        return state[MIXTURE][:, 0] * base + state[MIXTURE][:, 1] * target


@final
class Tilted(Path):
    """(1 - b) / b base + target at T = 1 / b: the couplings of units do not change along the path."""

    gap = (-1.0,)

    def __init__(self, base: Tractable, target: Energy) -> None:
        super().__init__(base, target, 1)

    def place(self, beta: float) -> tuple[tuple[float, ...], float]:
        return ((1 - beta) / beta,), 1 / beta

    def energy(self, **state: Tensor) -> Tensor:
        base, target = self.energies(state)
        return state[MIXTURE][:, 0] * base + target
