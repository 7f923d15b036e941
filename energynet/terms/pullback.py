"""A module at one source: its prediction there, and the transpose of its derivative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float

aten = torch.ops.aten
Slope = Callable[[Tensor, Tensor, Tensor], Tensor]

# From a slope in the values of an activation, the activation's argument and its value, to a slope in the argument.
_SLOPES: dict[type[nn.Module], Slope] = {
    nn.Identity: lambda slope, _, __: slope,
    nn.Tanh: lambda slope, _, value: aten.tanh_backward(slope, value),
    nn.Sigmoid: lambda slope, _, value: aten.sigmoid_backward(slope, value),
    nn.ReLU: lambda slope, argument, _: aten.threshold_backward(slope, argument, 0),
}


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


class Linearised(ABC):
    """A module at one source.

    Attributes
    ----------
    prediction
        Its value there, without a graph.
    """

    prediction: Tensor

    @abstractmethod
    def pull(
        self, slope: Tensor, *, source: bool, parameters: bool
    ) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        """Carry a slope in the prediction back.

        Parameters
        ----------
        slope
            Shaped like the prediction; it may be called with as many as one likes.
        source, parameters
            What is wanted.

        Returns
        -------
        source
            The slope in the source; None where it is not wanted.
        parameters
            The slope in each parameter that requires grad, summed over the batch; tensors that nobody else holds.
        """


@final
class _ByAutograd(Linearised):
    """Any module."""

    def __init__(self, module: nn.Module, source: Tensor) -> None:
        self._leaf = source.detach().requires_grad_()
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        with torch.enable_grad():
            self._output: Tensor = module(self._leaf)
        self.prediction = self._output.detach()

    def pull(
        self, slope: Tensor, *, source: bool, parameters: bool
    ) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        wanted = [self._leaf] * source + self._parameters * parameters
        if not wanted:
            return None, {}
        found = torch.autograd.grad(
            self._output, wanted, slope, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        first, rest = (found[0], found[1:]) if source else (None, found)
        return first, dict(zip(self._parameters, _separate(rest, slope), strict=False))


def _separate(slopes: Sequence[Tensor], given: Tensor) -> list[Tensor]:
    """The same, none in memory of another or of what autograd was given: it passes views on."""
    taken = {given.untyped_storage().data_ptr()}
    result = []
    for slope in slopes:
        place = slope.untyped_storage().data_ptr()
        result.append(slope.clone() if place in taken else slope)
        taken.add(place)
    return result


class _Parts(NamedTuple):
    """What a dense layer is made of."""

    activation: nn.Module
    slope: Slope
    weight: nn.Parameter
    bias: nn.Parameter | None
    scale: float = 1.0
    residual: bool = False


@final
class _Dense(Linearised):
    """An activation and a linear map, in closed form: two products and no graph."""

    def __init__(self, parts: _Parts, source: Tensor) -> None:
        self._parts = parts
        self._source = source
        with torch.no_grad():
            self._value = parts.activation(source)
            weight, bias, scale = parts.weight, parts.bias, parts.scale
            if bias is None:
                product = torch.mm(self._value, weight.t())
                product = product if scale == 1 else product.mul_(scale)
            else:
                product = torch.addmm(bias, self._value, weight.t(), alpha=scale)
            self.prediction = product.add_(source) if parts.residual else product

    def pull(
        self, slope: Tensor, *, source: bool, parameters: bool
    ) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        parts = self._parts
        found: dict[nn.Parameter, Tensor] = {}
        first: Tensor | None = None
        with torch.no_grad():
            if parameters and parts.weight.requires_grad:
                product = torch.mm(slope.t(), self._value)
                found[parts.weight] = product if parts.scale == 1 else product.mul_(parts.scale)
            if parameters and parts.bias is not None and parts.bias.requires_grad:
                found[parts.bias] = slope.sum(0)
            if source:
                product = torch.mm(slope, parts.weight)
                product = product if parts.scale == 1 else product.mul_(parts.scale)
                first = parts.slope(product, self._source, self._value)
                first = first + slope if parts.residual else first
        return first, found


def linearise(module: nn.Module, source: Tensor) -> Linearised:
    """A module at a source: in closed form where it is an activation and a linear map, else by autograd."""
    parts = _parts(module) if source.ndim == 2 else None
    return _ByAutograd(module, source) if parts is None else _Dense(parts, source.detach())


def _parts(module: nn.Module) -> _Parts | None:
    """The parts of a dense layer; None where the module is something else, or may do more than they."""
    bias: nn.Parameter | None
    if isinstance(module, Dense):
        whole: tuple[nn.Module, ...] = (module, module.activation)
        activation, weight, bias = module.activation, module.weight, module.bias
        scale, residual = module.scale, module.residual
    else:
        layers = tuple(module) if type(module) is nn.Sequential else (module,)
        if len(layers) not in (1, 2) or type(layers[-1]) is not nn.Linear:
            return None
        whole = (module, *layers)
        activation = layers[0] if len(layers) == 2 else nn.Identity()
        weight, bias = layers[-1].weight, layers[-1].bias
        scale, residual = 1.0, False
    slope = _SLOPES.get(type(activation))
    inplace = isinstance(activation, nn.ReLU) and activation.inplace
    if slope is None or inplace or any(m._forward_hooks or m._forward_pre_hooks for m in whole):
        return None
    return _Parts(activation, slope, weight, bias, scale, residual)
