"""What a dynamic Boltzmann machine keeps of its past: queues of spikes and eligibility traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Delays = int | Sequence[Sequence[int]] | Tensor

DECAYS = (0.25, 0.5, 0.75)
"""The authors' decays, of both kinds of traces."""

QUEUES = {"newest": (1, 0), "oldest": (0, 1), "program": (0, -1), "printed": (-1, 0)}
"""The power of mu that weighs a spike in beta: so many times its age, and the ticks until it arrives."""


class Maps(NamedTuple):
    """From the past of each neuron to the features of each axon; the settings of `Traces` tell all of it.

    Attributes
    ----------
    sources
        From the last D values of a neuron, oldest first, its settled traces, and 1 for a bias, to what
        axons from it read, at each delay, the longest first: ``(D + K + L + 1, D (K + L))``.
    targets
        From the same to what the axons that end at it read: ``(D + K + L + 1, K + L)``.
    readers
        The row of `Window.sources` that each axon reads, and each bias after them.
    """

    sources: Tensor
    targets: Tensor
    readers: Int[Tensor, " axons"]


class Window(NamedTuple):
    """The features of each tick of a stretch, and what the stretch leaves.

    Attributes
    ----------
    sources
        What the parameters of an axon from i with delay d weigh in the field of its target, in row
        (i + 1) D - d of each tick, ``(ticks, (n + 1) D, K + L)``: the synaptic traces alpha, then -beta. The
        last D rows are those of a bias, (1, 0, ..., 0). `Traces.axons` deals them out to the axons.
    targets
        What the parameters of axon (i, j) weigh in the field of i, flat, ``(ticks, n (K + L))``: for each j K
        zeros, then -gamma[j].
    queue, settled
        The state of `Traces` after the stretch.
    """

    sources: Float[Tensor, "ticks rows traces"]
    targets: Float[Tensor, "ticks traces"]
    queue: Tensor
    settled: Tensor

    def scaled(self, factor: float) -> Window:
        """The same with features times a number."""
        return self._replace(sources=self.sources * factor, targets=self.targets * factor)


