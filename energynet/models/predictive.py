"""Predictive coding networks: every layer predicts the next, and the energy is the error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Composite, Energy
from energynet.state import State
from energynet.terms import Dense, Prediction
from energynet.terms.graph import predicted
from energynet.variable import Real

if TYPE_CHECKING:
    from jaxtyping import Float

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
DIRECTIONS = ("discriminative", "generative")
Precision = float | Tensor | Sequence[float | Tensor]


@final
class PredictiveCoding(Composite):
    r"""A chain of layers, each predicted by the one before it.

    .. math:: E = \sum_{l=0}^{L-1} \frac{\pi_l}{2} | z_{l+1} - W_l f(z_l) - b_l |^2

    summed over units for each sample (Whittington and Bogacz 2017, Neural Comput. 29:1229, eq. 2.16). The
    activation f acts on the units that predict, and not on the first layer, which predicts linearly:
    ``W_0 z_0 + b_0``. So the predictions are an ordinary multilayer perceptron with a linear output, a
    cross-entropy reads the output as logits, and what is predicted is unbounded, as its variable is.

    What is clamped decides how it runs. With the first layer clamped, it settles where the feed-forward
    network answers, at energy zero; with the last one clamped, it infers causes; with a part clamped
    (`Partial`), it completes. A first layer that is free has no prior of its own, and many values may
    explain the rest: add ``0.1 * terms.Leak(x=...)`` to prefer short ones.

    Parameters
    ----------
    sizes
        Units of each layer, from ``x`` to ``y``, at least two numbers; the variables are ``x``, ``h1``, ...,
        ``y``.
    activation
        ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"linear"``.
    direction
        ``"discriminative"``: x predicts h1, and so on up to y. ``"generative"``: y predicts the layer below,
        and so on down to x.
    precision
        One number for all predictions, or for each prediction, in their order, a number or a tensor with one
        precision for each unit.
    learn_precision
        Learn their logarithms, see `Prediction`.
    residual
        Add the source to the prediction of each hidden layer by a hidden layer; they must be equally wide.
    mu
        Draw the weights from N(0, 1) and scale the products by width and depth: by 1/sqrt(N) from the first
        layer, 1/sqrt(N L) between hidden layers that are residual and 1/sqrt(N) between others, and 1/N to
        the last, with N the units that predict and L the number of predictions (Innocenti et al. 2025,
        "muPC", arXiv:2505.13124, table 1). The activities of deep residual networks then neither explode
        nor vanish, and one learning rate serves every depth.
    bias
        Whether predictions have one.

    Attributes
    ----------
    predictions
        One `Prediction` for each layer but the first, in their order, by names such as ``"x_h1"``; its
        module is a `Dense` with ``weight`` and ``bias``.

    Examples
    --------
    >>> model = en.models.PredictiveCoding([784, 256, 256, 10])
    >>> en.settle(model, model.feedforward(x), clamp={"x": x, "y": label})
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        direction: str = "discriminative",
        *,
        precision: Precision = 1.0,
        learn_precision: bool = False,
        residual: bool = False,
        mu: bool = False,
        bias: bool = True,
    ) -> None:
        sizes = tuple(sizes)
        if len(sizes) < 2:
            raise ValueError(f"PredictiveCoding: expected at least an input and an output size, got {sizes}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"PredictiveCoding: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        if direction not in DIRECTIONS:
            raise ValueError(
                f"PredictiveCoding: direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}"
            )
        if residual and len(set(sizes[1:-1])) > 1:
            raise ValueError(
                f"PredictiveCoding: residual layers need hidden layers of one width, got {sizes[1:-1]}"
            )
        names = ["x", *(f"h{i}" for i in range(1, len(sizes) - 1)), "y"]
        variables = {name: Real(size) for name, size in zip(names, sizes, strict=True)}
        super().__init__(**variables)
        order = names if direction == "discriminative" else names[::-1]
        count = len(order) - 1
        self.activation, self.direction = activation, direction
        self.predictions = nn.ModuleDict()
        for level, (source, target) in enumerate(pairwise(order)):
            skips = residual and 0 < level < count - 1
            inputs, outputs = variables[source].shape[0], variables[target].shape[0]
            layer = Dense(
                inputs,
                outputs,
                ACTIVATIONS["linear" if level == 0 else activation](),
                bias=bias,
                scale=_scale(level, count, inputs, residual) if mu else 1.0,
                residual=skips,
            )
            if mu:
                nn.init.normal_(layer.weight)
            self.predictions[f"{source}_{target}"] = Prediction(
                source,
                target,
                layer,
                precision=_precision(precision, level, count),
                learn_precision=learn_precision,
                **{source: variables[source], target: variables[target]},
            )

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple((1.0, term) for term in self._terms())

    def _terms(self) -> Iterator[Prediction]:
        for term in self.predictions.values():
            assert isinstance(term, Prediction)
            yield term

    @property
    def first(self) -> str:
        """Name of the layer that nothing predicts: ``"x"``, or ``"y"`` where the model is generative."""
        return next(self._terms()).source

    def feedforward(self, value: Float[Tensor, "batch units"]) -> State:
        """Every layer at its prediction, from a value of the first: where settling is started.

        Parameters
        ----------
        value
            Of ``x``; of ``y`` where the model is generative.

        Returns
        -------
        State
            Of every variable, the first too, without a graph.
        """
        known = {self.first: value}
        self.check(known, partial=True)
        with torch.no_grad():
            state = {**known, **predicted(self, known)}
        return {name: state[name] for name in self.variables}

    def network(self) -> nn.Sequential:
        """Make the feed-forward network of the predictions, with a copy of the weights.

        ``nn.Linear`` layers with the activation between them; copies of the `Dense` layers where these are
        scaled or residual. It leads from ``x`` to ``y``, or back where the model is generative.
        """
        layers: list[nn.Module] = []
        for level, term in enumerate(self._terms()):
            dense = term.module
            assert isinstance(dense, Dense)
            if dense.scale != 1 or dense.residual:
                layers.append(copy.deepcopy(dense))
                continue
            weight = dense.weight
            linear = nn.utils.skip_init(
                nn.Linear,
                weight.shape[1],
                weight.shape[0],
                bias=dense.bias is not None,
                dtype=weight.dtype,
                device=weight.device,
            )
            assert isinstance(linear, nn.Linear)
            with torch.no_grad():
                linear.weight.copy_(weight)
                if dense.bias is not None:
                    linear.bias.copy_(dense.bias)
            layers += [linear] if level == 0 else [ACTIVATIONS[self.activation](), linear]
        return nn.Sequential(*layers)


def _scale(level: int, count: int, inputs: int, residual: bool) -> float:
    if level == 0:
        return inputs**-0.5
    if level == count - 1:
        return 1 / inputs
    return (inputs * count) ** -0.5 if residual else inputs**-0.5


def _precision(precision: Precision, level: int, count: int) -> float | Tensor:
    if isinstance(precision, (int, float, Tensor)):
        return precision
    if len(precision) != count:
        raise ValueError(
            f"PredictiveCoding: expected one precision, or one for each of {count} predictions, "
            f"got {len(precision)}"
        )
    return precision[level]
