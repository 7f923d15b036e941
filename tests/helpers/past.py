"""The traces of a dynamic Boltzmann machine by their definition, as sums over the whole past."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

WEIGHTS = {
    "newest": lambda mu, age, delay: mu**age,
    "oldest": lambda mu, age, delay: mu ** (delay - age),
    "program": lambda mu, age, delay: mu ** -(delay - age),
    "printed": lambda mu, age, delay: mu**-age,
}


def alpha(past: Sequence[Sequence[float]], i: int, d: int, decay: float) -> float:
    """What has arrived from i over an axon of delay d, for the tick after the past."""
    t = len(past)
    return sum(decay ** (t - s - d + 1) * past[s][i] for s in range(t) if s <= t - d)


def beta(past: Sequence[Sequence[float]], i: int, d: int, decay: float, queue: str) -> float:
    """What is on its way from i over an axon of delay d."""
    t = len(past)
    return sum(WEIGHTS[queue](decay, t - s, d) * past[s][i] for s in range(t) if t - d + 1 <= s <= t - 1)


def gamma(past: Sequence[Sequence[float]], i: int, decay: float) -> float:
    """All spikes of i, the newest most."""
    t = len(past)
    return sum(decay ** (t - s) * past[s][i] for s in range(t))


def field(
    past: Sequence[Sequence[float]],
    delays: Sequence[Sequence[int]],
    synaptic: Sequence[float],
    neural: Sequence[float],
    queue: str,
    b: Tensor,
    u: Tensor,
    v: Tensor,
) -> list[Tensor]:
    """What is in the bracket of the energy, for each neuron j, times minus one."""
    n = len(delays)
    fields = []
    for j in range(n):
        total = b[j]
        for i in range(n):
            for k, decay in enumerate(synaptic):
                total = total + u[i, j, k] * alpha(past, i, delays[i][j], decay)
            for m, decay in enumerate(neural):
                total = total - v[i, j, m] * beta(past, i, delays[i][j], decay, queue)
                total = total - v[j, i, m] * gamma(past, i, decay)
        fields.append(total)
    return fields
