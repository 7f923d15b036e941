"""Energies and rules with one planted fault each, for the conformance kit to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import energynet as en
from energynet.rules.base import LearningRule


class Spring(en.Energy):
    """A sound energy of two coupled variables, to plant faults in: E = |s|^2 / 2 + |r|^2 / 2 - r . W s."""

    def __init__(self) -> None:
        super().__init__(s=en.Real(3), r=en.Real(2))
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.3 * torch.randn(2, 3, generator=generator))

    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return 0.5 * s.square().sum(-1) + 0.5 * r.square().sum(-1) - (r * (s @ self.weight.T)).sum(-1)


class WrongShape(Spring):
    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r).unsqueeze(1)


class Total(Spring):
    """One number for the whole batch."""

    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r).sum()


class WrongDtype(Spring):
    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r).float()


class ChangesState(Spring):
    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        if not s.requires_grad:
            s.mul_(1.1)
        return super().energy(s, r)


class Noisy(Spring):
    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r) + torch.randn(())


class MixesBatch(Spring):
    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r) + 0.1 * (s - s.mean(0)).square().sum(-1)


class Hidden(Spring):
    """A tensor that the energy reads and no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.full((3,), 0.7)

    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r) - s @ self.offset


class HiddenInList(Spring):
    def __init__(self) -> None:
        super().__init__()
        self.offsets = [torch.full((3,), 0.7)]

    def energy(self, s: Tensor, r: Tensor) -> Tensor:
        return super().energy(s, r) - s @ self.offsets[0]


class SharesItsWeight(Spring):
    """Its deep copy holds the same parameter."""

    def __deepcopy__(self, memo: dict[int, object]) -> SharesItsWeight:
        clone = SharesItsWeight()
        clone.weight = self.weight
        return clone


class ForgetsWhenPickled(Spring):
    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        weight = nn.Parameter(torch.zeros_like(self.weight))
        return {**state, "_parameters": {**state["_parameters"], "weight": weight}}

    def __deepcopy__(self, memo: dict[int, object]) -> ForgetsWhenPickled:
        clone = ForgetsWhenPickled().to(self.weight.dtype)
        clone.load_state_dict(self.state_dict())
        return clone


class WrongForce(Spring):
    """The force on r lacks the leak."""

    def force(self, state: en.State, wrt: Sequence[str]) -> en.State:
        right = {
            "s": state["r"] @ self.weight - state["s"],
            "r": state["s"] @ self.weight.T,
        }
        return {name: right[name] for name in wrt}


class Uphill(Spring):
    """The force on r has the wrong sign."""

    def force(self, state: en.State, wrt: Sequence[str]) -> en.State:
        wrong = {
            "s": state["r"] @ self.weight - state["s"],
            "r": state["r"] - state["s"] @ self.weight.T,
        }
        return {name: wrong[name] for name in wrt}


class TwiceDriven(Spring):
    """The coupling counts twice in the force on r, so it rests where the energy has a slope."""

    def force(self, state: en.State, wrt: Sequence[str]) -> en.State:
        wrong = {
            "s": state["r"] @ self.weight - state["s"],
            "r": 2 * state["s"] @ self.weight.T - state["r"] + 0.1,
        }
        return {name: wrong[name] for name in wrt}


class RightForce(Spring):
    def force(self, state: en.State, wrt: Sequence[str]) -> en.State:
        right = {
            "s": state["r"] @ self.weight - state["s"],
            "r": state["s"] @ self.weight.T - state["r"],
        }
        return {name: right[name] for name in wrt}


class StaleForce(Spring):
    """The closed form of its force uses the weight that it was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor
        self.register_buffer("kept", self.weight.detach().clone(), persistent=False)

    def force(self, state: en.State, wrt: Sequence[str]) -> en.State:
        right = {"s": state["r"] @ self.kept - state["s"], "r": state["s"] @ self.kept.T - state["r"]}
        return {name: right[name] for name in wrt}


class SkipsATerm(en.terms.Leak):
    """Its terms do not add up to it."""

    def terms(self, state: en.State) -> dict[str, Tensor]:
        return {name: 0.5 * value for name, value in super().terms(state).items()}


class WrongMap(en.ProximalTerm):
    """0.3 |s|, whose proximal map is that of 0.6 |s|."""

    strength = 0.6

    def __init__(self) -> None:
        super().__init__(s=en.Real(3))
        self.variable, self.link = "s", None

    def energy(self, **state: Tensor) -> Tensor:
        return 0.3 * state["s"].abs().sum(1)

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, value: Tensor) -> Tensor:
        return 0.3 * value.sign()

    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value.sign() * (value.abs() - self.strength * step).clamp(min=0.0)


class WrongSubgradient(WrongMap):
    """The map is right, the subgradient is not."""

    strength = 0.3

    def slope(self, value: Tensor) -> Tensor:
        return 0.1 * value.sign()


class Branching(en.Energy):
    """Right, but its Python flow depends on values: each sample in its own branch, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__(s=en.Real(3))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def energy(self, s: Tensor) -> Tensor:
        each = [self.scale * v.square().sum() if float(v.detach().sum()) > 0 else v.square().sum() for v in s]
        return torch.stack(each)


class SteepLink(en.link.Link):
    """A link whose integral belongs to another one."""

    low, high = -1.0, 1.0

    def value(self, potential: Tensor) -> Tensor:
        return (2 * potential).tanh()

    def potential(self, value: Tensor) -> Tensor:
        return value.clamp(-1 + 1e-12, 1 - 1e-12).atanh() / 2

    def integral(self, value: Tensor) -> Tensor:
        return en.Tanh().integral(value)


class Tampered(LearningRule):
    """Equilibrium propagation with its gradient spoilt.

    Parameters
    ----------
    rule
        The sound one.
    fault
        ``"none"``, ``"sign"``, ``"beta"`` (the division by beta forgotten), ``"transposed"`` (a square weight's
        gradient) or ``"missing"`` (one parameter is left out).
    """

    def __init__(self, rule: en.EquilibriumPropagation, fault: str) -> None:
        super().__init__(rule.energy)
        self.rule, self.fault = rule, fault
        self.beta, self.estimator = rule.beta, rule.estimator

    @property
    def cost(self) -> en.Cost:
        return self.rule.cost

    def phases(self, **data: Tensor) -> Sequence[en.Phase]:
        return self.rule.phases(**data)

    def value(self, phases: Sequence[en.Phase]) -> Tensor:
        return self.rule.value(phases)

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        value, gradient = self.rule.learn(data)
        weights = [p for p in gradient if p.ndim == 2 and p.shape[0] == p.shape[1]]
        if self.fault == "sign":
            gradient = {p: -g for p, g in gradient.items()}
        elif self.fault == "beta":
            gradient = {p: self.beta * g for p, g in gradient.items()}
        elif self.fault == "transposed":
            gradient[weights[0]] = gradient[weights[0]].T
        elif self.fault == "missing":
            del gradient[weights[0]]
        return value, gradient
