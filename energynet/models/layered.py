"""The layered Hopfield network of contrastive Hebbian learning and equilibrium propagation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import nn

from energynet.energy import Composite, Energy
from energynet.link import Sigmoid, Tanh
from energynet.terms import Bilinear, Field, Leak
from energynet.variable import Continuous, Interval, Real, Unit

ACTIVATIONS = ("hardsigmoid", "sigmoid", "tanh")
_FORWARD: dict[str, Callable[[], nn.Module]] = {
    "hardsigmoid": lambda: nn.Hardtanh(0.0, 1.0),  # clip(u, 0, 1); torch's own Hardsigmoid has slope 1/6
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


@final
class LayeredHopfield(Composite):
    r"""Layers of graded units; neighbours drive each other through the same weights in both directions.

    .. math:: E = \sum_{l} \sum_i \int^{s_{l,i}} f^{-1} - \sum_l b_l \cdot s_l
                  - \sum_l s_{l+1} \cdot W_l s_l

    over the layers above the input ``x``, with f the activation. It is stationary where every layer is
    ``s = f(W s_below + W' s_above + b)``. For the hard sigmoid this is the energy of Scellier and Bengio
    (2017, Front. Comput. Neurosci. 11:24, eq. 1) with states in [0, 1]; for the sigmoid and tanh it is that
    of Hopfield (1984, eq. 5), settled by mirror flow, so that units never stall where they saturate.

    Parameters
    ----------
    sizes
        Units of each layer from input to output, at least two numbers. The variables are ``x``, ``h1``, ...,
        ``y``.
    activation
        ``"hardsigmoid"`` (s clipped to [0, 1]), ``"sigmoid"`` or ``"tanh"``.
    skips
        Further connections, as pairs of names such as ``("x", "h2")``.

    Attributes
    ----------
    couplings
        One `Bilinear` term for each connection, named like ``"x_h1"``; its ``weight`` has the shape (target
        units, source units).
    fields
        One `Field` term for each layer above the input, by its name; it holds the ``bias``.
    leaks
        One `Leak` term for each layer above the input.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "hardsigmoid",
        *,
        skips: Iterable[tuple[str, str]] = (),
    ) -> None:
        sizes = tuple(sizes)
        if len(sizes) < 2:
            raise ValueError(f"LayeredHopfield: expected at least an input and an output size, got {sizes}")
        names = ["x", *(f"h{i}" for i in range(1, len(sizes) - 1)), "y"]
        variables: dict[str, Continuous] = {"x": Real(sizes[0])}
        variables.update({n: _layer(size, activation) for n, size in zip(names[1:], sizes[1:], strict=True)})
        super().__init__(**variables)
        pairs = [*pairwise(names), *(_skip(pair, names) for pair in skips)]
        if len(set(pairs)) < len(pairs):
            raise ValueError(f"LayeredHopfield: a skip is given twice in {pairs[len(names) - 1 :]}")
        self.activation = activation
        self.couplings = nn.ModuleDict(
            {f"{a}_{b}": Bilinear(a, b, **{a: variables[a], b: variables[b]}) for a, b in pairs}
        )
        self.fields = nn.ModuleDict({name: Field(**{name: variables[name]}) for name in names[1:]})
        self.leaks = nn.ModuleDict({name: Leak(**{name: variables[name]}) for name in names[1:]})

    def network(self) -> nn.Sequential:
        """Make the feed-forward network of the same layers, with a copy of the weights.

        Every layer is ``f(W s_below + b)``: what the energy's would be without feedback from above.

        Raises
        ------
        ValueError
            If there are skip connections, which a sequence of layers cannot have.
        """
        if len(self.couplings) != len(self.fields):
            raise ValueError(
                "LayeredHopfield: an nn.Sequential has no skip connections, but this network has "
                f"{', '.join(self.couplings)}; leave skips= empty"
            )
        layers: list[nn.Module] = []
        for coupling, field in zip(self.couplings.values(), self.fields.values(), strict=True):
            assert isinstance(coupling, Bilinear)
            assert isinstance(field, Field)
            weight = coupling.weight
            linear = nn.utils.skip_init(
                nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device
            )
            assert isinstance(linear, nn.Linear)
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(field.bias)
            layers += [linear, _FORWARD[self.activation]()]
        return nn.Sequential(*layers)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        groups = (self.leaks, self.fields, self.couplings)
        return tuple((1.0, part) for group in groups for part in group.values() if isinstance(part, Energy))


def _layer(size: int, activation: str) -> Continuous:
    if activation == "hardsigmoid":
        return Unit(size)
    if activation == "sigmoid":
        return Unit(size, link=Sigmoid())
    if activation == "tanh":
        return Interval(size, low=-1.0, high=1.0, link=Tanh())
    raise ValueError(
        f"LayeredHopfield: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
    )


def _skip(pair: tuple[str, str], names: list[str]) -> tuple[str, str]:
    source, target = pair
    for name in pair:
        if name not in names:
            raise ValueError(
                f"LayeredHopfield: skip {pair} names {name!r}; the layers are {', '.join(names)}"
            )
    if names.index(target) - names.index(source) < 2:
        raise ValueError(
            f"LayeredHopfield: skip {pair} must lead upwards over at least one layer of {', '.join(names)}"
        )
    return source, target
