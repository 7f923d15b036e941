"""Maximum likelihood of small machines, by enumeration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from energynet import exact
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.rules.base import LearningRule, Phase, require


@final
class MaximumLikelihood(LearningRule):
    """The negative log likelihood of data, and its exact gradient: both phases are enumerated.

    -log p(v) = F(v) - F, where F = -log of the sum of exp(-E) over hidden, or over all free, states. What
    contrastive divergence estimates, for machines of at most 20 free units.

    Parameters
    ----------
    energy
        Of the data and the hidden variables, all of them discrete but for what is given.
    given
        Variables that the likelihood is conditional on.

    Examples
    --------
    >>> rule = en.MaximumLikelihood(en.models.BoltzmannMachine(8))
    >>> rule(v=data).backward()
    """

    def __init__(self, energy: Energy, given: Sequence[str] = ()) -> None:
        super().__init__(energy)
        self.given = (given,) if isinstance(given, str) else tuple(given)
        for name in self.given:
            if name not in energy.variables:
                raise StateError(
                    f"MaximumLikelihood: given {name!r} is no variable of the energy; "
                    f"it has {', '.join(map(repr, energy.variables))}"
                )

    def phases(self, **data: Tensor) -> Sequence[Phase]:
        """None: the phases are sums over all states, of which `learn` takes the logarithms."""
        return ()

    def value(self, phases: Sequence[Phase]) -> Tensor:
        raise NotImplementedError("MaximumLikelihood: the value is that of evaluate(**data)")

    def evaluate(self, **data: Tensor) -> Tensor:
        require(self, data, self.given, tuple(self.energy.variables))
        if set(data) == set(self.given):
            raise StateError("MaximumLikelihood: all data are given; pass what is to be learnt as well")
        if set(data) == set(self.energy.variables):
            self.energy.check(data)
            clamped = -self.energy.energy(**data)
        else:
            clamped = exact.log_partition(self.energy, clamp=data)
        free = exact.log_partition(self.energy, clamp={name: data[name] for name in self.given})
        return (free - clamped).mean()

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        value = self.evaluate(**data)
        parameters = [p for p in self.energy.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(parameters, slopes, strict=True))
