"""Which library multiplies matrices: a choice that changes the time and the rounding, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Below so many multiplications its call costs more than it saves: 10 microseconds.
WORTH = 2**21

_ONEDNN: ContextVar[Any] = ContextVar("onednn", default=None)


@contextmanager
def onednn(enabled: bool = True) -> Iterator[None]:
    """Within this, large float32 matrix products on the CPU are oneDNN's rather than those of torch's BLAS.

    On AMD processors MKL, the BLAS of torch's packages for x86, reaches half of oneDNN's rate in float32.
    The products differ in the order of their sums, and so by rounding, as those of any two libraries. It
    concerns the products that energynet computes from the trace of an energy (forces, parameter gradients,
    laws of units), in this thread and in this context only; products that autograd goes through, other dtypes
    and devices, and small ones stay as they are.

    Parameters
    ----------
    enabled
        False for torch's own within a context that has oneDNN's.

    Raises
    ------
    RuntimeError
        Where this torch has no oneDNN; ask `onednn_available` first.

    Examples
    --------
    >>> with en.backends.onednn():
    ...     rule(v=images).backward()
    """
    if enabled and not onednn_available():
        raise RuntimeError(
            "onednn: this build of torch has no oneDNN; leave the context out, or ask onednn_available() "
            "first"
        )
    token = _ONEDNN.set(torch.ops.mkldnn._linear_pointwise if enabled else None)
    try:
        yield
    finally:
        _ONEDNN.reset(token)


def onednn_available() -> bool:
    """Whether `onednn` can be had: torch was built with it, and has its operator for a product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def mm(first: Tensor, second: Tensor) -> Tensor:
    """`torch.mm` by what is chosen."""
    product = _ONEDNN.get()
    if product is None or not _fits(first, second):
        return torch.mm(first, second)
    return product(first, second.t(), None, "none", [], "")


def addmm(total: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`torch.addmm` by what is chosen."""
    product = _ONEDNN.get()
    if product is None or not _fits(first, second):
        return torch.addmm(total, first, second, beta=beta, alpha=alpha)
    scaled = first if alpha == 1 else first * alpha
    if beta == 0:
        return product(scaled, second.t(), None, "none", [], "")
    if total.dim() == 1 and total.is_contiguous() and beta == 1:
        return product(scaled, second.t(), total, "none", [], "")
    return product(scaled, second.t(), None, "none", [], "").add_(total, alpha=beta)


def addmm_(total: Tensor, first: Tensor, second: Tensor, *, alpha: float = 1) -> Tensor:
    """`Tensor.addmm_` by what is chosen."""
    product = _ONEDNN.get()
    if product is None or not _fits(first, second):
        return total.addmm_(first, second, alpha=alpha)
    return total.add_(product(first, second.t(), None, "none", [], ""), alpha=alpha)


def _fits(first: Tensor, second: Tensor) -> bool:
    """Whether oneDNN takes these, and gains by it."""
    return (
        first.numel() * second.shape[1] >= WORTH
        and first.dtype is torch.float32
        and second.dtype is torch.float32
        and first.device.type == "cpu"
        and not (torch.is_grad_enabled() and (first.requires_grad or second.requires_grad))
        # the operator has no derivative of any kind, and its tangent would be silently none
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and _dense(first)
        and _dense(second)
    )


def _dense(matrix: Tensor) -> bool:
    return matrix.is_contiguous() or matrix.t().is_contiguous()