@final
class Traces(nn.Module):
    r"""The queues and the traces of n neurons, whatever they spike.

    A value x_i[s] is in the queue of axon (i, j) for d_ij - 1 ticks, and then enters its synaptic traces.
    With t the next tick and sums over the whole past,

    .. math:: \alpha_{ijk} = \sum_{s \le t - d_{ij}} \lambda_k^{t - s - d_{ij} + 1} x_i^{[s]}, \quad
              \beta_{ijl} = \sum_{s = t - d_{ij} + 1}^{t - 1} w_{ijl}(t - s)\, x_i^{[s]}, \quad
              \gamma_{il} = \sum_{s \le t - 1} \mu_l^{t - s} x_i^{[s]}.

    All are linear in the past, and none depends on a weight, so a stretch of ticks is worked out at once.

    Parameters
    ----------
    n
        Number of neurons.
    delays
        d, positive integers (n, n) from neuron i to neuron j, or one for all.
    neural_decays, synaptic_decays
        mu and lambda, each in (0, 1).
    queue
        The weights w in beta: a key of `QUEUES`.

    Attributes
    ----------
    queue
        Buffer ``(D, n)``: the values of the last D = max(d) ticks, newest first.
    settled
        Buffer ``(n, K + L)``: the traces, with decays lambda and then mu, of all values older than those.
    delays
        Buffer d.
    """

    queue: Tensor
    settled: Tensor
    delays: Tensor

    def __init__(
        self,
        n: int,
        delays: Delays,
        neural_decays: Sequence[float] | Tensor,
        synaptic_decays: Sequence[float] | Tensor,
        queue: str,
    ) -> None:
        super().__init__()
        if queue not in QUEUES:
            raise ValueError(f"queue: expected one of {', '.join(map(repr, QUEUES))}, got {queue!r}")
        self.neural_decays = _checked_decays("neural_decays", neural_decays)
        self.synaptic_decays = _checked_decays("synaptic_decays", synaptic_decays)
        self.order = queue
        d = _checked_delays(delays, n)
        self.longest = int(d.max())
        self.register_buffer("delays", d)
        self.register_buffer("queue", torch.zeros(self.longest, n))
        self.register_buffer("settled", torch.zeros(n, self.features))

    @property
    def features(self) -> int:
        """K + L, the number of parameters of an axon."""
        return len(self.synaptic_decays) + len(self.neural_decays)

    @property
    def alpha(self) -> Float[Tensor, "n n K"]:
        """The synaptic eligibility traces of each axon (i, j)."""
        return self._now()[0][..., : len(self.synaptic_decays)]

    @property
    def beta(self) -> Float[Tensor, "n n L"]:
        """The weighted sums over what is in the queue of each axon (i, j)."""
        return -self._now()[0][..., len(self.synaptic_decays) :]

    @property
    def gamma(self) -> Float[Tensor, "n L"]:
        """The neural eligibility traces of each neuron."""
        return -self._now()[1][:, len(self.synaptic_decays) :]

    def get_extra_state(self) -> dict[str, Any]:
        """What a ``state_dict`` holds beside the delays and the past."""
        return {
            "neural_decays": self.neural_decays,
            "synaptic_decays": self.synaptic_decays,
            "queue": self.order,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what a ``state_dict`` holds."""
        self.neural_decays = _checked_decays("neural_decays", state["neural_decays"])
        self.synaptic_decays = _checked_decays("synaptic_decays", state["synaptic_decays"])
        self.order = state["queue"]

    def maps(self) -> Maps:
        """What makes the features, to be worked out once for many windows."""
        like, synaptic, neural = self.settled, len(self.synaptic_decays), len(self.neural_decays)
        lam, mu = like.new_tensor(self.synaptic_decays), like.new_tensor(self.neural_decays)
        length = torch.arange(self.longest, 0, -1, dtype=like.dtype, device=like.device)
        age, delay = length.view(-1, 1, 1), length.view(1, -1, 1)
        by_age, by_rest = QUEUES[self.order]
        arrived = torch.where(age >= delay, lam ** (age - delay + 1), 0)
        queued = torch.where(age < delay, -(mu ** (by_age * age + by_rest * (delay - age))), 0)
        settled = torch.diag_embed(lam ** (self.longest + 1 - delay[0])).transpose(0, 1)
        settled = nn.functional.pad(settled, (0, neural, 0, 0, 0, neural))
        bias = nn.functional.pad(like.new_ones(1, self.longest, 1), (0, self.features - 1))
        sources = torch.cat([torch.cat([arrived, queued], 2), settled, bias]).flatten(1)
        seen = nn.functional.pad(-(mu ** length.unsqueeze(1)), (synaptic, 0))
        before = nn.functional.pad(-(mu**self.longest), (synaptic, 0)).diag()
        targets = torch.cat([seen, before, like.new_zeros(1, self.features)])
        n = len(self.delays)
        place = torch.arange(1, n + 1, device=self.delays.device).unsqueeze(1)
        axons = place * self.longest - self.delays
        return Maps(sources, targets, torch.cat([axons.flatten(), axons.new_full((n,), n * self.longest)]))

    def window(self, maps: Maps, sequence: Float[Tensor, "ticks n"] | None = None) -> Window:
        """The features before each tick of a sequence that goes on from here, and those after the last one.

        The state is not changed: see `keep`.

        Parameters
        ----------
        maps
            Those of `maps`.
        sequence
            Values ``(ticks, n)``; None for no tick.

        Returns
        -------
        Window
            Of ``ticks + 1`` sets of features.
        """
        past = self.queue.flip(0)
        past = past if sequence is None else torch.cat([past, sequence])
        count = len(past) - self.longest + 1
        settled = self._scan(past[: count - 1])
        known = torch.cat([past.unfold(0, self.longest, 1), settled], 2)
        bias = nn.functional.pad(past.new_ones(count, 1, 1), (known.shape[2], 0))
        known = torch.cat([nn.functional.pad(known, (0, 1)), bias], 1)
        return Window(
            (known @ maps.sources).view(count, -1, self.features),
            (known[:, :-1] @ maps.targets).flatten(1),
            past[count - 1 :].flip(0),
            settled[-1],
        )

    def axons(self, sources: Tensor, readers: Tensor) -> Float[Tensor, "ticks n+1 traces"]:
        """The features of all axons, a row for each source with K + L for each target; a row of biases."""
        n = len(self.delays)
        return sources.index_select(1, readers).view(len(sources), n + 1, n * self.features)

    def keep(self, window: Window) -> None:
        """Go to the state that a stretch leaves."""
        self.queue.copy_(window.queue)
        self.settled.copy_(window.settled)

    def reset(self) -> None:
        """Forget the past, as if no neuron had ever spiked."""
        self.queue.zero_()
        self.settled.zero_()

    def _now(self) -> tuple[Tensor, Tensor]:
        maps, (n, width) = self.maps(), self.settled.shape
        window = self.window(maps)
        axons = self.axons(window.sources, maps.readers).view(n + 1, n, width)
        return axons[:-1], window.targets.view(n, width)

    def _scan(self, leaving: Tensor) -> Float[Tensor, "ticks n traces"]:
        """The settled traces before and after each value that leaves the queue: y <- decay (y + x)."""
        count = len(leaving)
        if not count:
            return self.settled.unsqueeze(0)
        decays = leaving.new_tensor((*self.synaptic_decays, *self.neural_decays)).unsqueeze(1)
        powers = decays ** torch.arange(count, -1, -1, dtype=leaving.dtype, device=leaving.device)
        # row a of the matrix of each decay: decay^a, ..., decay^1, and zeros for what is yet to come
        matrix = nn.functional.pad(powers[:, :-1], (0, count)).unfold(1, count, 1).flip(1)
        start = powers.flip(1).unsqueeze(2) * self.settled.t().unsqueeze(1)
        return torch.baddbmm(start, matrix, leaving.expand(len(decays), -1, -1)).permute(1, 2, 0)


def _checked_delays(delays: Delays, n: int) -> Tensor:
    d = torch.as_tensor(delays)
    if d.ndim == 0:
        d = d.expand(n, n)
    whole = not (d.is_floating_point() or d.is_complex() or d.dtype == torch.bool)
    if d.shape != (n, n) or not whole or int(d.min()) < 1:
        raise ValueError(
            f"delays: expected positive integers of shape ({n}, {n}), or one for all, got "
            f"{d.dtype} of shape {tuple(d.shape)} from {d.min()} to {d.max()}; the delay of 1 is the shortest"
        )
    return d.detach().long().clone()


def _checked_decays(name: str, decays: Sequence[float] | Tensor) -> tuple[float, ...]:
    if isinstance(decays, int | float):
        raise ValueError(
            f"{name}: expected a sequence of numbers, one for each trace, got {decays!r}; "
            f"for one trace, ({decays!r},)"
        )
    numbers = tuple(float(decay) for decay in decays)
    if not numbers or not all(0 < decay < 1 for decay in numbers):
        raise ValueError(f"{name}: expected one or more numbers between 0 and 1, got {numbers}")
    return numbers
