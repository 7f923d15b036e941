"""Centring: the gradient of a machine whose units are told from their means."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.rules.kept import Kept
from energynet.state import State
from energynet.terms import Bilinear, Coupling, Field
from energynet.variable import rows


@final
class Centring(nn.Module):
    """Turns the gradient of an energy into that of a centred one, whose pairs are (s - offset)(s' - offset').

    The two energies have the same laws: with offsets o the biases are b - W o. The gradient in the parameters
    of the centred one, told in those of the other, is another direction of descent, which does not change
    when data are flipped, and is better conditioned (Melchior, Fischer and Wiskott 2016, eq. 14 to 16).

    Parameters
    ----------
    energy
        With terms `Bilinear` or `Coupling`, and `Field` for the variables that these couple.
    rate
        At which offsets follow the means of the clamped phase, from 0 to 1; they begin as those of the first.

    Raises
    ------
    ValueError
        If the rate is none, or no variable that is coupled has a field.
    """

    def __init__(self, energy: Energy, rate: float) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"centring: expected a rate above 0, up to 1, or 0 for none, got {rate!r}")
        self.rate = rate
        self.offsets = Kept()
        parts = energy.parts()
        names = {parameter: name for name, parameter in energy.named_parameters()}
        self._fields = {
            part.variable: (factor, names[part.bias])
            for factor, part in parts
            if isinstance(part, Field) and part.bias.requires_grad
        }
        self._pairs = [
            (factor, names[part.weight], part)
            for factor, part in parts
            if isinstance(part, Bilinear | Coupling) and part.weight.requires_grad
        ]
        if not any(name in self._fields for _, _, part in self._pairs for name in part.variables):
            raise ValueError(
                "centring: offsets are made up for by the biases of Bilinear and Coupling terms, but no "
                "variable of such a term has a Field"
            )

    def forward(self, gradient: dict[str, Tensor], clamped: State) -> None:
        """Change a gradient, by name of the parameter, in place; offsets follow the clamped phase."""
        self._follow(clamped)
        offsets = self.offsets.get()
        plain = {name: gradient[bias].reshape(-1) / factor for name, (factor, bias) in self._fields.items()}
        for factor, weight, part in self._pairs:
            o, g = (_all(part, known, clamped) for known in (offsets, plain))
            if isinstance(part, Bilinear):
                source, target = part.source, part.target
                gradient[weight] = torch.addr(gradient[weight], o[target], g[source], alpha=-factor)
                gradient[weight].addr_(g[target], o[source], alpha=-factor)
            else:
                change = torch.outer(torch.cat(list(o.values())), torch.cat(list(g.values())))
                change = (0.5 * (change + change.t())).fill_diagonal_(0.0)
                change = change if part.mask is None else change * part.mask
                gradient[weight] = gradient[weight] - factor * change
        for factor, weight, part in self._pairs:
            o, slope = _all(part, offsets, clamped), gradient[weight]
            if isinstance(part, Bilinear):
                moved = {part.source: slope.t() @ o[part.target], part.target: slope @ o[part.source]}
            else:
                sizes = [len(value) for value in o.values()]
                moved = dict(zip(o, (slope @ torch.cat(list(o.values()))).split(sizes), strict=True))
            for name, change in moved.items():
                if name in self._fields:
                    field, bias = self._fields[name]
                    gradient[bias] = gradient[bias] - (factor / field) * change.reshape(gradient[bias].shape)

    def _follow(self, clamped: State) -> None:
        known = self.offsets.get(next(iter(clamped.values())).device)
        found: State = {}
        for name in self._fields:
            mean = rows(clamped[name]).mean(0)
            found[name] = torch.lerp(known[name], mean, self.rate) if name in known else mean
        self.offsets.put(found)


def _all(part: Energy, known: State, like: State) -> State:
    """One vector for each variable of a term; zeros where nothing is known."""
    return {
        name: known[name] if name in known else torch.zeros_like(rows(like[name])[0])
        for name in part.variables
    }
