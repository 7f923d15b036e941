"""Whitened patches of natural images and a dictionary learned from them, for benchmarks of sparse codes."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from energynet import data

SIDE, ATOMS = 16, 512
STRENGTH, NORM, RIDGE = 0.1, 2.0, 1e-4


@functools.cache
def patches(count: int = 20_000) -> Tensor:
    """Patches of scikit-learn's two images, whitened (ZCA) and of norm 2 on average, (count, 256)."""
    x = data.patches(data.natural_images(), SIDE, count, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(1, keepdim=True)
    white = data.zca(x, ridge=RIDGE)(x)
    return NORM * white / white.norm(dim=1).mean()


@functools.cache
def dictionary(batches: int = 150, batch: int = 256) -> Tensor:
    """Atoms of unit norm, (256, 512), from patches at random; on-line as Mairal et al. (2010)."""
    x, generator = patches(), torch.Generator().manual_seed(0)
    weight = functional.normalize(x[torch.randperm(len(x), generator=generator)[:ATOMS]].T, dim=0)
    inner, outer = torch.zeros(ATOMS, ATOMS), torch.zeros(SIDE**2, ATOMS)
    for _ in range(batches):
        drawn = x[torch.randint(len(x), (batch,), generator=generator)]
        code = fista(weight, drawn, 20)
        inner, outer = torch.lerp(code.T @ code, inner, 0.9), torch.lerp(drawn.T @ code, outer, 0.9)
        rate = 0.3 / (inner.diagonal() + 0.1 * inner.diagonal().mean())
        for _ in range(3):
            weight = functional.normalize(weight + (outer - weight @ inner) * rate, dim=0)
    return weight


def fista(weight: Tensor, x: Tensor, steps: int, strength: float = STRENGTH) -> Tensor:
    """FISTA by hand on the Gram matrix (Beck and Teboulle 2009, eq. 4.1 to 4.3), in few buffers."""
    gram = weight.T @ weight
    dt = 1 / torch.linalg.eigvalsh(gram)[-1]
    drive, turn = dt * (x @ weight), -dt * gram
    turn.diagonal().add_(1)
    code = torch.zeros_like(drive)
    ahead, t = code, 1.0
    for _ in range(steps):
        moved = functional.softshrink(torch.addmm(drive, ahead, turn), float(dt * strength))
        older = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = torch.lerp(code, moved, 1 + (t - 1) / older)
        code, t = moved, older
    return code
