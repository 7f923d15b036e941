"""Dynamic Boltzmann machines of real values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from energynet.models.dynamic import Dynamic
from energynet.models.traces import DECAYS, Delays, Traces
from energynet.variable import Real, rows


@final
class GaussianDynamicBoltzmannMachine(Dynamic):
    r"""A dynamic Boltzmann machine of real values (Dasgupta and Osogami 2017, AAAI 31:1833).

    .. math:: E(x) = \sum_j \frac{(x_j - m_j)^2}{2 \sigma_j^2}, \quad
              m_j = b_j + \sum_{ik} u_{ijk} \alpha_{ijk} - \sum_{il} v_{ijl} \beta_{ijl}
                    - \sum_{il} v_{jil} \gamma_{il},

    so that the next values, given the past, are normal, with means m and variances tau sigma^2: an
    autoregression whose parameters read whole traces. The standard deviations are learned by the same ascent,
    in their logarithms. In the paper each value in a queue has a weight of its own; here they have those of
    beta, and gamma stays.

    Parameters
    ----------
    n, delays, neural_decays, synaptic_decays, temperature, queue, generator
        As for `DynamicBoltzmannMachine`. Give `learn` a rate to the scale of the data, such as 0.01.

    Attributes
    ----------
    b, u, v, alpha, beta, gamma, traces, squares
        As for `DynamicBoltzmannMachine`.
    log_sigma
        Parameter ``(n,)``, zero at first.
    sigma_squares
        Buffer of its sums of squared gradients.
    """

    sigma_squares: Tensor

    def __init__(
        self,
        n: int,
        delays: Delays,
        neural_decays: Sequence[float] | Tensor = DECAYS,
        synaptic_decays: Sequence[float] | Tensor = DECAYS,
        *,
        temperature: float = 1.0,
        queue: str = "newest",
        generator: torch.Generator | None = None,
    ) -> None:
        traces = Traces(n, delays, neural_decays, synaptic_decays, queue)
        super().__init__(Real(n), traces, temperature, generator)
        self.log_sigma = nn.Parameter(torch.zeros(n))
        self.register_buffer("sigma_squares", torch.zeros(n))

    def energy(self, **state: Tensor) -> Tensor:
        deviation = (state["x"] - self.field()) * (-self.log_sigma).exp()
        return 0.5 * rows(deviation.square()).sum(1)

    def _gain(self) -> float:
        return 1.0

    def _score(self, field: Tensor, x: Tensor, rate: float, error: Tensor) -> None:
        precision = (-2 * self.log_sigma).exp_().div_(self.temperature)
        torch.sub(x, field, out=error)
        ratio = error.square().mul_(precision)
        torch.add(ratio, self._log_variance(), out=field)
        error.mul_(precision)
        slope = ratio.sub_(1)
        self.sigma_squares.addcmul_(slope, slope)
        norm = self.sigma_squares.sqrt().clamp_(min=torch.finfo(field.dtype).tiny)
        self.log_sigma.addcdiv_(slope, norm, value=rate)

    def _tally(self, kept: Tensor, x: Tensor) -> Tensor:
        return -0.5 * kept.sum(1)

    def _log_probability(self, fields: Tensor, x: Tensor) -> Tensor:
        precision = (-2 * self.log_sigma).exp() / self.temperature
        return self._tally((x - fields).square() * precision + self._log_variance(), x)

    def _log_variance(self) -> Tensor:
        """log(2 pi tau sigma^2)."""
        return 2 * self.log_sigma + math.log(2 * math.pi * self.temperature)

    def _draw(self, field: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(field.shape, dtype=field.dtype, device=field.device, generator=generator)
        return field + math.sqrt(temperature) * self.log_sigma.exp() * noise
