"""Fields on discrete units by the energies of other values, where no force tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynet.forces import Forces
from energynet.overlaps import FeatureEnergy
from energynet.state import State
from energynet.units import Listed, Pair
from energynet.variable import rows

if TYPE_CHECKING:
    from jaxtyping import Float

_FEATURES = 2**22  # features that are held at once
_REPLICAS = 2**20  # entries of the states whose energies are evaluated at once


def by_features(
    factor: float, part: FeatureEnergy, units: Pair, value: Tensor
) -> Float[Tensor, batch * shape]:
    """The fields by the changes of features, of as many units at once as fit."""
    entries = rows(value)
    directions = part.directions()
    features = entries @ directions.t()
    other = 2 * (units.middle - entries)
    most = max(1, _FEATURES // max(1, features.numel()))
    then = [
        part.of_features(features.unsqueeze(1) + step.unsqueeze(2) * change)
        for step, change in zip(other.split(most, 1), directions.t().split(most), strict=True)
    ]
    gained = factor * (torch.cat(then, 1) - part.of_features(features).unsqueeze(1))
    return torch.where(other < 0, gained, -gained).reshape(value.shape)


def by_energies(forces: Forces, units: Listed, name: str, point: State) -> Float[Tensor, batch * shape]:
    """The fields by the energies of both values of each unit, or of every choice, as many at once as fit.

    Those of a choice are relative to its first one.
    """
    value = point[name]
    batch, count = len(value), units.count
    entries = units.entries
    alternatives = value.new_tensor(units.alternatives)
    most = max(1, _REPLICAS // max(1, sum(other.numel() for other in point.values())))
    found: list[Tensor] = []
    wide = None
    for first in range(0, count, most):
        here = range(first, min(count, first + most))
        which = torch.arange(batch, device=value.device).repeat(len(here))
        if wide is None or len(which) != batch * most:
            wide = forces.take(which)
        copies = {n: v.index_select(0, which) for n, v in point.items()}
        places = torch.arange(here.start, here.stop, device=value.device).repeat_interleave(batch)
        index = places.unsqueeze(1) * entries + torch.arange(entries, device=value.device)
        energies = []
        for entry in alternatives:
            changed = rows(copies[name]).scatter(1, index, entry.expand(len(which), -1))
            energies.append(wide.energy({**copies, name: changed.reshape(copies[name].shape)}))
        fields = torch.stack([energies[0] - energy for energy in energies], 1)
        if entries == 1:
            fields = fields[:, 1:]
        found.append(fields.reshape(len(here), batch, -1).transpose(0, 1).reshape(batch, -1))
    return torch.cat(found, 1).reshape(value.shape)
