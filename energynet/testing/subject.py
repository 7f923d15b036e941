"""What a law is checked on: a copy of the model, in one dtype, and ways to draw states of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.solvers import BlockDescent, Proximal, Solver
from energynet.state import State
from energynet.testing.oracle import slope
from energynet.testing.report import NotApplicable
from energynet.testing.strategies import declarations, states
from energynet.variable import Continuous, Unspecified, Variable

_INTERNAL = {"_parameters", "_buffers", "_modules", "_variables", "_environment", "_programs", "_prepared"}


@dataclass
class Subject:
    """A model under test.

    Attributes
    ----------
    model
        A copy that nobody else holds; laws that change it make their own.
    dtype
        Of its states.
    declare
        Declarations of variables that the energy leaves unspecified.
    compared
        How many comparisons the current law has made.
    """

    model: Energy
    dtype: torch.dtype
    declare: Mapping[str, Variable] | None = None
    compared: int = 0

    @classmethod
    def of(cls, model: Energy, dtype: torch.dtype, declare: Mapping[str, Variable] | None = None) -> Subject:
        """The subject of a model, which stays as it is."""
        return cls(converted(model, dtype), dtype, declare)

    @property
    def declared(self) -> dict[str, Variable]:
        """Its variables, what the energy leaves unspecified replaced where it is known."""
        return declarations(self.model, self.declare)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def moving(self) -> list[str]:
        """Variables that an ODE can move."""
        return [name for name, v in self.model.variables.items() if isinstance(v, Continuous)]

    @property
    def smooth(self) -> list[str]:
        """Variables that have a force: those an ODE can move, and targets."""
        return [name for name, v in self.declared.items() if isinstance(v, Continuous)]

    def require_shapes(self) -> None:
        """Raise `NotApplicable` if a variable has no shape."""
        for name, variable in self.declared.items():
            if isinstance(variable, Unspecified):
                raise NotApplicable(
                    f"variable {name!r} has no shape of its own; check the sum with an energy that declares "
                    "it, or pass declare={...}"
                )

    def require_smooth(self) -> None:
        if not self.smooth:
            raise NotApplicable("all variables are discrete, so there is no force")

    def require_moving(self) -> None:
        if not self.moving:
            raise NotApplicable("no variable is continuous, so nothing settles by an ODE")

    def state(self, data: st.DataObject, batch: int | None = None) -> State:
        """A state of the model, inside the domains."""
        strategy = states(self.model, batch, dtype=self.dtype, device=self.device, declare=self.declare)
        return data.draw(strategy, label="state")

    def problem(self, data: st.DataObject) -> tuple[State, State]:
        """A start and a clamp. All that can settle is free in every other example, else all but one.

        Variables without bounds that nothing pulls back, such as the input of a network, stay clamped.
        """
        state = self.state(data)
        free = [name for name in self.moving if self._restored(name, state)] or self.moving
        if len(free) > 1 and data.draw(st.booleans(), label="clamp one more"):
            held = data.draw(st.sampled_from(free), label="clamped")
            free = [name for name in free if name != held]
        start = {name: state[name] for name in free}
        return start, {name: value for name, value in state.items() if name not in start}

    def settler(self, start: State, clamp: State) -> tuple[Solver, EnergyFlow]:
        """A solver that can move what is free, `Proximal` where a term has a kink, and its flow."""
        try:
            return BlockDescent(), BlockDescent().flow(self.model, clamp, start)
        except SettlingError:
            try:
                return Proximal(), Proximal().flow(self.model, clamp, start)
            except SettlingError as error:
                raise NotApplicable(str(error)) from error

    def _restored(self, name: str, state: State) -> bool:
        variable = self.model.variables[name]
        if not isinstance(variable, Continuous) or variable.bounded or variable.link is not None:
            return True
        # a restoring force grows with the distance
        far = [slope(self.model, {**state, name: state[name] + shift}, [name])[name] for shift in (-9.0, 9.0)]
        return float((far[1] - far[0]).sum()) > 0

    def free(self, data: st.DataObject, names: Sequence[str]) -> list[str]:
        """Some of the names, one at least."""
        chosen = data.draw(
            st.lists(st.sampled_from(list(names)), unique=True, min_size=1), label="free variables"
        )
        return [name for name in names if name in chosen]


def converted(model: Energy, dtype: torch.dtype) -> Energy:
    """A deep copy in a dtype, without gradients; plain tensor attributes are converted as well."""
    clone = copy.deepcopy(model).to(dtype)
    for holder, key, value in hidden_tensors(clone):
        if value.is_floating_point():
            put(holder, key, value.detach().to(dtype).requires_grad_(value.requires_grad))
    for parameter in clone.parameters():
        parameter.grad = None
    return clone


def hidden_tensors(module: nn.Module) -> Iterator[tuple[Any, Any, Tensor]]:
    """Tensors that are attributes but neither parameters nor buffers: holder, key and tensor.

    The holder is the submodule, or a list or dict that is an attribute of it.
    """
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name in _INTERNAL:
                continue
            if isinstance(value, Tensor):
                yield part, name, value
            elif isinstance(value, (list, dict)):
                pairs = enumerate(value) if isinstance(value, list) else list(value.items())
                yield from ((value, key, entry) for key, entry in pairs if isinstance(entry, Tensor))


def put(holder: Any, key: Any, value: Tensor) -> None:
    """Replace what `hidden_tensors` found."""
    if isinstance(holder, nn.Module):
        setattr(holder, key, value)
    else:
        holder[key] = value
