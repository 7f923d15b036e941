"""Sparse coding and dictionary learning as transformers of scikit-learn."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from energynet.models.sparse_coding import SparseCoding
from energynet.prior import Prior
from energynet.solvers import Solver

_FRESH = 0.05  # weight of a batch in the running means, at least


class _Coder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What both share: codes of rows by a `SparseCoding` model, and rows of codes."""

    sparsity: float
    prior: str | Prior
    nonnegative: bool
    solver: Solver | None
    model_: SparseCoding

    def transform(self, X: Any) -> np.ndarray:
        """The codes of the rows of X, (rows, atoms)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        data, model = torch.tensor(X), self.model_
        if model.weight.dtype != data.dtype:  # the one that was fitted stays as it is
            model = copy.deepcopy(model).to(data.dtype)
        code: np.ndarray = model.infer(data, solver=self.solver).state["a"].numpy()
        return code

    def inverse_transform(self, X: Any) -> np.ndarray:
        """What codes predict, (rows, features)."""
        check_is_fitted(self)
        codes = np.asarray(check_array(X, dtype="numeric"))
        if codes.shape[1] != self._n_features_out:
            raise ValueError(f"expected codes of {self._n_features_out} atoms, got {codes.shape[1]} columns")
        product: np.ndarray = codes @ self.components_
        return product

    @property
    def components_(self) -> np.ndarray:
        """The dictionary, (atoms, features), one atom a row."""
        return self.model_.weight.detach().numpy().T

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _model(self, features: int, atoms: int, *, unit: bool) -> SparseCoding:
        return SparseCoding(
            features,
            atoms,
            self.sparsity,
            self.prior,
            self.nonnegative,
            atoms="unit" if unit else "free",
        )


class SparseCoder(_Coder):
    """Codes of rows by a dictionary that is given: the minimum of |x - a D|^2 / 2 + sparsity * S(a).

    Parameters
    ----------
    dictionary
        (atoms, features), one atom a row.
    sparsity
        Weight of the penalty; 0.1 by default. That of `sklearn.linear_model.Lasso` is this one divided by
        the number of features, that of `sklearn.decomposition.SparseCoder` is the same.
    prior
        ``"laplace"`` by default, see `SparseCoding`.
    nonnegative
        Whether codes are from 0 up.
    solver
        Of the codes; None for the one of `SparseCoding.infer`.

    Attributes
    ----------
    model_
        The `SparseCoding` model.
    components_
        The dictionary.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Examples
    --------
    >>> codes = en.sklearn.SparseCoder(dictionary, sparsity=0.2).fit_transform(X)
    """

    def __init__(
        self,
        dictionary: Any,
        sparsity: float = 0.1,
        prior: str | Prior = "laplace",
        nonnegative: bool = False,
        solver: Solver | None = None,
    ) -> None:
        self.dictionary = dictionary
        self.sparsity = sparsity
        self.prior = prior
        self.nonnegative = nonnegative
        self.solver = solver

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check X and take the dictionary; nothing is learned. y is not used."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        atoms = np.asarray(check_array(self.dictionary))
        if atoms.shape[1] != X.shape[1]:
            raise ValueError(
                f"the dictionary has atoms of {atoms.shape[1]} features, but X has {X.shape[1]} features"
            )
        self.model_ = self._model(atoms.shape[1], len(atoms), unit=False).double()
        with torch.no_grad():
            self.model_.weight.copy_(torch.from_numpy(atoms.T))
        return self


class DictionaryLearning(_Coder):
    """Learns a dictionary of atoms of unit norm in which rows have sparse codes.

    On-line (Mairal, Bach, Ponce and Sapiro 2010, J. Mach. Learn. Res. 11:19, algorithm 1): the codes of a
    batch, then the atoms of least error for running means of the products of codes and rows, all atoms at
    once.

    Parameters
    ----------
    n_components
        Atoms; as many as there are features by default.
    sparsity, prior, nonnegative, solver
        As of `SparseCoder`.
    max_iter
        Steps, each of one batch; 100 by default.
    batch_size
        Rows of a batch; 256 by default, or all.
    random_state
        Of the first atoms, which are rows of X, and of the batches: a number, 0 by default, a
        ``RandomState``, or None.

    Attributes
    ----------
    model_
        The `SparseCoding` model.
    components_
        The dictionary, (atoms, features).
    n_iter_
        Steps.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Examples
    --------
    >>> learner = en.sklearn.DictionaryLearning(100, sparsity=0.2).fit(X)
    >>> codes = learner.transform(X)
    """

    def __init__(
        self,
        n_components: int | None = None,
        sparsity: float = 0.1,
        prior: str | Prior = "laplace",
        nonnegative: bool = False,
        solver: Solver | None = None,
        max_iter: int = 100,
        batch_size: int = 256,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.sparsity = sparsity
        self.prior = prior
        self.nonnegative = nonnegative
        self.solver = solver
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the dictionary of the rows of X, (rows, features). y is not used."""
        X = np.asarray(validate_data(self, X, dtype=[np.float64, np.float32]))
        for name in ("max_iter", "batch_size"):
            if not getattr(self, name) >= 1:
                raise ValueError(
                    f"DictionaryLearning: {name} must be a number above 0, got {getattr(self, name)!r}"
                )
        random = check_random_state(self.random_state)
        data = torch.tensor(X)
        atoms = X.shape[1] if self.n_components is None else int(self.n_components)
        self.model_ = model = self._model(X.shape[1], atoms, unit=True).to(data.dtype)
        with torch.no_grad():
            first = X[random.randint(len(X), size=atoms)] + 1e-3 * X.std() * random.normal(
                size=(atoms, X.shape[1])
            )
            model.weight.copy_(torch.from_numpy(first.T))
            model.project_()
        inner, outer = data.new_zeros(atoms, atoms), data.new_zeros(X.shape[1], atoms)
        for step in range(self.max_iter):
            rows = data[torch.from_numpy(random.randint(len(X), size=min(self.batch_size, len(X))))]
            code = model.infer(rows, solver=self.solver).state["a"]
            fresh = max(1 / (1 + step), _FRESH)
            inner.lerp_(code.T @ code / len(rows), fresh)
            outer.lerp_(rows.T @ code / len(rows), fresh)
            model.fit_(inner, outer)
        self.n_iter_ = self.max_iter
        return self
