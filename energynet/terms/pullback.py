"""A module at one source: its prediction there, and the transpose of its derivative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import usable
from energynet.terms.dense import Dense

aten = torch.ops.aten
Slope = Callable[[Tensor, Tensor, Tensor], Tensor]

# From the slope in an activation's value, its argument and its value, to the slope in its argument.
_SLOPES: dict[type[nn.Module], Slope] = {
    nn.Identity: lambda slope, _, __: slope,
    nn.Tanh: lambda slope, _, value: aten.tanh_backward(slope, value),
    nn.Sigmoid: lambda slope, _, value: aten.sigmoid_backward(slope, value),
    nn.ReLU: lambda slope, argument, _: aten.threshold_backward(slope, argument, 0),
}


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
            The slope in each parameter that requires grad, summed over the batch, in memory of its own.
        """


@final
class _ByAutograd(Linearised):
    """Any module."""

    def __init__(self, module: nn.Module, source: Tensor) -> None:
        self._leaf = usable(source).requires_grad_()
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
        return first, dict(zip(self._parameters, separate(rest, [slope]), strict=False))


def separate(slopes: Iterable[Tensor], held: Iterable[Tensor]) -> list[Tensor]:
    """The same, none in memory of another or of what somebody holds: autograd and traces pass views on."""
    taken = {tensor.untyped_storage().data_ptr() for tensor in held}
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
            if scale == 1:
                product = functional.linear(self._value, weight, bias)
            else:  # in the order of the module's own, so that rounding is the same
                product = functional.linear(self._value, weight).mul_(scale)
                product = product if bias is None else product.add_(bias)
            self.prediction = product.add_(source) if parts.residual else product

    def pull(
        self, slope: Tensor, *, source: bool, parameters: bool
    ) -> tuple[Tensor | None, dict[nn.Parameter, Tensor]]:
        parts = self._parts
        found: dict[nn.Parameter, Tensor] = {}
        first: Tensor | None = None
        with torch.no_grad():
            inner = slope if parts.scale == 1 else slope * parts.scale
            if parameters and parts.weight.requires_grad:
                found[parts.weight] = torch.mm(inner.t(), self._value)
            if parameters and parts.bias is not None and parts.bias.requires_grad:
                found[parts.bias] = slope.sum(0)
            if source:
                first = parts.slope(torch.mm(inner, parts.weight), self._source, self._value)
                first = first + slope if parts.residual else first
        return first, found


def linearise(module: nn.Module, source: Tensor) -> Linearised:
    """A module at a source: in closed form where it is an activation and a linear map, else by autograd."""
    parts = _parts(module) if source.ndim == 2 else None
    return _ByAutograd(module, source) if parts is None else _Dense(parts, source.detach())


def _hooked(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _parts(module: nn.Module) -> _Parts | None:
    """The parts of a dense layer; None where the module is something else, or may do more than they."""
    weight: Any
    bias: Any
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
    if slope is None or inplace or any(map(_hooked, whole)):
        return None
    return _Parts(activation, slope, weight, bias, scale, residual)
