"""Small networks and data for the tests of rules, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import energynet as en
from helpers.functional import autograd_force
from helpers.tiny import Tiny

F64 = torch.float64


class Precision(en.Cost):
    """A cost with parameters: half the squared error of a linear readout, weighted by a precision."""

    def __init__(self, output: str, size: int) -> None:
        super().__init__(output)
        self.readout = nn.Linear(size, size)
        self.log_precision = nn.Parameter(torch.randn(size))

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (self.log_precision.exp() * (self.readout(output) - target).square()).sum(1)


def layered(
    activation: str, *sizes: int, seed: int = 0, gain: float = 1.0, **more: Any
) -> en.models.LayeredHopfield:
    torch.manual_seed(seed)
    model = en.models.LayeredHopfield(sizes, activation=activation, **more)
    for field in model.fields.values():
        nn.init.uniform_(field.bias, 0.1, 0.6)  # type: ignore[arg-type]
    for coupling in model.couplings.values():
        coupling.weight.data.mul_(gain)  # type: ignore[union-attr, operator]
    return model.double()


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny(4, 6, 3).double()


NETWORKS = {
    "hardsigmoid": lambda: layered("hardsigmoid", 4, 6, 3),
    "sigmoid": lambda: layered("sigmoid", 4, 6, 5, 3, gain=3.0),
    "tanh": lambda: layered("tanh", 4, 6, 3),
    "saturated": lambda: layered("hardsigmoid", 4, 6, 3, gain=2.0, seed=1),
    "skips": lambda: layered("tanh", 4, 5, 6, 3, gain=0.7, skips=[("x", "h2"), ("h1", "y"), ("x", "y")]),
    "tiny": tiny,
}


def data(batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 4, dtype=F64, generator=generator),
        "target": torch.rand(batch, 3, dtype=F64, generator=generator),
    }


def gradient(rule: en.LearningRule, **batch: Tensor) -> dict[str, Tensor]:
    """What a rule leaves in .grad."""
    rule.zero_grad()
    rule(**batch).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in rule.named_parameters()
        if p.requires_grad
    }


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The relative error of a whole gradient."""
    assert set(found) == set(expected)
    one, other = (torch.cat([g[name].flatten() for name in sorted(found)]) for g in (found, expected))
    return float((one - other).norm() / other.norm())


def clear_seed(energy: en.Energy) -> int:
    """The first seed of data at which no hard sigmoid is within 0.03 of its kinks, where a nudge may cross.

    There the cost has no derivative, and an estimate by differences says what it likes.
    """
    for seed in range(100):
        state = en.settle(energy, clamp={"x": data(seed=seed)["x"]}, until=en.Stationary(atol=1e-12)).state
        force = autograd_force(energy, state, list(state))
        hard = [n for n, v in energy.variables.items() if isinstance(v, en.Unit) and v.link is None]
        fields = [state[n] + force[n] for n in hard]
        if all(min(float(f.abs().min()), float((f - 1).abs().min())) > 0.03 for f in fields):
            return seed
    raise AssertionError("no data keep clear of the kinks")
