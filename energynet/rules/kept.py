"""Tensors that a rule keeps from one call to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn


@final
class Kept(nn.Module):
    """Tensors by name, as buffers: a ``state_dict`` holds them and `load_state_dict` brings them back.

    How many there are, and of what shapes, is decided by what is put in, or loaded.
    """

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all."""
        for name in list(self._buffers):
            if name not in tensors:
                del self._buffers[name]
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def get(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """All, by name; moved where a device is given, for checkpoints may be read on another."""
        found = {name: value for name, value in self._buffers.items() if value is not None}
        return found if device is None else {name: value.to(device) for name, value in found.items()}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        like = next(iter(self.get().values()), None)
        found = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        self.put({k: v.clone() if like is None else v.clone().to(like.device) for k, v in found.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)  # type: ignore[arg-type]
