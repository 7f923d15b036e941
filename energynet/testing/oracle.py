"""Independent derivatives: plain autograd of the scalar energy, sharing nothing with the core's forces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from energynet.energy import Energy
from energynet.link import Link
from energynet.state import State
from energynet.testing.report import Violation


def slope(energy: Energy, state: Mapping[str, Tensor], wrt: Sequence[str]) -> State:
    """The gradient dE/ds of the summed energy, by ``torch.autograd.grad``."""
    return slope_in_potentials(energy, state, wrt, {})


def slope_in_potentials(
    energy: Energy, point: Mapping[str, Tensor], wrt: Sequence[str], links: Mapping[str, Link]
) -> State:
    """The gradient of the summed energy by what is integrated: dE/du for u with value link(u), else dE/ds."""
    leaves = {name: point[name].detach().clone().requires_grad_() for name in wrt}
    fixed = {name: value.detach().clone() for name, value in point.items() if name not in leaves}
    with torch.enable_grad():
        whole = {**fixed, **leaves}
        state = {n: links[n].value(v) if n in links else v for n, v in whole.items()}
        found = torch.autograd.grad(
            energy.energy(**{name: state[name] for name in energy.variables}).sum(),
            list(leaves.values()),
            allow_unused=True,
            materialize_grads=True,
        )
    return dict(zip(leaves, found, strict=True))


def values_of(energy: Energy, state: Mapping[str, Tensor]) -> Tensor:
    """The energy of each sample, without a graph."""
    with torch.no_grad():
        return energy.energy(**{name: state[name].clone() for name in energy.variables})


def tolerance(dtype: torch.dtype, scale: float = 1.0) -> float:
    """What rounding may amount to, times a scale: 10 eps^(2/3), 4e-10 in float64 and 2e-4 in float32."""
    return 10 * torch.finfo(dtype).eps ** (2 / 3) * max(1.0, scale)


def agree(
    where: str, got: Tensor, expected: Tensor, hint: str, *, allowed: float | None = None, scale: float = 1.0
) -> None:
    """Raise `Violation` unless two tensors agree, entry by entry.

    Parameters
    ----------
    where
        What is compared, for the message.
    got, expected
        The tensors; NaN agrees with NaN and an infinity with itself.
    hint
        What to do if they do not.
    allowed
        The largest difference; by default `tolerance` at the scale of what is expected.
    scale
        A scale below which differences are rounding.
    """
    if got.shape != expected.shape:
        raise Violation(where, expected=f"shape {tuple(expected.shape)}", got=tuple(got.shape), hint=hint)
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    limit = tolerance(expected.dtype, max(scale, largest)) if allowed is None else allowed
    wrong = ~torch.isclose(got, expected, rtol=0.0, atol=limit, equal_nan=True)
    if not bool(wrong.any()):
        return
    # a NaN that should not be there is the worst of all differences
    difference = (got - expected).abs().nan_to_num(nan=torch.inf).masked_fill(~wrong, -1.0)
    index = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    raise Violation(
        f"{where}, entry {list(index)}",
        expected=float(expected[index]),
        got=float(got[index]),
        tolerance=limit,
        hint=hint,
    )
