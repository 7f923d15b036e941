"""One small energy of every family, with what is clamped: what every solver is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import energynet as en
from energynet.terms import Leak, Reconstruction, Sparsity
from energynet.testing.strategies import randomise, rescale
from helpers.functional import Functional

SPARSITY = 0.2


@dataclass(frozen=True)
class Problem:
    """An energy in float64, values to clamp, and what a solver has to cope with."""

    energy: en.Energy
    clamp: dict[str, Any]
    kink: bool = False  # a term with a kink in the values that gradient flow moves
    discrete: bool = False  # whether a free variable is
    leaky: bool = False  # whether units with a link have a leak through it, and else a field
    normal: bool = False  # whether each continuous unit is normal given the others, within its ends
    density: bool = True  # whether exp(-E) of what a sampler would move is a density
    convex: bool = True
    quadratic: bool = True  # but for its kinks

    def to(self, dtype: torch.dtype) -> Problem:
        clamp = {name: _converted(value, dtype) for name, value in self.clamp.items()}
        return replace(self, energy=self.energy.to(dtype), clamp=clamp)


def _converted(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, en.Partial):
        return en.Partial(value.value.to(dtype), value.mask)
    return value.to(dtype)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layered(activation: str, held: bool = False) -> Problem:
    with torch.random.fork_rng(devices=[]):
        model = en.models.LayeredHopfield([4, 6, 5, 3], activation).double()
    randomise(model, torch.Generator().manual_seed(1))
    rescale(model, 0.7 * (4.0 if activation == "sigmoid" else 1.0))
    clamp: dict[str, Any] = {"x": _normal(3, 4)}
    if held:
        mask = torch.tensor([True, False, True, False, False])
        clamp["h2"] = en.Partial(torch.full((3, 5), 0.3, dtype=torch.float64), mask)
    return Problem(model, clamp, normal=activation == "hardsigmoid", leaky=True)


def _lasso(variable: en.Variable, **more: Any) -> Problem:
    with torch.random.fork_rng(devices=[]):
        energy = Reconstruction("a", "x", a=variable, x=en.Real(9)) + Sparsity(SPARSITY, a=variable)  # type: ignore[arg-type]
    energy = energy.double()
    randomise(energy, torch.Generator().manual_seed(2))
    return Problem(energy, {"x": _normal(3, 9, seed=3)}, **more)


def _predictive() -> Problem:
    """|h1 - tanh(V x)|^2 / 2 + |h2 - W tanh(h1)|^2 / 2 + |y - U tanh(h2)|^2 / 2."""

    def energy(e: Any, x: Tensor, h1: Tensor, h2: Tensor, y: Tensor) -> Tensor:
        first = h1 - (x @ e.V.T).tanh()
        second = h2 - h1.tanh() @ e.W.T
        third = y - h2.tanh() @ e.U.T
        return 0.5 * (first.square().sum(1) + second.square().sum(1) + third.square().sum(1))

    tensors = {"V": 0.5 * _normal(5, 4), "W": 0.4 * _normal(4, 5, seed=1), "U": 0.4 * _normal(3, 4, seed=2)}
    variables = {"x": en.Real(4), "h1": en.Real(5), "h2": en.Real(4), "y": en.Real(3)}
    clamp = {"x": _normal(3, 4, seed=4), "y": _normal(3, 3, seed=5)}
    return Problem(Functional(energy, tensors, **variables), clamp, quadratic=False)


def _box() -> Problem:
    """A coupled quadratic in a box, on whose faces the minimum lies."""
    root = _normal(6, 6, seed=6)
    tensors = {"H": root @ root.T / 6 + 0.3 * torch.eye(6, dtype=torch.float64)}

    def energy(e: Any, f: Tensor, s: Tensor) -> Tensor:
        return 0.5 * ((s @ e.H) * s).sum(1) - (f * s).sum(1)

    return Problem(
        Functional(energy, tensors, f=en.Real(6), s=en.Interval(6, low=-0.5, high=0.4, tau=2.0)),
        {"f": _normal(3, 6, seed=7)},
        normal=True,
    )


def _wells() -> Problem:
    """Coupled double wells: not convex."""

    def energy(e: Any, s: Tensor) -> Tensor:
        return (0.25 * s.pow(4) - 0.5 * s.square() - e.b * s).sum(1) - 0.1 * (s[:, :1] * s[:, 1:]).sum(1)

    return Problem(
        Functional(energy, {"b": 0.2 * _normal(4)}, s=en.Real(4)), {}, convex=False, quadratic=False
    )


def _untraceable() -> Problem:
    def energy(e: Any, f: Tensor, s: Tensor) -> Tensor:
        sign = 1.0 if float(f.sum()) > -1e9 else 2.0  # Python that depends on a value
        return (0.5 * s.square() + 0.1 * s.pow(4) - sign * f * s).sum(1)

    energy_of = Functional(energy, {"b": _normal(1)}, f=en.Real(3), s=en.Real(3))
    return Problem(energy_of, {"f": _normal(3, 3)}, quadratic=False)


def _machine(variable: en.Variable) -> Problem:
    """A Boltzmann machine without hidden units: E = -s.W s / 2 - b.s."""
    raw = 0.5 * _normal(5, 5, seed=8)
    weight = raw + raw.T
    weight.fill_diagonal_(0.0)

    def energy(e: Any, s: Tensor) -> Tensor:
        return -0.5 * ((s @ e.W) * s).sum(1) - s @ e.b

    tensors = {"W": weight, "b": 0.3 * _normal(5, seed=9)}
    return Problem(Functional(energy, tensors, s=variable), {}, discrete=True, convex=False)


def _restricted() -> Problem:
    with torch.random.fork_rng(devices=[]):
        v, h = en.Bit(4), en.Bit(3)
        energy = en.terms.Bilinear("v", "h", v=v, h=h) + en.terms.Field(v=v) + en.terms.Field(h=h)
    energy = energy.double()
    randomise(energy, torch.Generator().manual_seed(3))
    return Problem(energy, {}, discrete=True, convex=False)


def _triples() -> Problem:
    """Three-body couplings, and a cube of each unit, so that no force is a local field."""

    def energy(e: Any, s: Tensor) -> Tensor:
        triple = s * s.roll(1, 1) * s.roll(2, 1)
        return -(triple * e.J).sum(1) - (e.b * (s + 0.3).pow(3)).sum(1)

    tensors = {"J": _normal(5), "b": 0.2 * _normal(5, seed=1)}
    return Problem(Functional(energy, tensors, s=en.Spin(5)), {}, discrete=True, convex=False)


def _spring() -> Problem:
    leak = Leak(s=en.NonNegative(3)) + Leak(t=en.Real(2))
    with torch.random.fork_rng(devices=[]):
        coupling = en.terms.Bilinear("s", "t", s=en.NonNegative(3), t=en.Real(2))
        energy = leak + coupling + en.terms.Field(s=en.NonNegative(3))
    energy = energy.double()
    randomise(energy, torch.Generator().manual_seed(4), scale=0.5)
    return Problem(energy, {}, normal=True)


def _gaussian() -> Problem:
    """A restricted machine of real visible units and hidden bits."""
    with torch.random.fork_rng(devices=[]):
        v, h = en.Real(4), en.Bit(3)
        energy = Leak(v=v) + en.terms.Bilinear("v", "h", v=v, h=h) + en.terms.Field(h=h)
    energy = energy.double()
    randomise(energy, torch.Generator().manual_seed(3), scale=0.5)
    return Problem(energy, {}, discrete=True, convex=False)


def _choices() -> Problem:
    """A mixture: the centre that a choice picks, real coordinates about it, and a coupling of two choices."""

    def energy(e: Any, x: Tensor, s: Tensor) -> Tensor:
        means = s @ e.C
        return 0.5 * (x - means).square().sum((1, 2)) - ((s[:, 0] @ e.J) * s[:, 1]).sum(1)

    tensors = {"C": _normal(3, 2, seed=4), "J": _normal(3, 3, seed=5)}
    return Problem(Functional(energy, tensors, x=en.Real(2, 2), s=en.OneHot(2, 3)), {}, discrete=True)


THRESHOLD = en.SoftThreshold(SPARSITY)
POSITIVE = en.SoftThreshold(SPARSITY, nonnegative=True)

FAMILIES: dict[str, Callable[[], Problem]] = {
    "hard sigmoid": lambda: _layered("hardsigmoid"),
    "sigmoid": lambda: _layered("sigmoid"),
    "tanh": lambda: _layered("tanh"),
    "partly clamped": lambda: _layered("tanh", held=True),
    "springs": _spring,
    "lasso": lambda: _lasso(en.Real(7), kink=True),
    "locally competitive": lambda: _lasso(en.Real(7, link=THRESHOLD), density=False),
    "non-negative code": lambda: _lasso(en.NonNegative(7, link=POSITIVE), density=False),
    "predictive coding": _predictive,
    "box": _box,
    "double wells": _wells,
    "untraceable": _untraceable,
    "Boltzmann bits": lambda: _machine(en.Bit(5)),
    "Ising spins": lambda: _machine(en.Spin(5)),
    "restricted": _restricted,
    "triples": _triples,
    "real and bits": _gaussian,
    "choices": _choices,
}
