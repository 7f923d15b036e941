"""Contrastive Hebbian learning with weak feedback, on the weights of a network of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from energynet.energy import Energy, Sum
from energynet.link import Sigmoid, Tanh
from energynet.rules import ContrastiveHebbian
from energynet.terms import Bilinear, Dense, Field, Leak, Prediction
from energynet.variable import Continuous, Interval, Real, Unit

if TYPE_CHECKING:
    from energynet.models import PredictiveCoding

_UNITS: dict[str, Any] = {
    "linear": Real,
    "sigmoid": lambda size: Unit(size, link=Sigmoid()),
    "tanh": lambda size: Interval(size, low=-1.0, high=1.0, link=Tanh()),
}


def weak_feedback(model: PredictiveCoding, gain: float) -> Energy:
    r"""Make a network of graded units from the weights of predictions, with feedback scaled by a gain.

    .. math:: E = \sum_{l=1}^{L} \gamma^{l-L} ( \sum_i \int^{s_{l,i}} f_l^{-1}
                  - b_l \cdot s_l - s_l \cdot W_l s_{l-1} )

    It is stationary where ``s_l = f_l(W_l s_below + b_l + gain * W_above' s_above)`` (Xie and Seung 2003,
    Neural Comput. 15:441), with the activation of the model in the hidden layers and a
    linear output. The factors that make the feedback weak are also those that undo, in its contrast between
    a clamped and a free output, how much weaker the response of each lower layer is.

    Parameters
    ----------
    model
        Discriminative, neither residual nor scaled, with tanh, sigmoid or linear units and with biases. Its
        parameters are shared, not copied.
    gain
        Of the feedback, above 0; 1 is the symmetric network.

    Returns
    -------
    Energy
        Of the variables of the model; but the hidden ones hold activities f(z), not potentials z.
    """
    names = list(model.variables)
    if model.direction != "discriminative" or model.activation not in _UNITS:
        raise ValueError(
            "weak_feedback: expected a discriminative model with tanh, sigmoid or linear units, got "
            f"a {model.direction} one with {model.activation}"
        )
    if not gain > 0:
        raise ValueError(f"weak_feedback: expected a gain above 0, got {gain}")
    variables: dict[str, Continuous] = {}
    for name, variable in model.variables.items():
        units = _UNITS["linear" if name in (names[0], names[-1]) else model.activation]
        variables[name] = units(variable.shape[0])
    terms: list[Energy] = []
    for level, prediction in enumerate(model.predictions.values()):
        assert isinstance(prediction, Prediction)
        layer, source, target = prediction.module, prediction.source, prediction.target
        if not isinstance(layer, Dense) or layer.residual or layer.scale != 1 or layer.bias is None:
            raise ValueError(
                "weak_feedback: expected layers with biases that are neither residual nor scaled"
            )
        coupling = Bilinear(source, target, **{source: variables[source], target: variables[target]})
        field = Field(**{target: variables[target]})
        coupling.weight, field.bias = layer.weight, layer.bias
        factor = gain ** (level + 1 - len(model.predictions))
        terms += [factor * part for part in (Leak(**{target: variables[target]}), field, coupling)]
    return Sum(terms)


@final
class WeakFeedback(nn.Module):
    """`ContrastiveHebbian` on `weak_feedback`, called like a rule with a cost: with a ``target``.

    Parameters
    ----------
    model, gain
        As in `weak_feedback`.
    **settings
        Of `ContrastiveHebbian`.
    """

    def __init__(self, model: PredictiveCoding, gain: float, **settings: Any) -> None:
        super().__init__()
        self.rule = ContrastiveHebbian(weak_feedback(model, gain), **settings)

    def forward(self, *, x: Tensor, target: Tensor) -> Tensor:
        return self.rule(x=x, y=target)
