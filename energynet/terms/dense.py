"""A layer of a network whose activation acts on the units that send."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Dense(nn.Module):
    """scale * W f(z) + b, plus z itself where it is residual: a layer that predicts the next.

    Parameters
    ----------
    inputs, outputs
        Numbers of units.
    activation
        f, on the units that predict; ``nn.Identity()`` for a linear layer.
    bias
        Whether there is one.
    scale
        Of the product.
    residual
        Whether z is added; it needs as many outputs as inputs.

    Attributes
    ----------
    weight
        Parameter of shape (outputs, inputs), from U(-1/sqrt(inputs), 1/sqrt(inputs)).
    bias
        Parameter of shape (outputs,), zero at first; None where there is none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: nn.Module,
        *,
        bias: bool = True,
        scale: float = 1.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and inputs != outputs:
            raise ValueError(
                f"Dense: a residual layer has as many outputs as inputs, got {inputs} and {outputs}"
            )
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = float(scale)
        self.residual = residual

    def forward(self, source: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The prediction of the next layer."""
        value = self.activation(source)
        if self.scale == 1:
            product = functional.linear(value, self.weight, self.bias)
        else:
            product = self.scale * functional.linear(value, self.weight)
            product = product if self.bias is None else product + self.bias
        return product + source if self.residual else product

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}, scale={self.scale:g}, residual={self.residual}"
