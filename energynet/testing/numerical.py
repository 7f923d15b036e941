"""Numerical derivatives of a rule's value, by central differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from energynet.rules import LearningRule

_DIRECTIONS = 6
_STEP = 1e-4


@dataclass(frozen=True)
class Projected:
    """A gradient along some directions, and the derivative that was measured along each.

    Attributes
    ----------
    given
        Of the rule, by the inner product with each direction.
    measured
        By central differences.
    """

    given: Tensor
    measured: Tensor


def numerical(
    rule: LearningRule, data: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
) -> dict[str, Projected]:
    """The derivative of ``rule.evaluate(**data)`` along orthonormal directions of each parameter.

    Parameters
    ----------
    rule
        In float64. Its parameters are moved and put back.
    data
        What it is called with.
    gradient
        The rule's own. The first direction of each parameter is along it, the others are random.

    Returns
    -------
    dict
        For each parameter.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = dict(rule.named_parameters())
    result: dict[str, Projected] = {}
    for name, own in gradient.items():
        parameter = parameters[name]
        flat = own.double().flatten().cpu()
        directions = _orthonormal(flat, generator)
        measured = [_slope(rule, data, parameter, direction) for direction in directions]
        result[name] = Projected(directions @ flat, torch.tensor(measured, dtype=torch.float64))
    return result


def _orthonormal(first: Tensor, generator: torch.Generator) -> Tensor:
    """Rows: a vector's direction and random ones, as many as there are dimensions but not more than a few."""
    count = min(first.numel(), _DIRECTIONS)
    draw = torch.randn(first.numel(), count, generator=generator, dtype=torch.float64)
    if first.norm() > 0:
        draw[:, 0] = first / first.norm()
    return torch.linalg.qr(draw).Q.T


def _slope(
    rule: LearningRule, data: Mapping[str, Tensor], parameter: torch.nn.Parameter, direction: Tensor
) -> float:
    step = direction.reshape(parameter.shape).to(parameter)
    before = parameter.detach().clone()
    found = []
    with torch.no_grad():
        try:
            for sign in (1.0, -1.0):
                parameter.copy_(before + sign * _STEP * step)
                found.append(float(rule.evaluate(**data)))
        finally:
            parameter.copy_(before)
    return (found[0] - found[1]) / (2 * _STEP)
