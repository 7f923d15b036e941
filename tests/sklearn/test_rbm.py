"""The drop-in for scikit-learn's machine: the same numbers, its checks, and what its own tests expect."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM
from sklearn.utils.estimator_checks import parametrize_with_checks

import energynet as en

DIGITS = load_digits(return_X_y=True)[0] / 16.0
LEARNED = ("components_", "intercept_hidden_", "intercept_visible_", "h_samples_")


@parametrize_with_checks([en.sklearn.RBM(n_components=8, n_iter=2)])
def test_checks_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("batch", [10, 7])
def test_it_learns_what_scikit_learn_learns(batch: int, dtype: type) -> None:
    """The same stream of random numbers, the same weights; 97 rows make batches of two sizes."""
    settings = {"n_components": 16, "batch_size": batch, "n_iter": 5, "random_state": 42}
    X = DIGITS[:97].astype(dtype)
    ours, theirs = en.sklearn.RBM(**settings).fit(X), BernoulliRBM(**settings).fit(X)
    # in float64 to rounding; in float32 sums are rounded in another order
    tolerance = 1e-10 if dtype is np.float64 else 1e-4
    for name in LEARNED:
        assert getattr(ours, name).dtype == dtype
        assert np.allclose(getattr(ours, name), getattr(theirs, name), atol=tolerance), name
    assert np.allclose(ours.transform(X), theirs.transform(X), atol=tolerance)
    assert np.array_equal(ours.gibbs(X[:9].copy()), theirs.gibbs(X[:9].copy()))
    assert np.array_equal(X, DIGITS[:97].astype(dtype))


def test_partial_fits_are_those_of_scikit_learn_whatever_the_sizes_and_the_storage() -> None:
    ours, theirs = (
        kind(n_components=12, batch_size=10, random_state=9) for kind in (en.sklearn.RBM, BernoulliRBM)
    )
    for rows in (DIGITS[:10], sparse.csr_array(DIGITS[10:20]), DIGITS[20:150], sparse.csc_array(DIGITS[:3])):
        ours.partial_fit(rows)
        theirs.partial_fit(rows)
        for name in LEARNED:
            assert np.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-10), name


def test_views_that_run_backwards_are_learned_from() -> None:
    """Torch has no negative strides."""
    settings = {"n_components": 3, "n_iter": 2, "random_state": 0}
    for X in (DIGITS[30::-1, 20:28], DIGITS[:30, 28:20:-1]):
        ours, theirs = en.sklearn.RBM(**settings).fit(X), BernoulliRBM(**settings).fit(X)
        assert np.allclose(ours.components_, theirs.components_, atol=1e-10)


def test_expectations_of_its_own_tests() -> None:
    """test_fit, test_fit_gibbs, test_gibbs_smoke, test_score_samples and test_sparse_and_verbose there."""
    rbm = en.sklearn.RBM(n_components=64, learning_rate=0.1, batch_size=10, n_iter=7, random_state=9)
    assert rbm.fit(DIGITS).score_samples(DIGITS).mean() == pytest.approx(-21.0, abs=1.5)
    pair = np.array([[0.0], [1.0]])
    for X in (pair, sparse.csc_matrix(pair)):
        small = en.sklearn.RBM(
            n_components=2, batch_size=2, n_iter=42, random_state=np.random.RandomState(42)
        ).fit(X)
        assert small.components_ == pytest.approx(np.array([[0.02649814], [0.02009084]]), abs=1.5e-4)
        assert np.array_equal(small.gibbs(X), pair)
    first, second = rbm.gibbs(DIGITS), rbm.gibbs(DIGITS)
    assert np.isfinite(first).all()
    assert (first != second).max(axis=1).all()
    ends = np.vstack([np.zeros(1000), np.ones(1000)])
    far = en.sklearn.RBM(n_components=10, batch_size=2, n_iter=10, random_state=np.random.RandomState(42))
    assert (far.fit(ends).score_samples(ends) < -300).all()
    far.random_state = 42
    assert np.array_equal(far.score_samples(ends), far.score_samples(sparse.lil_matrix(ends)))
    assert np.isfinite(far.score_samples([np.arange(1000) * 100])).all()


def test_scores_are_estimates_of_the_pseudo_likelihood() -> None:
    """Over seeds the mean is the sum over units; each score is one of its terms times their number."""
    X = (DIGITS[:6, 20:28] > 0.5).astype(float)
    rbm = en.sklearn.RBM(n_components=5, n_iter=5, random_state=0).fit(X)
    found = []
    for rbm.random_state in range(300):
        found.append(rbm.score_samples(X))
    model, v = rbm.machine(), torch.from_numpy(X)
    flipped = model.flipped({"v": v}, torch.arange(8)) - model.free_energy(v).unsqueeze(1)
    terms = (8 * torch.nn.functional.logsigmoid(flipped)).detach().numpy()
    scores = np.array(found)
    for row in range(6):  # that one of 8 terms is missed: 8 * (7/8)**300
        assert np.allclose(np.unique(scores[:, row].round(9)), np.unique(terms[row].round(9)))
    spread = terms.std(1) / 300**0.5
    assert (np.abs(scores.mean(0) - terms.mean(1)) < 6 * spread + 1e-9).all()


def test_verbose_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    rbm = en.sklearn.RBM(n_components=2, batch_size=2, n_iter=1, random_state=42, verbose=True)
    rbm.fit(sparse.csc_matrix([[0.0], [1.0]]))
    printed = capsys.readouterr().out
    assert re.match(r"\[RBM\] Iteration 1, pseudo-likelihood = -?\d+(\.\d+)?, time = (\d|\.)+s", printed)
    assert list(rbm.get_feature_names_out()) == ["rbm0", "rbm1"]
    defaults = BernoulliRBM().get_params()
    assert en.sklearn.RBM().get_params() == defaults


def test_the_machine_is_the_one_that_was_learned() -> None:
    rbm = en.sklearn.RBM(n_components=5, n_iter=2, random_state=0).fit(DIGITS[:50, 20:28])
    model = rbm.machine()
    v = torch.from_numpy((DIGITS[:9, 20:28] > 0.5).astype(float))
    hidden = np.log1p(np.exp(v.numpy() @ rbm.components_.T + rbm.intercept_hidden_)).sum(1)
    expected = -v.numpy() @ rbm.intercept_visible_ - hidden
    assert np.allclose(model.free_energy(v).detach().numpy(), expected)
