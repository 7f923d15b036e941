"""A Hopfield network as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from energynet.models.hopfield import Hopfield


@final
class HopfieldMemory(BaseEstimator):
    """Remembers the rows of X, and completes rows that are noisy.

    Every number is one of two levels, low or high: a row becomes a pattern of spins, which a `Hopfield`
    network stores and recalls.

    Parameters
    ----------
    rule
        How patterns are stored; ``"pseudoinverse"`` by default, which recalls correlated patterns, as data
        are, up to as many as there are features. See `Hopfield.store` for the others.
    threshold
        Numbers above it are high. None, the default, for the middle of the range of X.
    synchronous
        Update all units at once. False, the default, for one after the other, by which each row settles.
    max_steps
        The most updates of all units.
    random_state
        Of the order of the updates, the same for all rows: a number, 0 by default, so that `predict` gives
        the same each time; a ``RandomState``; or None.

    Attributes
    ----------
    model_
        The network.
    threshold_
        The threshold.
    levels_
        The two numbers that predictions are made of: the means of what is not above and of what is above the
        threshold in X.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Examples
    --------
    >>> memory = en.sklearn.HopfieldMemory().fit(patterns)
    >>> completed = memory.predict(noisy)
    """

    def __init__(
        self,
        rule: str = "pseudoinverse",
        threshold: float | None = None,
        synchronous: bool = False,
        max_steps: int = 1000,
        random_state: Any = 0,
    ) -> None:
        self.rule = rule
        self.threshold = threshold
        self.synchronous = synchronous
        self.max_steps = max_steps
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Store the rows of X, (rows, features); what was stored before is forgotten. y is not used."""
        X = np.asarray(validate_data(self, X, dtype=np.float64))
        threshold = 0.5 * (X.min() + X.max()) if self.threshold is None else float(self.threshold)
        self.threshold_ = threshold
        high = threshold < X
        low_level = X[~high].mean() if not high.all() else threshold
        self.levels_ = np.array([low_level, X[high].mean() if high.any() else threshold])
        self.model_ = Hopfield(X.shape[1]).store(self._spins(X), rule=self.rule)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """What the rows of X remind of, (rows, features), made of the two ``levels_``."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        solution = self.model_.recall(
            self._spins(X),
            synchronous=self.synchronous,
            max_steps=self.max_steps,
            generator=torch.Generator().manual_seed(seed),
        )
        return self.levels_[(solution.state["s"] > 0).long().numpy()]

    def _spins(self, X: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.where(self.threshold_ < X, 1.0, -1.0).astype(np.float32))
