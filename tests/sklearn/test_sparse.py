"""The transformers of sparse codes against scikit-learn's own checks, its coder and its dictionaries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.decomposition import SparseCoder as TheirCoder
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import energynet as en

CHECKED = [
    en.sklearn.DictionaryLearning(2, sparsity=0.3, max_iter=2),
]


@parametrize_with_checks(CHECKED)
def test_checks_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


class Coder(en.sklearn.SparseCoder):
    """The coder with the first atoms of the identity as its dictionary, for any number of features."""

    def __init__(self, sparsity: float = 0.1) -> None:
        super().__init__(None, sparsity)

    def fit(self, X: object, y: object = None) -> Coder:
        shape = np.asarray(X).shape
        self.dictionary = np.eye(shape[1])[:3] if len(shape) == 2 else np.ones((1, 1))
        try:
            return super().fit(X)
        finally:
            self.dictionary = None


@parametrize_with_checks([Coder()])
def test_checks_of_scikit_learn_on_the_coder(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def draw(seed: int, rows: int, features: int, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    dictionary = random.normal(size=(atoms, features))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = random.laplace(size=(rows, atoms)) * (random.random((rows, atoms)) < 0.2)
    return dictionary, codes @ dictionary


@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_are_those_of_the_coder_of_scikit_learn(nonnegative: bool) -> None:
    dictionary, X = draw(0, 20, 8, 12)
    theirs = TheirCoder(
        dictionary,
        transform_algorithm="lasso_cd",
        transform_alpha=0.2,
        positive_code=nonnegative,
        transform_max_iter=100_000,
    ).fit_transform(X)
    coder = en.sklearn.SparseCoder(dictionary, sparsity=0.2, nonnegative=nonnegative)
    ours = coder.fit_transform(X)
    assert ours.shape == (20, 12)
    for code in (ours, theirs):
        level = 0.5 * ((X - code @ dictionary) ** 2).sum() + 0.2 * np.abs(code).sum()
        assert level >= 0.5 * ((X - ours @ dictionary) ** 2).sum() + 0.2 * np.abs(ours).sum() - 1e-9
    assert ours == pytest.approx(theirs, abs=1e-2)  # their tolerance cannot be set
    assert coder.inverse_transform(ours) == pytest.approx(ours @ dictionary)
    assert list(coder.get_feature_names_out()[:2]) == ["sparsecoder0", "sparsecoder1"]


def test_rows_of_another_dtype_leave_the_dictionary_as_it_was() -> None:
    dictionary, X = draw(3, 20, 8, 12)
    coder = en.sklearn.SparseCoder(dictionary).fit(X)
    before = coder.transform(X)
    assert coder.transform(X.astype(np.float32)).dtype == np.float32
    assert np.array_equal(coder.components_, dictionary)
    assert np.array_equal(coder.transform(X), before)


def objective(X: np.ndarray, dictionary: np.ndarray, sparsity: float) -> float:
    code = en.sklearn.SparseCoder(dictionary, sparsity).fit_transform(X)
    return float(0.5 * ((X - code @ dictionary) ** 2).sum(1).mean() + sparsity * np.abs(code).sum(1).mean())


def test_a_learned_dictionary_is_as_good_as_that_of_scikit_learn_and_finds_the_true_atoms() -> None:
    dictionary, X = draw(1, 500, 10, 10)
    learner = en.sklearn.DictionaryLearning(10, sparsity=0.1, max_iter=150, batch_size=100).fit(X)
    ours = learner.components_
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that their codes might go on
        theirs = MiniBatchDictionaryLearning(10, alpha=0.1, max_iter=100, batch_size=100, random_state=0).fit(
            X
        )
    assert objective(X, ours, 0.1) <= 1.02 * objective(X, theirs.components_, 0.1)
    assert objective(X, ours, 0.1) <= 1.05 * objective(X, dictionary, 0.1)
    assert (np.abs(ours @ dictionary.T).max(0) > 0.95).mean() >= 0.8
    again = clone(learner).fit(X)
    assert np.array_equal(again.components_, ours)


def test_it_stands_in_a_pipeline() -> None:
    X = draw(2, 40, 6, 5)[1]
    pipe = make_pipeline(StandardScaler(), en.sklearn.DictionaryLearning(5, max_iter=5)).fit(X)
    assert pipe.transform(X).shape == (40, 5)


def test_bad_dictionaries_and_codes_are_refused() -> None:
    coder = en.sklearn.SparseCoder(np.eye(3))
    with pytest.raises(ValueError, match="batch_size must be a number above 0, got 0"):
        en.sklearn.DictionaryLearning(2, batch_size=0).fit([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="atoms of 3 features, but X has 4"):
        coder.fit(np.ones((2, 4)))
    with pytest.raises(ValueError, match="codes of 3 atoms, got 2"):
        coder.fit(np.ones((2, 3))).inverse_transform(np.ones((2, 2)))
