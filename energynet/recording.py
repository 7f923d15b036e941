"""Trajectories: what is evaluated of the states along the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from energynet.flow import EnergyFlow
from energynet.state import State

Recorder = str | Callable[[State], Any] | Mapping[str, Callable[[State], Any]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All samples at one time: a point of a flow."""

    flow: EnergyFlow
    point: State

    @cached_property
    def state(self) -> State:
        return {**self.flow.conditioned.clamp, **self.flow.values(self.point)}


class Recording:
    """Evaluates what is recorded."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._found: list[Any] = []

    def add(self, snapshot: Snapshot) -> None:
        record = self._record
        if record == "energy":
            value: Any = snapshot.flow.energy(snapshot.point)
        elif record == "residual":
            value = snapshot.flow.residual(snapshot.point, snapshot.flow.velocity(snapshot.point))
        elif record == "state":
            value = snapshot.state
        elif isinstance(record, Mapping):
            value = {name: function(snapshot.state) for name, function in record.items()}
        elif callable(record):
            value = record(snapshot.state)
        else:
            raise ValueError(
                "settle: record must be 'energy', 'residual', 'state', a function of the state or a dict of "
                f"functions, got {record!r}"
            )
        self._found.append(value)

    def stacked(self) -> Any:
        first = self._found[0]
        if isinstance(first, dict):
            return {key: torch.stack([found[key] for found in self._found]) for key in first}
        return torch.stack(self._found) if isinstance(first, Tensor) else self._found
