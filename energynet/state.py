"""States: tensors by the name of their variables, checked against the declarations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from energynet.errors import StateError
from energynet.variable import Unspecified, Variable

State = dict[str, Tensor]


def merge(name: str, first: Variable, second: Variable) -> Variable:
    """The declaration that two energies of one sum share.

    Raises
    ------
    StateError
        If both specify the variable, differently.
    """
    if isinstance(second, Unspecified) or first == second:
        return first
    if isinstance(first, Unspecified):
        return second
    raise StateError(
        f"variable {name!r}: one energy declares {first!r} and another {second!r}; energies that are added "
        "must declare a shared variable alike (shape, domain, time constant and link)"
    )


def merged(declarations: Iterable[Mapping[str, Variable]]) -> dict[str, Variable]:
    """The variables of a sum of energies."""
    variables: dict[str, Variable] = {}
    for declared in declarations:
        for name, variable in declared.items():
            variables[name] = merge(name, variables[name], variable) if name in variables else variable
    return variables


def check_state(
    owner: str,
    variables: Mapping[str, Variable],
    state: Mapping[str, Tensor],
    reference: Tensor | None,
    *,
    partial: bool,
) -> None:
    """Raise `StateError` unless a state fits the variables, and its values one another.

    Parameters
    ----------
    owner
        Whose variables they are, for the error.
    variables
        The declarations.
    state
        Their values.
    reference
        A tensor of the dtype and device that the values must have; None takes the first value's.
    partial
        Whether values may be missing.
    """
    check_forms(owner, variables, state, reference, partial=partial)  # first: another device shows no values
    for name, value in state.items():
        variables[name].check_values(name, value)


def check_forms(
    owner: str,
    variables: Mapping[str, Variable],
    state: Mapping[str, Tensor],
    reference: Tensor | None,
    *,
    partial: bool,
) -> None:
    """The same of names, shapes, dtypes and devices alone, whatever the values are."""
    for name in state:
        if name not in variables:
            raise StateError(
                f"{owner} has no variable {name!r}; its variables are {', '.join(map(repr, variables))}"
            )
    missing = [name for name in variables if name not in state]
    if missing and not partial:
        raise StateError(f"{owner}: no value for {', '.join(map(repr, missing))} in the state")
    for name, value in state.items():
        variables[name].check_shape(name, value)
    _check_agreement(variables, state, reference)


def _check_agreement(
    variables: Mapping[str, Variable], state: Mapping[str, Tensor], reference: Tensor | None
) -> None:
    source = "the parameters"
    first: tuple[str, int] | None = None
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
        number = value.is_floating_point() or value.is_complex()
        if not number and not isinstance(variables[name], Unspecified):
            raise StateError(
                f"variable {name!r}: expected a floating dtype such as {reference.dtype}, got {value.dtype}; "
                "convert it with .to(dtype)"
            )
        if value.device != reference.device:
            raise StateError(
                f"variable {name!r}: expected device {reference.device} as in {source}, "
                f"got {value.device}; move it with .to(device)"
            )
