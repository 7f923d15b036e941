"""Samplers: the solver protocol, with noise and a temperature."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.flow import Flow
from energynet.solvers import Solver
from energynet.state import State
from energynet.stopping import Never, Until

if TYPE_CHECKING:
    from jaxtyping import Float

Temperature = float | Tensor


class Sampler(Solver):
    """Moves states towards the distribution exp(-E / T), each sample of the batch a chain of its own.

    Parameters
    ----------
    temperature
        T: one number, 1 by default.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
            raise ValueError(
                f"{type(self).__name__}: temperature must be a number from 0 up, got {temperature!r}"
            )
        self.temperature = float(temperature)

    def until(self) -> Until:
        """Never: a chain runs for ``max_steps``."""
        return Never()

    @final
    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        return self.sample(flow, state, carry, generator, self.temperature)

    @abstractmethod
    def sample(
        self,
        flow: Flow,
        state: State,
        carry: Any,
        generator: torch.Generator | None,
        temperature: Temperature,
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        """One step at some temperature: a number, or one for each sample, ``(batch,)``."""

    def moved(self, carry: Any, ratio: Float[Tensor, batch]) -> Any:
        """The carry of states that are given to another temperature, ``ratio`` times theirs.

        What a carry knows of its state goes with the state, and by default the carry stays as it is. A
        momentum, whose law depends on the temperature, must be scaled by the root of the ratio.
        """
        return carry
