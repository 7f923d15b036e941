"""Predictive coding by hand: every layer at every step, states and errors as the papers write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import energynet as en
from energynet.rules.base import LearningRule

F = {
    "linear": (lambda z: z, torch.ones_like),
    "relu": (lambda z: z.clamp(min=0), lambda z: (z > 0).to(z.dtype)),
    "sigmoid": (lambda z: 1 / (1 + (-z).exp()), lambda z: (-z).exp() / (1 + (-z).exp()) ** 2),
    "tanh": (torch.tanh, lambda z: torch.cosh(z) ** -2),
}


class ByHand(LearningRule):
    """Z-IL or fixed predictions over whole states, with the weights read when the papers say.

    Parameters
    ----------
    schedule
        ``"zil"`` or ``"fixed"``.
    fault
        ``"none"``; ``"transposed"`` (a square weight), ``"derivative"`` (it is forgotten), ``"bracket"`` (z +
        (-e + f') * (W' e)), ``"steps"`` (one too few; for Z-IL all are read a step early).
    """

    def __init__(self, energy: en.Energy, cost: en.Cost, schedule: str, fault: str = "none") -> None:
        super().__init__(energy)
        self.cost, self.schedule, self.fault = cost, schedule, fault

    def phases(self, **data: Tensor) -> Sequence[en.Phase]:
        raise NotImplementedError

    def value(self, phases: Sequence[en.Phase]) -> Tensor:
        raise NotImplementedError

    def learn(self, data: Mapping[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        with torch.no_grad():
            return self._learn(dict(data))

    def _learn(self, data: dict[str, Tensor]) -> tuple[Tensor, dict[nn.Parameter, Tensor]]:
        model: Any = self.energy
        layers = [term.module for term in model.predictions.values()]
        kinds = ["linear"] + [model.activation] * (len(layers) - 1)
        last = len(layers)
        z = [data[model.first]]
        for layer, kind in zip(layers, kinds, strict=True):
            z.append(self._predict(layer, kind, z[-1]))
        frozen = list(z)
        errors = [torch.zeros_like(v) for v in z]
        gradient: dict[nn.Parameter, Tensor] = {}
        early = self.fault == "steps" and last > 1
        for step in range(last):
            predictions = frozen if self.schedule == "fixed" else self._predictions(layers, kinds, z)
            errors = [v - p for v, p in zip(z, predictions, strict=True)]
            errors[last] = -self._slope(predictions[last], data["target"])
            if self.schedule == "fixed":
                read = list(range(last)) if step == last - 1 - early else []
            else:
                read = [k for k in range(last) if step == max(last - 1 - k - early, 0)]
            for k in read:
                sources = frozen if self.schedule == "fixed" else z
                value = F[kinds[k]][0](sources[k])
                gradient[layers[k].weight] = -layers[k].scale * errors[k + 1].T @ value / len(value)
                gradient[layers[k].bias] = -errors[k + 1].mean(0)
            moved = list(z)
            for k in range(1, last):
                at = frozen[k] if self.schedule == "fixed" else z[k]
                moved[k] = z[k] + self._force(layers[k], kinds[k], at, errors[k], errors[k + 1])
            z = moved
        for layer in layers:
            for p in (layer.weight, layer.bias):
                gradient.setdefault(p, torch.zeros_like(p))
        return torch.zeros((), dtype=z[0].dtype), gradient

    def _predict(self, layer: Any, kind: str, z: Tensor) -> Tensor:
        out = layer.scale * F[kind][0](z) @ layer.weight.T + layer.bias
        return out + z if layer.residual else out

    def _predictions(self, layers: list[Any], kinds: list[str], z: list[Tensor]) -> list[Tensor]:
        return [z[0]] + [self._predict(layer, k, v) for layer, k, v in zip(layers, kinds, z, strict=False)]

    def _force(self, layer: Any, kind: str, at: Tensor, own: Tensor, above: Tensor) -> Tensor:
        weight = layer.weight
        if self.fault == "transposed" and weight.shape[0] == weight.shape[1]:
            weight = weight.T
        back = layer.scale * above @ weight
        slope = F[kind][1](at)
        if self.fault == "derivative":
            slope = torch.ones_like(slope)
        skipped = above if layer.residual else 0.0
        if self.fault == "bracket":
            return (-own + slope) * back + skipped
        return -own + slope * back + skipped

    def _slope(self, output: Tensor, target: Tensor) -> Tensor:
        if isinstance(self.cost, en.CrossEntropy):
            return output.softmax(1) - target
        return output - target


class Chain:
    """A linear chain z_(l+1) = W_l z_l + b_l of units with precision pi_l, and what follows from algebra.

    It is the Gaussian z = (z_0, ..., z_L) with the precision matrix A' P A, where A has the identity on its diagonal
    and -W_l below it.
    """

    def __init__(self, model: en.models.PredictiveCoding) -> None:
        terms: list[Any] = list(model.predictions.values())
        self.names = [terms[0].source, *(term.target for term in terms)]
        sizes = [model.variables[name].shape[0] for name in self.names]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.place = {n: slice(a, b) for n, a, b in zip(self.names, ends, ends[1:], strict=False)}
        self.weights = [
            t.module.scale * t.module.weight.detach()
            + (torch.eye(t.module.weight.shape[0], dtype=torch.float64) if t.module.residual else 0)
            for t in terms
        ]
        self.biases = [t.module.bias.detach() for t in terms]
        self.precisions = [
            torch.as_tensor(t.precision, dtype=torch.float64).detach().expand(size)
            for t, size in zip(terms, sizes[1:], strict=True)
        ]
        A = torch.zeros(ends[-1] - sizes[0], ends[-1], dtype=torch.float64)
        for l, (W, name) in enumerate(zip(self.weights, self.names[1:], strict=True)):  # noqa: E741
            rows = slice(ends[l + 1] - sizes[0], ends[l + 2] - sizes[0])
            A[rows, self.place[name]] = torch.eye(sizes[l + 1], dtype=torch.float64)
            A[rows, self.place[self.names[l]]] = -W
        P = torch.cat(self.precisions).diag()
        self.hessian = A.T @ P @ A
        self.pull = A.T @ P @ torch.cat(self.biases)  # the energy is 1/2 z'Hz - pull'z + const
        self.constant = 0.5 * torch.cat(self.biases) @ P @ torch.cat(self.biases)

    def indices(self, names: Sequence[str]) -> Tensor:
        return torch.cat([torch.arange(self.hessian.shape[0])[self.place[n]] for n in names])

    def settled(self, known: Tensor, fixed: Tensor) -> Tensor:
        """The minimum over the free entries, from whole vectors (batch, all) and the mask of the known ones."""
        free = ~fixed
        H = self.hessian
        right = self.pull[free] - known[:, fixed] @ H[fixed][:, free]
        out = known.clone()
        out[:, free] = torch.linalg.solve(H[free][:, free], right.T).T
        return out

    def energy(self, z: Tensor) -> Tensor:
        return 0.5 * ((z @ self.hessian) * z).sum(1) - z @ self.pull + self.constant

    def join(self, state: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([state[name] for name in self.names], 1)


def network(*sizes: int, seed: int = 0, **more: Any) -> en.models.PredictiveCoding:
    torch.manual_seed(seed)
    model = en.models.PredictiveCoding(sizes, **more).double()
    for term in model.predictions.values():
        nn.init.uniform_(term.module.bias, -0.5, 0.5)  # type: ignore[union-attr, arg-type]
    return model


def supervised(model: en.models.PredictiveCoding, batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = "y" if model.first == "x" else "x"
    sizes = {model.first: model.variables[model.first].shape, "target": model.variables[output].shape}
    return {n: torch.randn(batch, *s, dtype=torch.float64, generator=generator) for n, s in sizes.items()}


def autograd(model: en.models.PredictiveCoding, cost: en.Cost, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain backprop through the network, under the names of the rule."""
    net = model.network()
    cost.energy(**{cost.output: net(data[model.first]), "target": data["target"]}).mean().backward()
    names = [f"energy.{n}" for n, p in model.named_parameters()]
    return {n: p.grad for n, p in zip(names, net.parameters(), strict=True) if p.grad is not None}
