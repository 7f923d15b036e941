"""Energies: scalar functions of named variables, which form a vector space."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from energynet.errors import StateError
from energynet.link import Link
from energynet.variable import Unspecified, Variable, merge

if TYPE_CHECKING:
    from jaxtyping import Float

    from energynet.conditioning import Conditioned

State = dict[str, Tensor]


class Energy(nn.Module):
    """A scalar function of named variables, one number for each sample of a batch.

    A subclass declares its variables and writes `energy`; nothing else is needed. The force, the settling
    and the learning rules follow from it.

    Parameters
    ----------
    **variables
        The declaration of each argument of `energy`, by name.

    Examples
    --------
    >>> class Spring(en.Energy):
    ...     def __init__(self, n):
    ...         super().__init__(s=en.Real(n))
    ...     def energy(self, s):
    ...         return 0.5 * s.square().sum(-1)
    """

    def __init__(self, **variables: Variable) -> None:
        super().__init__()
        for name, variable in variables.items():
            if not isinstance(variable, Variable):
                raise TypeError(
                    f"{type(self).__name__}: variable {name!r} must be declared by a Variable such as "
                    f"Real(8), got {variable!r}"
                )
        self._variables = dict(variables)

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The declared variables by name."""
        return MappingProxyType(self._variables)

    def energy(self, **state: Tensor) -> Float[Tensor, "batch"]:
        """The energy of each sample; the only method that a subclass must write.

        It must treat the samples of a batch independently: sum over units, never over the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define energy({', '.join(self._variables)})")

    @final
    def forward(self, state: State) -> Float[Tensor, "batch"]:
        """Check the state, then compute the energy of each sample.

        Raises
        ------
        StateError
            If a name, shape, dtype, device or value does not fit the declared variables.
        """
        self.check(state)
        return self.energy(**state)

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """The force -dE/ds on some variables, by autograd unless a subclass has a closed form.

        Parameters
        ----------
        state
            Every variable of this energy.
        wrt
            Names of the variables to differentiate by.

        Returns
        -------
        State
            Tensors shaped like the variables, without an autograd graph.
        """
        leaves = {name: state[name].detach().requires_grad_() for name in wrt}
        fixed = {name: value.detach() for name, value in state.items() if name not in leaves}
        with torch.enable_grad():
            total = self.energy(**fixed, **leaves).sum()
            slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return {name: -slope for name, slope in zip(leaves, slopes, strict=True)}

    @final
    def condition(self, **clamp: Tensor) -> Conditioned:
        """The same energy with some variables held at a value: partial evaluation.

        What depends on the clamped values alone is computed once, when it is first needed. The result is an
        energy of the remaining variables. It holds references to the values: do not change them in place.
        """
        from energynet.conditioning import Conditioned  # it is an Energy itself

        return Conditioned(self, clamp)

    def terms(self, state: State) -> dict[str, Float[Tensor, "batch"]]:
        """The energy of each sample, split by term."""
        parts = self.parts()
        result: dict[str, Tensor] = {}
        for number, (coefficient, part) in enumerate(parts):
            name = str(part)
            value = coefficient * part.energy(**{key: state[key] for key in part.variables})
            result[name if name not in result else f"{name} #{number}"] = value
        return result

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        """The energies that this one is a weighted sum of; itself where it is not a sum."""
        return ((1.0, self),)

    @final
    def check(self, state: Mapping[str, Tensor], *, partial: bool = False) -> None:
        """Raise `StateError` unless the state fits the declared variables.

        Parameters
        ----------
        state
            Values by name.
        partial
            Whether some variables may be missing.
        """
        for name in state:
            if name not in self.variables:
                raise StateError(
                    f"{type(self).__name__} has no variable {name!r}; its variables are "
                    f"{', '.join(map(repr, self.variables))}"
                )
        missing = [name for name in self.variables if name not in state]
        if missing and not partial:
            raise StateError(f"{type(self).__name__}: no value for {', '.join(map(repr, missing))} in the state")
        for name, value in state.items():
            self.variables[name].check(name, value)
        self._check_agreement(state)
        self.check_values(state)

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        """Checks across variables, beyond each one's own; may be extended by a subclass."""

    def _check_agreement(self, state: Mapping[str, Tensor]) -> None:
        reference = next((p for p in self.parameters() if p.is_floating_point()), None)
        source = "the parameters"
        first = None
        for name, value in state.items():
            if first is None:
                first = (name, len(value))
            elif len(value) != first[1]:
                raise StateError(
                    f"variable {name!r}: expected a batch of {first[1]} as in {first[0]!r}, got {len(value)}"
                )
            if reference is None and value.is_floating_point():
                reference, source = value, f"variable {name!r}"
            if reference is None:
                continue
            if value.is_floating_point() and value.dtype != reference.dtype:
                raise StateError(
                    f"variable {name!r}: expected dtype {reference.dtype} as in {source}, got {value.dtype}; "
                    "convert the data or the model with .to(dtype)"
                )
            if not (value.is_floating_point() or value.is_complex()) and not isinstance(
                self.variables[name], Unspecified
            ):
                raise StateError(
                    f"variable {name!r}: expected a floating dtype such as {reference.dtype}, got {value.dtype}; "
                    "convert it with .to(dtype)"
                )
            if value.device != reference.device:
                raise StateError(
                    f"variable {name!r}: expected device {reference.device} as in {source}, "
                    f"got {value.device}; move it with .to(device)"
                )

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.variables)})"

    def __add__(self, other: Energy) -> Sum:
        return Sum([self, other]) if isinstance(other, Energy) else NotImplemented

    def __radd__(self, other: object) -> Energy:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # lets sum([...]) work

    def __sub__(self, other: Energy) -> Sum:
        return Sum([self, -1.0 * other]) if isinstance(other, Energy) else NotImplemented

    def __mul__(self, factor: float) -> Scaled:
        return Scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    def __rmul__(self, factor: float) -> Scaled:
        return self.__mul__(factor)

    def __neg__(self) -> Scaled:
        return Scaled(self, -1.0)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_programs", None)  # traces are made again; they cannot be pickled
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Energy:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__getstate__().items()})
        return clone


