"""Every solver and sampler, with settings that suit the small energies of the tests."""

from __future__ import annotations

from collections.abc import Callable

import energynet as en

MINIMISERS: dict[str, Callable[[], en.Solver]] = {
    "Euler": lambda: en.Euler(0.1),
    "Heun": lambda: en.Heun(0.1),
    "RungeKutta4": lambda: en.RungeKutta4(0.2),
    "Adaptive": en.Adaptive,
    "BlockDescent": en.BlockDescent,
    "BlockDescent momentum": lambda: en.BlockDescent(momentum=True),
    "Momentum": lambda: en.Momentum(0.1),
    "Heavy ball": lambda: en.Momentum(0.1, 0.8, nesterov=False),
    "FIRE": en.FIRE,
    "Anderson": en.Anderson,
    "LBFGS": en.LBFGS,
    "NewtonKrylov": en.NewtonKrylov,
}
PROXIMAL: dict[str, Callable[[], en.Solver]] = {
    "Proximal": en.Proximal,
    "Proximal plain": lambda: en.Proximal(accelerate=False),
    "ADMM": en.ADMM,
    "CoordinateDescent": en.CoordinateDescent,
}
CONTINUOUS: dict[str, Callable[[], en.Solver]] = {
    "Langevin": lambda: en.Langevin(0.01),
    "Underdamped": lambda: en.Underdamped(0.05, 1.0),
    "MALA": lambda: en.MALA(0.05),
    "HamiltonianMonteCarlo": lambda: en.HamiltonianMonteCarlo(0.1, 4),
    "Annealed Langevin": lambda: en.Annealed(en.Langevin(0.01), [2.0, 1.0, 0.5]),
    "ParallelTempering": lambda: en.ParallelTempering(en.MALA(0.05), [1.0, 2.0, 4.0]),
}
DISCRETE: dict[str, Callable[[], en.Solver]] = {
    "Gibbs": en.Gibbs,
    "Gibbs random": lambda: en.Gibbs(scan="random"),
    "Gibbs block": lambda: en.Gibbs(scan="block"),
    "Glauber": lambda: en.Glauber(temperature=1.0),
    "Glauber, cold": en.Glauber,
    "Synchronous": en.Synchronous,
    "Annealed Gibbs": lambda: en.Annealed(en.Gibbs(), [2.0, 1.0, 0.5]),
    "ParallelTempering Gibbs": lambda: en.ParallelTempering(en.Gibbs(), [1.0, 2.0, 4.0]),
}

EVERY: dict[str, Callable[[], en.Solver]] = {**MINIMISERS, **PROXIMAL, **CONTINUOUS, **DISCRETE}
