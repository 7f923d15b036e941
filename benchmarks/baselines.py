"""What the library is compared with, written by hand in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

import energynet as en


class HardSigmoid(nn.Module):
    """clip(x, 0, 1), the activation of the networks compared here."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


def backprop_step(sizes: Sequence[int], x: Tensor, target: Tensor) -> Callable[[], None]:
    """A training step of a feed-forward network with layers of these sizes."""
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), HardSigmoid())]
    network = nn.Sequential(*layers)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        (0.5 * (network(x) - target).square().sum(1)).mean().backward()
        optimiser.step()

    return step


def hand_sweeps(model: en.models.LayeredHopfield, x: Tensor, sweeps: int) -> Callable[[], Tensor]:
    """Gauss-Seidel sweeps of the free phase, every product and clip in place in preallocated buffers."""
    names = [name for name in model.variables if name != "x"]
    weights = [model.couplings[f"{a}_{b}"].weight.detach() for a, b in pairwise(["x", *names])]
    biases = [model.fields[name].bias.detach() for name in names]
    drive = torch.addmm(biases[0], x, weights[0].t())
    state = [torch.zeros(len(x), len(bias)) for bias in biases]
    last = len(state) - 1
    order = [*range(0, last + 1, 2), *range(1, last + 1, 2)]

    def run() -> Tensor:
        for layer in state:
            layer.zero_()
        for _ in range(sweeps):
            for i in order:
                out = state[i]
                if i == 0:
                    torch.addmm(drive, state[1], weights[1], out=out)
                else:
                    torch.addmm(biases[i], state[i - 1], weights[i].t(), out=out)
                    if i < last:
                        out.addmm_(state[i + 1], weights[i + 1])
                out.clamp_(0, 1)
        return state[last]

    return run


def naive_gradient(
    model: en.models.LayeredHopfield, x: Tensor, target: Tensor, *, beta: float, dt: float, tol: float
) -> Callable[[], int]:
    """The centered gradient as research code has it: autograd of the scalar energy at every Euler step."""

    def settle(state: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
        for _ in range(2000):
            leaves = {name: value.detach().requires_grad_() for name, value in state.items()}
            total = model.energy(x=x, **leaves).sum()
            if strength:
                total = total + strength * 0.5 * (leaves["y"] - target).square().sum()
            slopes = torch.autograd.grad(total, list(leaves.values()))
            new = {
                n: (v.detach() - dt * g).clamp(0, 1) for (n, v), g in zip(leaves.items(), slopes, strict=True)
            }
            change = max(
                float(((state[n] - g).clamp(0, 1) - state[n]).abs().max())
                for n, g in zip(state, slopes, strict=True)
            )
            state = new
            if change <= tol:
                break
        return state

    def run() -> int:
        zero = {n: torch.zeros(len(x), *v.shape) for n, v in model.variables.items() if n != "x"}
        free = settle(zero, 0.0)
        plus, minus = settle(free, beta), settle(free, -beta)
        model.zero_grad()
        difference = (model.energy(x=x, **plus) - model.energy(x=x, **minus)).mean() / (2 * beta)
        difference.backward()
        return 0

    return run


def flat_gradient(model: nn.Module) -> Tensor:
    """The gradient of all parameters as one vector, in float64."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
