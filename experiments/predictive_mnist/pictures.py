"""Digits from labels and from their upper halves, by the weights that `run.py` has trained."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import energynet as en
from energynet import data

GIVEN = 0.05  # precision of what the leak and the Gaussian know of an image, beside 1 of the predictions


class Gaussian(en.Energy):
    """What is known of images before anything is learned: their mean and their covariance."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(x=en.Real(images.shape[1]))
        covariance = images.double().T.cov() + 1e-3 * torch.eye(images.shape[1], dtype=torch.float64)
        self.register_buffer("mean", images.mean(0))
        self.register_buffer("precision", covariance.inverse().to(images.dtype))

    def energy(self, x: Tensor) -> Tensor:
        from_mean = x - self.mean
        return 0.5 * (from_mean * (from_mean @ self.precision)).sum(1)


def picture(model: en.models.PredictiveCoding, prior: en.Energy | None, start: Tensor, steps: int) -> Tensor:
    """An image for each label: the label clamped, everything else settled."""
    y = torch.eye(10)
    energy = model if prior is None else model + GIVEN * prior
    state = (
        model.feedforward(y) if model.direction == "generative" else model.feedforward(start.expand(10, -1))
    )
    state.pop("y")
    return en.settle(energy, state, clamp={"y": y}, solver=en.LBFGS(), max_steps=steps).state["x"]


def completed(
    model: en.models.PredictiveCoding, prior: en.Energy | None, images: Tensor, steps: int
) -> Tensor:
    """The lower half from the upper one: no label, everything but the upper half settled."""
    mask = torch.arange(images.shape[1]) < images.shape[1] // 2
    part = en.Partial(images, mask)
    energy = model + 0.1 * en.terms.Leak(y=model.variables["y"])
    if prior is not None:
        energy = energy + GIVEN * prior
    if model.direction == "generative":  # every label is tried, and the best explanation is kept
        y = torch.eye(10).repeat_interleave(len(images), 0)
        part = en.Partial(images.repeat(10, 1), mask)
        state = {n: v for n, v in model.feedforward(y).items() if n not in ("x", "y")}
        solution = _settled(model, {"x": part, "y": y}, state, steps)
        best = solution.energy.view(10, -1).argmin(0)
        return solution.state["x"].view(10, *images.shape)[best, torch.arange(len(images))]
    state = model.feedforward(torch.where(mask, images, images.mean(0)))
    return _settled(energy, {"x": part}, {n: v for n, v in state.items() if n != "x"}, steps).state["x"]


def _settled(
    energy: en.Energy, clamp: dict[str, Tensor | en.Partial], state: dict[str, Tensor], steps: int
) -> en.Solution:
    return en.settle(energy, state, clamp=clamp, solver=en.LBFGS(), max_steps=steps)


def draw_digits(rows: dict[str, Tensor], path: Path) -> None:
    """One row of images for each way to make them; grey values from 0 to 1 as in the data."""
    side = int(next(iter(rows.values())).shape[1] ** 0.5)
    figure, panels = plt.subplots(len(rows), 10, figsize=(9, 1.06 * len(rows)))
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.view(side, side), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=8, pad=3)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, 0.05, 0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pictures(
    discriminative: en.models.PredictiveCoding,
    generative: en.models.PredictiveCoding,
    learn: data.Split,
    test: data.Split,
    steps: int,
) -> dict[str, Tensor]:
    """Digits by discriminative and by generative weights."""
    features = learn.x.shape[1]
    mean, prior = learn.x.mean(0), Gaussian(learn.x)
    shown = torch.stack([test.x[test.label == digit][0] for digit in range(10)])
    dark = shown.clone()
    dark[:, features // 2 :] = 0
    leak = en.terms.Leak(x=discriminative.variables["x"])
    return {
        "discriminative weights, label clamped, 0.05/2 |x|²": picture(discriminative, leak, mean, steps),
        "the same weights, label clamped, Gaussian prior of the pixels": picture(
            discriminative, prior, mean, steps
        ),
        "generative weights, label clamped, no prior": picture(generative, None, mean, steps),
        "test images": shown,
        "what is clamped": dark,
        "completed by discriminative weights, Gaussian prior": completed(discriminative, prior, shown, steps),
        "completed by the Gaussian prior alone": alone(prior, shown, steps),
        "completed by generative weights, no prior": completed(generative, None, shown, steps),
    }


def alone(prior: Gaussian, images: Tensor, steps: int) -> Tensor:
    """What the prior knows without a network."""
    mask = torch.arange(images.shape[1]) < images.shape[1] // 2
    return _settled(prior, {"x": en.Partial(images, mask)}, {}, steps).state["x"]
