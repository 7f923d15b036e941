"""Boltzmann machines written out by their formulas and enumerated, apart from the library."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import energynet as en

F64 = torch.float64
BIT, SPIN = (0.0, 1.0), (-1.0, 1.0)


def states(units: int, values: Sequence[float] = BIT) -> Tensor:
    """Every state, (states, units)."""
    return torch.tensor(list(itertools.product(values, repeat=units)), dtype=F64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def randomised(energy: en.Energy, scale: float = 1.0, seed: int = 0) -> en.Energy:
    """The energy in float64, with normal parameters."""
    energy = energy.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in energy.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=F64))
    return energy


def restricted(
    visible: int = 4, hidden: int = 3, *, scale: float = 1.0, spins: tuple[bool, bool] = (False, False)
) -> en.models.RestrictedBoltzmannMachine:
    kinds = [en.Spin(n) if spin else en.Bit(n) for n, spin in zip((visible, hidden), spins, strict=True)]
    machine = en.models.RestrictedBoltzmannMachine(visible, hidden, *kinds)
    return randomised(machine, scale)  # type: ignore[return-value]


def pair_energy(weight: Tensor, b: Tensor, c: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """E(v, h) of every pair of rows of v and h, (visible states, hidden states)."""
    return lambda v, h: -(v @ weight.T @ h.T) - (v @ b)[:, None] - (h @ c)[None]


def joint(machine: en.models.RestrictedBoltzmannMachine, low_high: Sequence[Sequence[float]]) -> Tensor:
    """The energies of all states of both layers."""
    weight, b, c = (p.detach() for p in (machine.weight, machine.visible_bias, machine.hidden_bias))
    v, h = states(len(b), low_high[0]), states(len(c), low_high[1])
    return pair_energy(weight, b, c)(v, h)


def frequencies(rows: Tensor, values: Sequence[float] = BIT) -> Tensor:
    """How often each state is among the rows, in the order of `states`."""
    bits = (rows == values[1]).long()
    place = 2 ** torch.arange(bits.shape[1] - 1, -1, -1)
    return torch.bincount((bits * place).sum(1), minlength=2 ** bits.shape[1]).to(F64)


def surprise(counts: Tensor, law: Tensor) -> float:
    """The p-value of Pearson's chi-square of counts against a law."""
    from scipy.stats import chisquare

    return float(chisquare(counts.numpy(), (law * counts.sum() / law.sum()).numpy()).pvalue)
