"""Dynamic Boltzmann machines: each tick has its own field, which the whole past makes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.models.traces import DECAYS, Delays, Maps, Traces, Window
from energynet.variable import Bit, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float

_TICKS = 64  # the most whose traces are worked out at once
_ENTRIES = 2**17  # of their features, or of those of axons, which stay in the cache


class Dynamic(Energy):
    """An energy of the values of the next tick, ``x``, given the traces of all before; its learning.

    `DynamicBoltzmannMachine` says what it is; `GaussianDynamicBoltzmannMachine` is the other one.
    """

    squares: Tensor

    def __init__(
        self, variable: Variable, traces: Traces, temperature: float, generator: torch.Generator | None
    ) -> None:
        super().__init__(x=variable)
        self.temperature = _checked_temperature(temperature)
        self.traces = traces
        n, features = traces.settled.shape

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(*shape, generator=generator))

        self.b = drawn(n)
        self.u = drawn(n, n, len(traces.synaptic_decays))
        self.v = drawn(n, n, len(traces.neural_decays))
        self.register_buffer("squares", torch.zeros(n + 1, n * features))

    @property
    def alpha(self) -> Float[Tensor, "n n K"]:
        """The synaptic eligibility traces that the next tick reads, of each axon (i, j)."""
        return self.traces.alpha

    @property
    def beta(self) -> Float[Tensor, "n n L"]:
        """The weighted sums over what is in the queue of each axon (i, j)."""
        return self.traces.beta

    @property
    def gamma(self) -> Float[Tensor, "n L"]:
        """The neural eligibility traces that the next tick reads, of each neuron."""
        return self.traces.gamma

    def field(self) -> Float[Tensor, " n"]:
        """The field on each neuron at the next tick, b + u alpha - v beta - v gamma; with gradients."""
        return self._next_field(self.traces.maps())

    def observe(self, sequence: Float[Tensor, "ticks n"]) -> Self:
        """Let the traces run along a sequence, without learning; the model itself is returned."""
        for _ in self._windows(self._checked(sequence), self.traces.maps()):
            pass
        return self

    def reset(self) -> Self:
        """Forget the past: all queues and traces are zero, as at first. What is learned stays."""
        self.traces.reset()
        return self

    def learn(self, sequence: Float[Tensor, "ticks n"], rate: float = 1.0) -> Float[Tensor, " ticks"]:
        """Ascend the log-likelihood of each tick in turn, by AdaGrad; the traces run on.

        Queues, traces and the sums of squared gradients go on from where they are, so a sequence may come in
        parts, and calling again repeats it. A call costs as much as some tens of ticks of few neurons: repeat
        a short sequence within one, as in ``learn(sequence.repeat(100, 1))``.

        Parameters
        ----------
        sequence
            Values ``(ticks, n)``, one row a tick.
        rate
            Of AdaGrad (Duchi, Hazan and Singer 2011): a parameter moves by rate g / sqrt(sum of g^2), which
            is plus or minus the rate at its first tick. The default, 1, is the authors'.

        Returns
        -------
        Tensor
            The log-likelihood of each tick in nats, before it was learned, ``(ticks,)``.

        Raises
        ------
        StateError
            If the sequence does not fit.
        ValueError
            If the rate is not positive; if the temperature is zero, where there is no gradient.
        """
        self._check_warm("learn")
        if not 0 < rate < math.inf:
            raise ValueError(f"learn: rate must be a positive number, got {rate!r}")
        values = self._checked(sequence)
        found = [values.new_zeros(0)]
        with torch.inference_mode():
            weight = self._packed()
            squares = self.squares.clamp(min=torch.finfo(weight.dtype).tiny)  # no 0 / 0
            scratch, gradient = torch.empty_like(weight), torch.empty_like(weight)
            error = torch.empty_like(self.b)
            spread = error.new_empty(len(error), self.traces.features)  # the error of each column
            column, across = error.unsqueeze(1), spread.view(-1)
            weight_out, gradient_out = weight[:-1], gradient[:-1]
            maps = self.traces.maps()
            for part, window in self._windows(values, maps):
                kept = torch.empty_like(part)
                for x, field, axons, targets in self._ticks(part, kept, window, maps):
                    torch.mul(weight, axons, out=scratch)
                    torch.sum(scratch, 0, out=across)
                    torch.sum(spread, 1, out=field)
                    field.addmv_(weight_out, targets)
                    self._score(field, x, rate, error)
                    spread.copy_(column)
                    torch.mul(axons, across, out=gradient)
                    gradient_out.addr_(error, targets)
                    squares.addcmul_(gradient, gradient)
                    torch.pow(squares, -0.5, out=scratch)  # rsqrt's numbers in half of its time
                    weight.addcmul_(gradient, scratch, value=rate)
                found.append(self._tally(kept, part))
            self._unpack(weight)
            self.squares.copy_(squares)
        return torch.cat(found)

    def log_likelihood(self, sequence: Float[Tensor, "ticks n"]) -> Float[Tensor, " ticks"]:
        """The log-likelihood of each tick given all before it; what is low is an anomaly.

        Nothing is learned, but the traces run on: `reset` first for a sequence that starts from nothing,
        `observe` first what came before it.

        Parameters
        ----------
        sequence
            Values ``(ticks, n)``.

        Returns
        -------
        Tensor
            log P(x[t] | past) in nats, ``(ticks,)``, with gradients to the parameters.

        Raises
        ------
        StateError
            If the sequence does not fit.
        ValueError
            If the temperature is zero.
        """
        self._check_warm("log_likelihood")
        values = self._checked(sequence)
        parts, maps = [values.new_zeros(0)], self.traces.maps()
        for part, window in self._windows(values, maps):
            parts.append(self._log_probability(self._fields(window, maps)[:-1], part))
        return torch.cat(parts)

    def generate(
        self,
        steps: int,
        cue: Float[Tensor, "ticks n"] | None = None,
        *,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "steps n"]:
        """Go on alone: each tick is drawn given all before it, and joins the past.

        Parameters
        ----------
        steps
            Ticks to generate.
        cue
            Values ``(ticks, n)`` to observe first; None, the default, goes on from the traces as they are.
        temperature
            None, the default, for that of the model. At 0 each tick is the most probable one: recall.
        generator
            Of the draws; unused at temperature 0.

        Returns
        -------
        Tensor
            The values of the new ticks, ``(steps, n)``.
        """
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"generate: steps must be a whole number that is not negative, got {steps!r}")
        chosen = self.temperature if temperature is None else _checked_temperature(temperature)
        if cue is not None:
            self.observe(cue)
        with torch.no_grad():
            drawn, maps = self.b.new_empty(steps, len(self.b)), self.traces.maps()
            for tick in drawn:
                tick.copy_(self._draw(self._next_field(maps), chosen, generator))
                self.traces.keep(self.traces.window(maps, tick.unsqueeze(0)))
        return drawn

    def _next_field(self, maps: Maps) -> Float[Tensor, " n"]:
        return self._fields(self.traces.window(maps), maps)[0]

    def _windows(self, values: Tensor, maps: Maps) -> Iterator[tuple[Tensor, Window]]:
        """A sequence in parts, with their features times `_gain`; the traces run on."""
        gain = self._gain()
        each = self.traces.settled.numel() * self.traces.longest
        for part in values.split(max(1, min(_TICKS, _ENTRIES // each))):
            with torch.no_grad():
                window = self.traces.window(maps, part)
                self.traces.keep(window)
            yield part, window if gain == 1 else window.scaled(gain)

    def _ticks(self, part: Tensor, kept: Tensor, window: Window, maps: Maps) -> Iterator[tuple[Tensor, ...]]:
        """The values, the row to keep, and the features of each tick, as `_packed` parameters read them."""
        few = max(1, _ENTRIES // self.squares.numel())
        parts = (part, kept, window.sources[: len(part)], window.targets[: len(part)])
        for x, keep, sources, targets in zip(*(each.split(few) for each in parts), strict=True):
            yield from zip(x, keep, self.traces.axons(sources, maps.readers), targets, strict=True)

    def _fields(self, window: Window, maps: Maps) -> Float[Tensor, "ticks n"]:
        """The field of each neuron by its features, for each set of them."""
        weight = self._packed()
        incoming = (self.traces.axons(window.sources, maps.readers) * weight).sum(1)
        incoming = incoming.view(len(incoming), len(self.b), self.traces.features).sum(2)
        return incoming + window.targets @ weight[:-1].t()

    def _packed(self) -> Float[Tensor, "n+1 traces"]:
        """All parameters: in row i those of axons (i, j), K of u and L of v for each j; then the biases."""
        bias = nn.functional.pad(self.b.unsqueeze(1), (0, self.traces.features - 1))
        return torch.cat([torch.cat([self.u, self.v], 2).flatten(1), bias.view(1, -1)])

    def _unpack(self, packed: Tensor) -> None:
        """Set the parameters from `_packed` ones."""
        count, weight = self.u.shape[2], packed.view(len(packed), len(self.b), self.traces.features)
        self.b.copy_(weight[-1, :, 0])
        self.u.copy_(weight[:-1, :, :count])
        self.v.copy_(weight[:-1, :, count:])

    def _checked(self, sequence: Tensor) -> Tensor:
        n = len(self.b)
        if isinstance(sequence, Tensor) and (sequence.ndim != 2 or sequence.shape[1] != n):
            raise StateError(
                f"{type(self).__name__}: expected a sequence of shape (ticks, {n}), a row a tick, got "
                f"{tuple(sequence.shape)}; give one sequence at a time, after reset() if it is another"
            )
        self.check({"x": sequence})
        return sequence.detach()

    def _check_warm(self, what: str) -> None:
        if not self.temperature:
            raise ValueError(
                f"{what}: at temperature 0 the next values are certain, without a likelihood; give the model "
                "a positive temperature, and 0 to `generate`"
            )

    @abstractmethod
    def _gain(self) -> float:
        """What features are multiplied by, so that the field by them is what `_score` reads."""

    @abstractmethod
    def _score(self, field: Tensor, x: Tensor, rate: float, error: Tensor) -> None:
        """Write the derivative of log P(x) by the field to ``error``; leave in ``field`` what `_tally` reads.

        Parameters beyond those of the field are learned here.
        """

    @abstractmethod
    def _tally(self, kept: Tensor, x: Tensor) -> Float[Tensor, " ticks"]:
        """The log-likelihood of each tick from what `_score` left."""

    @abstractmethod
    def _log_probability(self, fields: Tensor, x: Tensor) -> Float[Tensor, " ticks"]:
        """Log P(x) of each tick from its field."""

    @abstractmethod
    def _draw(self, field: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        """Draw the next values from the field without the gain."""


def _checked_temperature(temperature: float) -> float:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a number that is not negative, got {temperature!r}")
    return float(temperature)


@final
class DynamicBoltzmannMachine(Dynamic):
    r"""A dynamic Boltzmann machine (Osogami and Otsuka 2015, Sci. Rep. 5:14149).

    Neurons j that are 0 or 1 read the past of all neurons i, themselves among them, over axons with delays,
    by the traces alpha, beta and gamma, which `energynet.models.traces.Traces` defines. The energy of the
    next values ``x``, given the past, is

    .. math:: E(x) = \sum_j x_j \Bigl( -b_j - \sum_{ik} u_{ijk} \alpha_{ijk}
                     + \sum_{il} v_{ijl} \beta_{ijl} + \sum_{il} v_{jil} \gamma_{il} \Bigr),

    a field on each neuron, so P(x_j = 1) is the logistic function of minus the bracket over the temperature,
    exactly; nothing is sampled to learn. `learn` ascends the log-likelihood of each tick as it comes,

    .. math:: \Delta b_j = e_j, \quad \Delta u_{ijk} = \alpha_{ijk} e_j, \quad
              \Delta v_{ijl} = -\beta_{ijl} e_j - \gamma_{jl} e_i, \quad
              e = (x - \langle x \rangle) / \tau,

    clamped minus expected. All of it is derived from this energy. In print, the index of (4) differs (here a
    spike of tick s is in alpha from tick s + d_ij on), (6) is conditioned on the last tick alone instead of
    the whole past, and the rule has no 1 / tau, a matter of the rate, to which AdaGrad is blind.

    Parameters
    ----------
    n
        Number of neurons.
    delays
        d_ij from neuron i to neuron j, positive integers ``(n, n)``, or one for all. At 1 a queue is empty.
    neural_decays
        mu, one for each neural trace, in (0, 1); 1/4, 1/2 and 3/4 by default, as in the paper.
    synaptic_decays
        lambda, one for each synaptic trace; the same by default.
    temperature
        tau, 1 by default. At 0 the machine generates, by its most probable values, and cannot learn.
    queue
        How beta weighs a spike of age a in the queue of an axon of delay d. ``"newest"``, the default, by
        mu^a, so that beta is the part of gamma that is in the queue; ``"oldest"`` by mu^(d - a), so that what
        is about to arrive weighs most. ``"printed"`` is (7) of the paper, mu^-a, where the oldest weighs most
        too, and ``"program"`` is the authors' program, mu^(a - d), where the newest does; these grow with the
        length of the queue, up to 4^8 for mu = 1/4 and d = 9, and learn more slowly or not at all:
        experiments/dybm_science.
    generator
        Of the first parameters, each drawn from N(0, 0.1^2), the authors' choice.

    Attributes
    ----------
    b, u, v
        Parameters ``(n,)``, ``(n, n, K)`` and ``(n, n, L)``, by source i and then target j: the bias, and the
        weights of long-term potentiation and depression.
    alpha, beta, gamma
        The traces that the next tick reads.
    traces
        The module of queues and traces, whose buffers are the past.
    squares
        Buffer of sums of squared gradients, so that learning resumes from a state_dict.

    Examples
    --------
    >>> delays = torch.randint(1, 10, (7, 7), generator=torch.Generator().manual_seed(0))
    >>> machine = en.models.DynamicBoltzmannMachine(7, delays)
    >>> sequence = energynet.data.spelt("SCIENCE")
    >>> for _ in range(200):
    ...     machine.learn(sequence.repeat(100, 1))
    >>> machine.generate(35, cue=sequence, temperature=0)
    """

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
        super().__init__(Bit(n), traces, temperature, generator)

    def energy(self, **state: Tensor) -> Tensor:
        return -rows(state["x"] * self.field()).sum(1)

    def _gain(self) -> float:
        return 1.0 / self.temperature if self.temperature else 1.0

    def _score(self, field: Tensor, x: Tensor, rate: float, error: Tensor) -> None:
        torch.sigmoid(field, out=error)
        torch.sub(x, error, out=error)

    def _tally(self, kept: Tensor, x: Tensor) -> Tensor:
        return self._log_probability(kept, x)

    def _log_probability(self, fields: Tensor, x: Tensor) -> Tensor:
        return -nn.functional.softplus((1 - 2 * x) * fields).sum(1)

    def _draw(self, field: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        if not temperature:
            return (field > 0).to(field.dtype)
        uniform = torch.rand(field.shape, dtype=field.dtype, device=field.device, generator=generator)
        return (uniform < torch.sigmoid(field / temperature)).to(field.dtype)
