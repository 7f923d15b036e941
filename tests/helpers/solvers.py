"""Every solver and sampler, with settings that suit the small energies of the tests."""

from __future__ import annotations

from collections.abc import Callable

import energynet as en

MINIMISERS: dict[str, Callable[[], en.Solver]] = {
    "Euler": lambda: en.Euler(0.1),
    "Heun": lambda: en.Heun(0.1),
    "RungeKutta4": lambda: en.RungeKutta4(0.2),
    "BlockDescent": en.BlockDescent,
    "BlockDescent momentum": lambda: en.BlockDescent(momentum=True),
}
PROXIMAL: dict[str, Callable[[], en.Solver]] = {
    "Proximal": en.Proximal,
    "Proximal plain": lambda: en.Proximal(accelerate=False),
    "ADMM": en.ADMM,
}
CONTINUOUS: dict[str, Callable[[], en.Sampler]] = {}
DISCRETE: dict[str, Callable[[], en.Sampler]] = {}

EVERY: dict[str, Callable[[], en.Solver]] = {**MINIMISERS, **PROXIMAL, **CONTINUOUS, **DISCRETE}
