"""What may be traced, and what must not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from helpers.functional import Functional, autograd_force, traced_force


def check(energy: en.Energy, *sizes: int, shape: tuple[int, ...] = (4,)) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        state = {"s": torch.randn(size, *shape, generator=generator, dtype=torch.float64)}
        expected, found = autograd_force(energy, state, ["s"]), traced_force(energy, state, ["s"])
        assert torch.allclose(found["s"], expected["s"], rtol=1e-10, atol=1e-12)


def by_size(energy: en.Energy, s: Tensor) -> Tensor:
    return s.square().sum(1) * (2 if s.shape[0] > 4 else 1)


def by_length(energy: en.Energy, s: Tensor) -> Tensor:
    return (s.square() * torch.full((len(s), 4), 2.0, dtype=s.dtype)).sum(1)


def by_value(energy: en.Energy, s: Tensor) -> Tensor:
    return s.square().sum(1) * (2 if float(s.detach().sum()) > 0 else 1)


def by_drop_out(energy: en.Energy, s: Tensor) -> Tensor:
    return nn.functional.dropout(s, 0.5, training=True).square().sum(1) * 0 + s.square().sum(1)


def by_slices(energy: en.Energy, s: Tensor) -> Tensor:
    product = s * 2
    product[:, :2].mul_(3.0)
    return product.square().sum(1)


def by_filling(energy: en.Energy, s: Tensor) -> Tensor:
    product = s * 0
    product[:, 0] = s[:, 1] * s[:, 2]
    return product.sum(1) + s.square().sum(1)


def by_filling_with_parameters(energy: en.Energy, s: Tensor) -> Tensor:
    product = -energy.W  # type: ignore[operator]
    product[:1] = 0.0  # through a view that is read nowhere else
    return (s * product).sum(1) + s.square().sum(1)


@pytest.mark.parametrize(
    "function",
    [by_size, by_length, by_value, by_drop_out, by_slices, by_filling, by_filling_with_parameters],
    ids=lambda f: f.__name__,
)
def test_what_a_trace_cannot_follow_comes_from_autograd(function: object) -> None:
    tensors = {"W": torch.arange(1.0, 5.0, dtype=torch.float64)}
    energy = Functional(function, tensors, s=en.Real(4))  # type: ignore[arg-type]
    with pytest.warns(en.EagerFallback) as caught:
        check(energy, 7, 3, 9, 1)
    assert len(caught) == 1


def test_the_note_says_why() -> None:
    with pytest.warns(en.EagerFallback, match=r"not len\(s\)"):
        check(Functional(by_length, s=en.Real(4)), 3)


def test_branches_of_torch_on_the_batch_size_do_not_spoil_a_trace(float64: torch.dtype) -> None:
    """A convolution chooses its implementation by the batch size: no reason to give up, so no warning."""
    torch.manual_seed(0)
    energy = Functional(
        lambda e, s: e.net(s).tanh().flatten(1).sum(1), {"net": nn.Conv2d(1, 2, 3)}, s=en.Real(1, 6, 6)
    )
    check(energy, 1, 2, 7, 20, shape=(1, 6, 6))


def test_sizes_as_numbers_serve_every_batch() -> None:
    def mean_of_samples(energy: en.Energy, s: Tensor) -> Tensor:
        return s.square().sum(1) * s.shape[0] / (s.shape[0] + 1)

    energy = Functional(mean_of_samples, s=en.Real(4))
    check(energy, 1, 2, 7, 8)


def test_a_sum_of_more_dimensions_than_its_product(float64: torch.dtype) -> None:
    """(batch, n) + (k, 1, n) broadcasts to three dimensions, which a fused multiply-add cannot."""
    torch.manual_seed(0)
    energy = Functional(
        lambda e, s: (s @ e.weight + e.offset).tanh().sum((0, 2)),
        {"weight": torch.randn(4, 5), "offset": torch.randn(3, 1, 5)},
        s=en.Real(4),
    )
    check(energy, 1, 3, 7)
    state = {"s": torch.randn(6, 4)}
    assert torch.allclose(en.settle(energy, state, max_steps=0).energy, energy(state))
