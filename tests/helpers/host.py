"""Whether code asks a tensor for a number, which waits for the device."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator

aten = torch.ops.aten
_QUESTIONS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.is_nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
}


class _Listening(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func is aten.index.Tensor and any(i.dtype == torch.bool for i in args[1] if i is not None)
        assert not masked and func.overloadpacket not in _QUESTIONS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_question() -> Iterator[None]:
    """Fail where an operator needs the values of a tensor on the host."""
    with _Listening():
        yield
