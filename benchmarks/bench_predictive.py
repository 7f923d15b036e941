"""Predictive coding against backprop of the same network: exact rules, and inference of the states."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from conftest import Versus

SIZES = (784, 300, 300, 10)
COST = en.SquaredError("y")


def network() -> tuple[en.models.PredictiveCoding, Tensor, Tensor]:
    """A network with a batch of 64 random images and labels."""
    torch.manual_seed(0)
    model = en.models.PredictiveCoding(SIZES)
    return model, torch.rand(64, 784), functional.one_hot(torch.randint(0, 10, (64,)), 10).float()


def step_of(loss: Callable[[], Tensor], parameters: Any) -> Callable[[], None]:
    optimiser = torch.optim.SGD(parameters, lr=0.0)  # the same network at every round

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def backprop(model: en.models.PredictiveCoding, x: Tensor, target: Tensor) -> Callable[[], None]:
    net = model.network()

    def loss() -> Tensor:
        return (0.5 * (net(x) - target).square().sum(1)).mean()

    return step_of(loss, net.parameters())


@pytest.mark.parametrize("rule", [en.ZIL, en.FixedPrediction])
def bench_exact(versus: Versus, rule: Any) -> None:
    model, x, target = network()
    exact = rule(model, COST)
    versus(
        f"{rule.__name__} training step, 784-300-300-10, batch 64, against backprop",
        backprop(model, x, target),
        step_of(lambda: exact(x=x, target=target), exact.parameters()),
        goal="at most 1.2",
        rounds=101,
    )


@pytest.mark.parametrize("within", [nullcontext, en.backends.onednn])
def bench_state_inference(versus: Versus, within: Callable[[], AbstractContextManager[None]]) -> None:
    """Twenty steps of gradient descent on the states, then the weights."""
    model, x, target = network()
    rule = en.MaximumAPosteriori(model, solver=en.Euler(0.1), max_steps=20, until=en.Never())
    step = step_of(lambda: rule(x=x, y=target), rule.parameters())

    def candidate() -> None:
        with within():
            step()

    where = "" if within is nullcontext else " within en.backends.onednn(),"
    versus(
        f"predictive coding, 20 steps of states, 784-300-300-10, batch 64,{where} against backprop",
        backprop(model, x, target),
        candidate,
        goal="at most 5.5",
    )


@pytest.mark.parametrize("evaluations", [3, 4])
def bench_error_coordinates(versus: Versus, evaluations: int) -> None:
    """Inference in the errors by L-BFGS, with three and four evaluations of the energy, then the weights."""
    model, x, target = network()
    settled = en.MaximumAPosteriori(model, coordinates="errors", max_steps=50)
    exact = gradient_of(settled, x, target)
    steps = evaluations - 1
    solver = en.LBFGS(history=steps - 1)  # there are no more before the last
    rule = en.MaximumAPosteriori(
        model, coordinates="errors", solver=solver, max_steps=steps, until=en.Never()
    )
    found = gradient_of(rule, x, target)
    versus(
        f"predictive coding, {evaluations} evaluations of errors, 784-300-300-10, against backprop",
        backprop(model, x, target),
        step_of(lambda: rule(x=x, y=target), rule.parameters()),
        goal="at most 2.0 within 1e-3 of the settled gradient",
        note=f"gradient within {float((found - exact).norm() / exact.norm()):.1e}",
    )


def gradient_of(rule: en.LearningRule, x: Tensor, target: Tensor) -> Tensor:
    """The gradient of all parameters as one vector."""
    rule.zero_grad()
    rule(x=x, y=target).backward()
    return torch.cat([p.grad.flatten() for p in rule.parameters() if p.grad is not None])
