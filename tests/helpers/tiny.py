"""The model of the design document's example."""

from __future__ import annotations

from torch import Tensor, nn

import energynet as en


class Tiny(en.Energy):
    """E = |h|^2/2 + |y|^2/2 - rho(h).W1 x - rho(y).W2 rho(h), rho = tanh."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__(x=en.Real(n_in), h=en.Real(n_hidden), y=en.Real(n_out))
        self.first, self.second = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)

    def energy(self, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        leak = 0.5 * h.square().sum(-1) + 0.5 * y.square().sum(-1)
        return leak - (h.tanh() * self.first(x)).sum(-1) - (y.tanh() * self.second(h.tanh())).sum(-1)
