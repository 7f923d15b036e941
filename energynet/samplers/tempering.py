"""Parallel tempering: replicas at several temperatures, which exchange states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from energynet.clamp import Clamp
from energynet.energy import Energy
from energynet.flow import EnergyFlow, Flow
from energynet.samplers.annealed import sampler as checked
from energynet.samplers.base import Sampler
from energynet.samplers.noise import uniform
from energynet.solvers import Solver
from energynet.solvers.base import column, energy_flow, mapped
from energynet.state import State
from energynet.stopping import Never, Until

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_OTHER = "other "


@final
class ParallelTempering(Solver):
    """Replicas of each sample at several temperatures, of which neighbours exchange their states.

    A step is ``swap_every`` steps of the sampler at every temperature, all in one batch, and then one attempt
    to swap each second pair of neighbours: pairs 0-1, 2-3, ... and pairs 1-2, 3-4, ... by turns (Okabe et al.
    2001, Chem. Phys. Lett. 335:435). A swap is accepted with probability min(1, exp((1/Ti - 1/Tj)(Ei - Ej)))
    (Swendsen and Wang 1986, Phys. Rev. Lett. 57:2607; Geyer 1991), so each replica keeps the law exp(-E / T)
    of its temperature if the sampler does. Every replica starts where settling starts.

    Parameters
    ----------
    sampler
        Moves the replicas; its own temperature is not used.
    temperatures
        At least two positive numbers. The first is that of the state that settling returns. Neighbours
        exchange, so they should be sorted: geometric spacing gives even rates of swaps where the heat
        capacity is constant.
    swap_every
        Steps of the sampler between two attempts. 1, for frequent attempts mix best (Sindhikara et al. 2008,
        J. Chem. Phys. 128:024103); each takes one evaluation of the energy of every replica.

    Raises
    ------
    TypeError
        If the sampler is not one, and so has no temperature.
    ValueError
        If a temperature is not positive and finite, or there are fewer than two.

    Notes
    -----
    `Solution.statistics` holds ``"swap"``, ``(batch, temperatures - 1)``, how often each pair of neighbours
    swapped when it could; ``"round_trips"``, ``(batch,)``, how many replicas have been at the last
    temperature and come back to the first; and the sampler's own statistics, averaged over the replicas.
    """

    def __init__(self, sampler: Solver, temperatures: Sequence[float] | Tensor, swap_every: int = 1) -> None:
        self.sampler: Sampler = checked(self, sampler)
        self.temperatures = tuple(float(value) for value in temperatures)
        if len(self.temperatures) < 2 or not all(0 < value < math.inf for value in self.temperatures):
            raise ValueError(
                "ParallelTempering: expected at least two positive temperatures, the first for the target, "
                f"got {self.temperatures}"
            )
        if not isinstance(swap_every, int) or swap_every < 1:
            raise ValueError(
                f"ParallelTempering: swap_every must be a whole number above 0, got {swap_every!r}"
            )
        self.swap_every = swap_every

    def flow(
        self,
        energy: Energy,
        clamp: Clamp | None = None,
        state: Mapping[str, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> EnergyFlow:
        return self.sampler.flow(energy, clamp, state, generator=generator, differentiable=differentiable)

    def until(self) -> Until:
        """Never, whatever the sampler says at its own temperature."""
        return Never()

    def init(self, flow: Flow, state: State) -> Any:
        count = len(self.temperatures)
        like = next(iter(state.values()))
        batch, device = len(like), like.device
        wide = energy_flow(self, flow).repeat(count)
        replicas = {name: value.repeat_interleave(count, 0) for name, value in state.items()}
        temperature = torch.tensor(self.temperatures, dtype=like.dtype, device=device)
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        return {
            # the first replica is the state itself
            "others": {name: value[:, 1:] for name, value in _split(replicas, count).items()},
            "sampler": _split(self.sampler.init(wide, replicas), count),
            "temperature": temperature.expand(batch, count),
            "attempts": zero,
            "swaps": zero.new_zeros(batch, count - 1),
            "returning": torch.zeros(batch, count, dtype=torch.bool, device=device),
            "round_trips": zero,
        }

    def kept(self, carry: Any) -> State:
        """The other replicas, and which pairs are next."""
        return {"attempts": carry["attempts"], **{_OTHER + n: v for n, v in carry["others"].items()}}

    def resume(self, flow: Flow, state: State, kept: State) -> Any:
        carry = self.init(flow, state)
        if "attempts" not in kept:
            return carry
        count = len(self.temperatures)
        others = {name: kept[_OTHER + name] for name in state}
        replicas = _join({n: torch.cat([v.unsqueeze(1), others[n]], 1) for n, v in state.items()})
        inner = self.sampler.init(energy_flow(self, flow).repeat(count), replicas)
        return {**carry, "others": others, "sampler": _split(inner, count), "attempts": kept["attempts"]}

    def step(
        self, flow: Flow, state: State, carry: Any, generator: torch.Generator | None
    ) -> tuple[State, Any, Float[Tensor, batch]]:
        count = len(self.temperatures)
        wide = energy_flow(self, flow).repeat(count)
        replicas = {n: torch.cat([v.unsqueeze(1), carry["others"][n]], 1) for n, v in state.items()}
        point, inner = _join(replicas), _join(carry["sampler"])
        temperature: Tensor = carry["temperature"]
        each = temperature.reshape(-1)
        residual = each
        for _ in range(self.swap_every):
            point, inner, residual = self.sampler.sample(wide, point, inner, generator, each)
        energy = wide.forces.energy(point).reshape(temperature.shape)
        swap = self._swaps(energy, temperature, carry["attempts"], generator)
        source = _permutation(swap)
        ratio = temperature / temperature.gather(1, source)
        rows = (source + count * torch.arange(len(source), device=source.device).unsqueeze(1)).reshape(-1)
        replicas = _split(_select(point, rows), count)
        inner = self.sampler.moved(_select(inner, rows), ratio.reshape(-1))
        returning, home = _travel(carry["returning"].gather(1, source))
        carry = {
            "others": {name: value[:, 1:] for name, value in replicas.items()},
            "sampler": _split(inner, count),
            "temperature": temperature,
            "attempts": carry["attempts"] + 1,
            "swaps": carry["swaps"] + swap,
            "returning": returning,
            "round_trips": carry["round_trips"] + home,
        }
        state = {name: value[:, 0].contiguous() for name, value in replicas.items()}
        # a replica that has diverged makes its sample diverge
        return state, carry, residual.reshape(temperature.shape).amax(1)

    def statistics(self, carry: Any) -> dict[str, Tensor]:
        swaps, attempts = carry["swaps"], carry["attempts"].unsqueeze(1)
        pair = torch.arange(swaps.shape[1], device=swaps.device)
        could = (attempts + 1 - pair % 2) // 2  # even pairs come first
        told = self.sampler.statistics(_join(carry["sampler"]))
        each = _split(told, len(self.temperatures))
        found = {name: value.to(_float(value)).mean(1) for name, value in each.items()}
        found["swap"] = swaps / could.clamp(min=1)
        found["round_trips"] = carry["round_trips"].to(found["swap"].dtype)
        return found

    def _swaps(
        self, energy: Tensor, temperature: Tensor, attempts: Tensor, generator: torch.Generator | None
    ) -> Shaped[Tensor, batch * pairs]:
        """Which pairs of neighbours swap, ``(batch, temperatures - 1)``."""
        cold = 1 / temperature
        # The volume of a link does not depend on the temperature and cancels.
        gain = (cold[:, :-1] - cold[:, 1:]) * (energy[:, :-1] - energy[:, 1:])
        chance = uniform(tuple(gain.shape), gain, generator)
        pair = torch.arange(gain.shape[1], device=gain.device)
        turn = pair % 2 == column(attempts % 2, gain)
        return turn & (chance < gain.exp())


def _permutation(swap: Tensor) -> Tensor:
    """Which replica each slot takes, if the pairs that swap have no slot in common."""
    up = torch.nn.functional.pad(swap, (0, 1)).to(torch.int64)
    down = torch.nn.functional.pad(swap, (1, 0)).to(torch.int64)
    return torch.arange(up.shape[1], device=swap.device) + up - down


def _travel(returning: Tensor) -> tuple[Tensor, Tensor]:
    """Which replicas have been at the last temperature since they left the first; which came home."""
    home = returning[:, 0]
    first, last = torch.zeros_like(returning[:, :1]), torch.ones_like(returning[:, :1])
    return torch.cat([first, returning[:, 1:-1], last], 1), home


def _split(tree: Any, count: int) -> Any:
    """Rows of a nested tuple or dict of tensors, ``(batch * count, ...)``, as ``(batch, count, ...)``."""
    return mapped(lambda value: value.unflatten(0, (-1, count)), tree)


def _join(tree: Any) -> Any:
    """The inverse of `_split`."""
    return mapped(lambda value: value.flatten(0, 1), tree)


def _select(tree: Any, index: Tensor) -> Any:
    return mapped(lambda value: value.index_select(0, index), tree)


def _float(value: Tensor) -> torch.dtype:
    return value.dtype if value.is_floating_point() else torch.get_default_dtype()
