"""The transformers of sparse codes against scikit-learn's own checks, its coder and its dictionaries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
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


def test_learning_is_the_algorithm_by_hand() -> None:
    """Weighted means in place of running ones: 1 / steps each, but no batch less than a twentieth."""
    X = draw(4, 30, 6, 5)[1]
    learner = en.sklearn.DictionaryLearning(5, sparsity=0.2, max_iter=24, batch_size=7).fit(X)
    random = np.random.RandomState(0)
    atoms = X[random.randint(30, size=5)] + 1e-3 * X.std() * random.normal(size=(5, 6))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    coder = en.models.SparseCoding(6, 5, 0.2).double()
    inner, outer, weights = [], [], np.zeros(0)
    for step in range(24):
        rows = X[random.randint(30, size=7)]
        with torch.no_grad():
            coder.weight.copy_(torch.from_numpy(atoms.T))
        code = coder.infer(torch.from_numpy(rows)).state["a"].numpy()
        fresh = max(1 / (step + 1), 0.05)
        weights = np.append((1 - fresh) * weights, fresh)
        inner.append(code.T @ code / 7)
        outer.append(code.T @ rows / 7)
        a, b = (np.tensordot(weights, np.stack(each), 1) for each in (inner, outer))
        for _ in range(20):
            atoms = atoms + (b - a @ atoms) / np.linalg.eigvalsh(a)[-1]
            atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    assert learner.components_ == pytest.approx(atoms, abs=1e-5)


def test_the_solver_that_is_given_is_used() -> None:
    """One that moves no continuous variable is refused, in learning and in coding."""
    dictionary, X = draw(5, 10, 4, 3)
    with pytest.raises(en.SettlingError, match="Glauber"):
        en.sklearn.DictionaryLearning(3, solver=en.Glauber()).fit(X)
    coder = en.sklearn.SparseCoder(dictionary, solver=en.Glauber()).fit(X)
    with pytest.raises(en.SettlingError, match="Glauber"):
        coder.transform(X)


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
