"""Equilibrium propagation against backprop on layers of the same sizes, on MNIST."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING

import pytest
import torch
from baselines import backprop_step, flat_gradient, hand_sweeps, naive_gradient
from torch.nn import functional

import energynet as en

if TYPE_CHECKING:
    from torch import Tensor

    from conftest import Versus
    from energynet.data import Dataset

SHALLOW, DEEP = (784, 512, 10), (784, 512, 512, 10)
COST = en.SquaredError("y")
# Small, because a unit within beta of the kink of its hard sigmoid moves on one side of the nudge only: at
# 0.02 one such unit in a batch can take the cosine to 0.97. Rounding makes an error of 1e-3 at this beta.
BETA = 0.002


def rule_for(sizes: tuple[int, ...], model: en.Energy) -> en.EquilibriumPropagation:
    """The rule of the timed steps: 15 steps a phase, 20 on the deep network."""
    steps = 20 if len(sizes) > 3 else 15
    solver = en.BlockDescent(momentum=True)
    return en.EquilibriumPropagation(
        model, COST, beta=BETA, solver=solver, free_steps=steps, nudged_steps=steps
    )


@functools.cache
def trained(sizes: tuple[int, ...], x: Tensor, labels: Tensor) -> en.models.LayeredHopfield:
    """A network after 600 training steps of its rule."""
    torch.manual_seed(0)
    model = en.models.LayeredHopfield(sizes)
    rule = rule_for(sizes, model)
    optimiser = torch.optim.SGD(rule.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        batch = torch.randint(len(x), (100,), generator=generator)
        optimiser.zero_grad()
        rule(x=x[batch], target=one_hot(labels[batch])).backward()
        optimiser.step()
    return model


def one_hot(labels: Tensor) -> Tensor:
    return functional.one_hot(labels, 10).float()


def cosine_and_error(first: Tensor, second: Tensor) -> tuple[float, float]:
    cosine = functional.cosine_similarity(first, second, dim=0)
    return float(cosine), float((first - second).norm() / second.norm())


def implicit_gradient(model: en.Energy, x: Tensor, target: Tensor) -> Tensor:
    exact = copy.deepcopy(model).double()
    en.ImplicitDifferentiation(exact, COST)(x=x.double(), target=target.double()).backward()
    return flat_gradient(exact)


@pytest.mark.parametrize(
    ("sizes", "goal"), [(SHALLOW, "at most 4"), (DEEP, "at most 20")], ids=["one", "two"]
)
def bench_training_step(versus: Versus, mnist: Dataset, sizes: tuple[int, ...], goal: str) -> None:
    """A training step, batch 100: settle three phases, contract, update."""
    model = copy.deepcopy(trained(sizes, mnist.train.x, mnist.train.label))
    x, target = mnist.train.x[:100], one_hot(mnist.train.label[:100])
    rule = rule_for(sizes, model)
    optimiser = torch.optim.SGD(rule.parameters(), lr=0.0)  # the same network at every round

    def step() -> None:
        optimiser.zero_grad()
        rule(x=x, target=target).backward()
        optimiser.step()

    cosines = []
    for start in range(0, 400, 100):
        some, wanted = mnist.train.x[start : start + 100], one_hot(mnist.train.label[start : start + 100])
        model.zero_grad()
        rule(x=some, target=wanted).backward()
        cosines.append(cosine_and_error(flat_gradient(model), implicit_gradient(model, some, wanted))[0])
    name = "-".join(map(str, sizes))
    versus(
        f"EP training step, {name}, batch 100, against backprop",
        backprop_step(sizes, x, target),
        step,
        goal=goal,
        note=f"cosine to the implicit gradient {min(cosines):.4f}, the least of 4 batches",
    )
    assert min(cosines) >= 0.995


def bench_to_convergence(versus: Versus, mnist: Dataset) -> None:
    """The centered gradient settled to a residual of at most 1e-3, batch 128."""
    model = copy.deepcopy(trained(DEEP, mnist.train.x, mnist.train.label))
    x, target = mnist.train.x[:128], one_hot(mnist.train.label[:128])
    make = functools.partial(
        en.EquilibriumPropagation, model, COST, 0.1, solver=en.BlockDescent(momentum=True)
    )

    def gradient(rule: en.EquilibriumPropagation) -> Tensor:
        model.zero_grad()
        rule(x=x, target=target).backward()
        return flat_gradient(model)

    loose, tight = make(until=en.Stationary(atol=5e-4)), make(until=en.Stationary(atol=2e-6))
    _, error = cosine_and_error(gradient(loose), gradient(tight))

    def run() -> None:
        model.zero_grad()
        loose(x=x, target=target).backward()

    versus(
        "EP gradient to residual 5e-4, 784-512-512-10, batch 128, against backprop",
        backprop_step(DEEP, x, target),
        run,
        goal="at most 12",
        note=f"relative distance to the tightly settled gradient {error:.4f}",
    )
    assert error <= 0.02


def bench_naive(versus: Versus, mnist: Dataset) -> None:
    """The yardstick: autograd of the scalar energy at every Euler step, until the whole batch has settled."""
    model = copy.deepcopy(trained(DEEP, mnist.train.x, mnist.train.label))
    x, target = mnist.train.x[:128], one_hot(mnist.train.label[:128])
    versus(
        "autograd at every Euler step (dt = 0.5, residual 1e-3), 784-512-512-10, batch 128, against backprop",
        backprop_step(DEEP, x, target),
        naive_gradient(model, x, target, beta=0.1, dt=0.5, tol=1e-3),
        goal="the yardstick",
        rounds=5,
    )


@pytest.mark.parametrize("sizes", [SHALLOW, DEEP], ids=["one", "two"])
def bench_sweep(versus: Versus, mnist: Dataset, sizes: tuple[int, ...]) -> None:
    """The traced force in Gauss-Seidel sweeps, against the same by hand in place."""
    model = copy.deepcopy(trained(sizes, mnist.train.x, mnist.train.label))
    x = mnist.train.x[:100]
    sweeps = 20
    hand = hand_sweeps(model, x, sweeps)
    flow = en.GradientFlow(model, {"x": x})
    solver = en.BlockDescent()
    carry = solver.init(flow, flow.start)

    def traced() -> Tensor:
        with torch.no_grad():
            return solver.advance(flow, flow.start, carry, None, sweeps)[0]["y"]

    torch.testing.assert_close(traced(), hand(), rtol=1e-4, atol=1e-5)
    name = "-".join(map(str, sizes))
    versus(
        f"{sweeps} sweeps of {name}, batch 100, against by hand in place", hand, traced, goal="at most 1.4"
    )