class LinkTerm(Energy):
    """A term of one variable that its link makes: its force is known from the potential, without inversion.

    Mirror flow integrates a potential u with value a = link(u). The gradient of such a term at a is written
    in u, which stays exact where the link saturates and its inverse does not.
    """

    variable: str
    link: Link | None

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        """Minus the gradient of this term with respect to the value, from the potential."""
        raise NotImplementedError


class Composite(Energy):
    """An energy that is assembled from others: a subclass says which in `parts`."""

    @final
    def energy(self, **state: Tensor) -> Tensor:
        return weighted(self.parts(), state)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        """The energies that this one is a weighted sum of."""
        raise NotImplementedError(f"{type(self).__name__} must define parts()")

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        for _, part in self.parts():
            part.check_values({name: state[name] for name in part.variables if name in state})


def merged(energies: Iterable[Energy]) -> dict[str, Variable]:
    """The variables of a sum of energies."""
    variables: dict[str, Variable] = {}
    for energy in energies:
        for name, variable in energy.variables.items():
            variables[name] = merge(name, variables[name], variable) if name in variables else variable
    return variables


@final
class Sum(Composite):
    """The sum of energies; a variable that several of them name is one variable."""

    def __init__(self, energies: Iterable[Energy]) -> None:
        energies = list(energies)
        super().__init__(**merged(energies))
        self.energies = nn.ModuleList(energies)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple(pair for energy in self.energies for pair in energy.parts())  # type: ignore[operator]


@final
class Scaled(Composite):
    """An energy times a number."""

    def __init__(self, base: Energy, factor: float) -> None:
        super().__init__(**base.variables)
        self.base = base
        self.factor = float(factor)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple((self.factor * factor, part) for factor, part in self.base.parts())


def weighted(parts: Iterable[tuple[float, Energy]], state: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of energies at a state that may hold more than each of them needs."""
    total: Tensor | None = None
    for factor, part in parts:
        value = part.energy(**{name: state[name] for name in part.variables})
        if factor != 1:
            value = factor * value
        total = value if total is None else total + value
    if total is None:
        raise ValueError("a sum of energies needs at least one")
    return total
