"""Persistent contrastive divergence, RBM 784x500, batches of 100, against scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.neural_network import BernoulliRBM

import energynet as en

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Versus

VISIBLE, HIDDEN, BATCH, RATE = 784, 500, 100, 0.01
STEPS = 5  # in each round


def images() -> np.ndarray:
    return (np.random.default_rng(0).random((BATCH, VISIBLE)) < 0.2).astype(np.float64)


def theirs(kind: type = BernoulliRBM) -> Callable[[], None]:
    """Steps of scikit-learn's machine, which `partial_fit` takes in float64."""
    machine = kind(HIDDEN, learning_rate=RATE, batch_size=BATCH, random_state=0)
    X = images()

    def run() -> None:
        for _ in range(STEPS):
            machine.partial_fit(X)

    return run


def fitted(kind: type) -> Callable[[], None]:
    """The same in float32, which `fit` takes."""
    X = np.tile(images().astype(np.float32), (STEPS, 1))
    return lambda: kind(HIDDEN, learning_rate=RATE, batch_size=BATCH, n_iter=1, random_state=0).fit(X)


def ours(centring: float = 0.0) -> Callable[[], None]:
    """Steps of the generic rule, traces and all, with an optimiser of torch."""
    model = en.models.RestrictedBoltzmannMachine(VISIBLE, HIDDEN)
    rule = en.ContrastiveDivergence(
        model, persistent=True, centring=centring, generator=torch.Generator().manual_seed(0)
    )
    optimiser = torch.optim.SGD(rule.parameters(), RATE)
    v = torch.from_numpy(images()).float()

    def run() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            rule(v=v).backward()
            optimiser.step()

    return run


def bench_step(versus: Versus) -> None:
    versus(
        f"{STEPS} steps of PCD-1, RBM 784x500, batch 100, against BernoulliRBM.partial_fit",
        theirs(),
        ours(),
        goal="at most 0.45",
        note="float32 against float64, the only one that partial_fit has",
    )


def bench_product(versus: Versus) -> None:
    images, weight = torch.rand(BATCH, VISIBLE), torch.rand(HIDDEN, VISIBLE).t()

    def plain() -> None:
        for _ in range(STEPS):
            en.backends.mm(images, weight)

    def chosen() -> None:
        with en.backends.onednn():
            plain()

    versus(
        f"{STEPS} products of 100x784 and 784x500, float32, within en.backends.onednn(), against torch's own",
        plain,
        chosen,
        goal="below 1",
    )


def bench_step_by_onednn(versus: Versus) -> None:
    run = ours()

    def chosen() -> None:
        with en.backends.onednn():
            run()

    versus(
        f"{STEPS} steps of PCD-1 within en.backends.onednn(), against BernoulliRBM.partial_fit",
        theirs(),
        chosen,
        goal="at most 0.45",
        note="the same in float32, with products by oneDNN, not by MKL",
    )


def bench_step_in_float32(versus: Versus) -> None:
    versus(
        f"{STEPS} steps of PCD-1, RBM 784x500, batch 100, against BernoulliRBM.fit in float32",
        fitted(BernoulliRBM),
        ours(),
        goal="below 1",
    )


def bench_centred_step(versus: Versus) -> None:
    versus(
        f"{STEPS} centred steps of PCD-1, against BernoulliRBM.partial_fit, which has none",
        theirs(),
        ours(0.01),
        goal="below 1",
    )


def bench_drop_in(versus: Versus) -> None:
    versus(
        f"{STEPS} calls of en.sklearn.RBM.partial_fit against BernoulliRBM's, the same numbers",
        theirs(),
        theirs(en.sklearn.RBM),
        goal="below 1",
    )


def bench_drop_in_float32(versus: Versus) -> None:
    versus(
        "en.sklearn.RBM.fit against BernoulliRBM.fit in float32",
        fitted(BernoulliRBM),
        fitted(en.sklearn.RBM),
        goal="below 1",
    )
