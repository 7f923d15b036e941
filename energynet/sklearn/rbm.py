"""Scikit-learn's restricted Boltzmann machine, with its inner loop in torch."""

from __future__ import annotations

import zlib
from typing import Any, final

import numpy as np
import torch
from scipy import sparse
from sklearn.neural_network import BernoulliRBM
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from energynet.models.rbm import RestrictedBoltzmannMachine

_ROWS = 1024  # that are scored at once


@final
class RBM(BernoulliRBM):
    """A drop-in for `sklearn.neural_network.BernoulliRBM` that learns in less time.

    It has the same parameters, attributes and methods, for it is the same estimator but for two methods. The
    update of a batch is persistent contrastive divergence in fused products, in place. Random numbers are
    drawn from ``random_state`` in the same order, so that it learns the same weights from the same seed, up
    to rounding. float32 data are learned from in float32, by `fit`, and take half of the time.
    `score_samples` picks the unit that it flips in a row by the row's content, and so gives a row the same
    score whatever its companions are, as the checks of scikit-learn demand.

    Parameters
    ----------
    n_components
        Hidden units.
    learning_rate, batch_size, n_iter, verbose, random_state
        As in `BernoulliRBM`.

    Attributes
    ----------
    components_, intercept_hidden_, intercept_visible_, h_samples_, n_features_in_, feature_names_in_
        As there.

    Examples
    --------
    >>> features = en.sklearn.RBM(n_components=64, random_state=0).fit_transform(X)
    """

    def score_samples(self, X: Any) -> np.ndarray:
        """Estimate the pseudo-likelihood of each row, from one of its units (see `BernoulliRBM`).

        Parameters
        ----------
        X
            Bits, (rows, features), dense or sparse; not checked.
        """
        check_is_fitted(self)
        v: Any = validate_data(self, X, accept_sparse="csr", reset=False, dtype=(np.float64, np.float32))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return np.concatenate([self._scored(v[rows], seed) for rows in gen_batches(v.shape[0], _ROWS)])

    def _scored(self, v: Any, seed: int) -> np.ndarray:
        v = np.array(v.toarray() if sparse.issparse(v) else v)
        unit = [zlib.crc32(row.tobytes(), seed) % v.shape[1] for row in v.astype(np.float64)]
        free = self._free_energy(v)
        v[np.arange(len(v)), unit] = 1 - v[np.arange(len(v)), unit]
        return -v.shape[1] * np.logaddexp(0, free - self._free_energy(v))

    def machine(self) -> RestrictedBoltzmannMachine:
        """Make a model of what was learned, for likelihoods and sampling."""
        check_is_fitted(self)
        weight = torch.from_numpy(np.ascontiguousarray(self.components_))
        model = RestrictedBoltzmannMachine(weight.shape[1], weight.shape[0]).to(weight.dtype)
        with torch.no_grad():
            model.weight.copy_(weight)
            model.visible_bias.copy_(torch.from_numpy(self.intercept_visible_))
            model.hidden_bias.copy_(torch.from_numpy(self.intercept_hidden_))
        return model

    def _fit(self, v_pos: Any, rng: np.random.RandomState) -> None:
        """Learn from one batch; what it is called with is scikit-learn's."""
        if sparse.issparse(v_pos):
            v_pos = v_pos.toarray()
        weight, hidden, visible, chains = (  # views of the arrays, which change with them
            torch.from_numpy(array)
            for array in (self.components_, self.intercept_hidden_, self.intercept_visible_, self.h_samples_)
        )
        # a copy, for torch takes no negative strides
        v = torch.from_numpy(np.array(v_pos, dtype=self.components_.dtype, order="C"))
        rate = float(self.learning_rate) / len(v)
        with torch.no_grad():
            h = torch.addmm(hidden, v, weight.t()).sigmoid_()
            v_free = _drawn(torch.addmm(visible, chains, weight).sigmoid_(), rng)
            h_free = torch.addmm(hidden, v_free, weight.t()).sigmoid_()
            weight.addmm_(h.t(), v, alpha=rate).addmm_(h_free.t(), v_free, alpha=-rate)
            hidden.add_(h.sum(0).sub_(h_free.sum(0)), alpha=rate)
            visible.add_(v.sum(0).sub_(v_free.sum(0)), alpha=rate)
            self.h_samples_ = _drawn(h_free, rng).numpy()


def _drawn(means: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
    """Bits with these means."""
    return (torch.from_numpy(rng.uniform(size=tuple(means.shape))) < means).to(means.dtype)
