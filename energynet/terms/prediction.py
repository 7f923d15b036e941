"""The term of predictive coding: how far one variable is from what another predicts of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.terms.pullback import Linearised, linearise
from energynet.variable import Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Prediction(Energy):
    """E = precision / 2 |target - module(source)|^2, summed over the units of each sample.

    A predictive coding network is a sum of such terms (Rao and Ballard 1999, Nat. Neurosci. 2:79; Bogacz
    2017, J. Math. Psychol. 76:198), one for each arrow of any directed graph. A residual connection is a
    module that adds its source.

    Parameters
    ----------
    source, target
        Names of the variable that predicts and of the one that is predicted.
    module
        From a batch of the source to a batch of the target: linear, convolutional, residual. It must treat
        the samples independently, so no batch normalisation in training.
    precision
        The inverse of the variance of the prediction error: one number, or a tensor of the target's shape
        with one for each unit. 1 by default.
    learn_precision
        Make the logarithm of the precision a parameter, starting at ``precision``. The energy then has the
        normaliser -1/2 log precision of each unit, without which the precision would fall to zero. It grows
        without bound where the target is free to match the prediction, so clamp data at both ends.
    **variables
        Declarations of the two variables: ``Prediction("x", "h", nn.Linear(4, 8), x=Real(4), h=Real(8))``.

    Attributes
    ----------
    module
        What predicts.
    log_precision
        Parameter, where the precision is learned, of the shape of ``precision``; else None.
    """

    def __init__(
        self,
        source: str,
        target: str,
        module: nn.Module,
        *,
        precision: float | Tensor = 1.0,
        learn_precision: bool = False,
        **variables: Variable,
    ) -> None:
        if source == target or set(variables) != {source, target}:
            raise TypeError(
                f"Prediction({source!r}, {target!r}): expected the declarations of these two variables, "
                f"got {sorted(variables)}"
            )
        if not isinstance(module, nn.Module):
            raise TypeError(f"Prediction({source!r}, {target!r}): expected a torch.nn.Module, got {module!r}")
        super().__init__(**variables)
        self.source, self.target = source, target
        self.module = module
        self._check_precision(precision, variables[target].shape)
        self._number: float | None = None
        self._diagonal: Tensor | None
        self.log_precision: nn.Parameter | None = None
        self.register_buffer("_diagonal", None)
        if learn_precision:
            given = torch.as_tensor(precision, dtype=torch.get_default_dtype())
            self.log_precision = nn.Parameter(given.detach().log())
        elif isinstance(precision, Tensor):
            self.register_buffer("_diagonal", precision.detach().clone())
        else:
            self._number = float(precision)

    def _check_precision(self, precision: object, shape: tuple[int, ...]) -> None:
        where = f"Prediction({self.source!r}, {self.target!r})"
        if isinstance(precision, Tensor):
            if tuple(precision.shape) not in ((), shape):
                raise ValueError(
                    f"{where}: expected a precision of the target's shape {shape}, "
                    f"got {tuple(precision.shape)}"
                )
            positive = bool((precision > 0).all()) and bool(precision.isfinite().all())
        else:
            positive = isinstance(precision, (int, float)) and 0 < precision < math.inf
        if not positive:
            raise ValueError(f"{where}: a precision is positive and finite, got {precision!r}")

    @property
    def precision(self) -> float | Tensor:
        """The inverse variance: a number, or a tensor that broadcasts to the target."""
        if self._number is not None:
            return self._number
        if self._diagonal is not None:
            return self._diagonal
        assert self.log_precision is not None
        return self.log_precision.exp()

    def predict(self, source: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """What the source predicts of the target.

        Raises
        ------
        StateError
            If the prediction does not have the target's shape.
        """
        prediction: Tensor = self.module(source)
        self._check_prediction(prediction)
        return prediction

    def linearise(self, source: Tensor) -> Linearised:
        """The prediction, and the transpose of its derivative there."""
        found = linearise(self.module, source)
        self._check_prediction(found.prediction)
        return found

    def _check_prediction(self, prediction: Tensor) -> None:
        shape = self.variables[self.target].shape
        if tuple(prediction.shape[1:]) != shape:
            raise StateError(
                f"Prediction({self.source!r}, {self.target!r}): the module gives samples of shape "
                f"{tuple(prediction.shape[1:])}, but {self.target!r} is declared with {shape}"
            )

    def energy(self, **state: Tensor) -> Tensor:
        return self.of_error(state[self.target] - self.predict(state[self.source]))

    def of_error(self, error: Float[Tensor, "batch ..."]) -> Float[Tensor, batch]:
        """The energy of each sample, from the difference of the target and its prediction."""
        square = error.square()
        if self._number is not None:
            return (0.5 * self._number) * rows(square).sum(1)
        weighted = 0.5 * rows(self.precision * square).sum(1)
        if self.log_precision is None:
            return weighted
        copies = math.prod(self.variables[self.target].shape) / self.log_precision.numel()
        return weighted - (0.5 * copies) * self.log_precision.sum()
