"""PCA, NMF, ICA and k-means by the energies of sparse coding, against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, FastICA

import energynet as en
from energynet.models import Clusters, factorise, independent_components, nonnegative_factors
from energynet.models import principal_components as pca
from energynet.models.atoms import ATOMS, fitted

F64 = torch.float64


def fit(model: en.models.LinearModel, x: np.ndarray, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    solution = factorise(model, torch.from_numpy(x), rtol=rtol, generator=torch.Generator().manual_seed(0))
    return solution.state["a"].numpy(), model.weight.detach().numpy()


def test_linear_codes_and_orthonormal_atoms_are_pca() -> None:
    random = np.random.default_rng(0)
    x = (
        random.normal(size=(60, 7))
        * [3, 2.5, 2, 0.6, 0.5, 0.4, 0.3]
        @ np.linalg.qr(random.normal(size=(7, 7)))[0]
    )
    x -= x.mean(0)
    codes, weight = fit(pca(7, 3).double(), x, 1e-14)
    reference = PCA(3).fit(x)
    assert weight.T @ weight == pytest.approx(np.eye(3), abs=1e-12)
    axes = reference.components_
    assert weight @ weight.T == pytest.approx(axes.T @ axes, abs=1e-5)
    assert codes @ weight.T == pytest.approx(reference.inverse_transform(reference.transform(x)), abs=1e-4)


def test_codes_and_atoms_from_zero_up_are_nmf() -> None:
    """The conditions of a stationary point, and no more error than scikit-learn finds from the same start."""
    random = np.random.default_rng(1)
    x = random.gamma(1.0, size=(15, 2)) @ random.gamma(0.6, size=(2, 6)) + 0.05 * random.random((15, 6))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nonnegative_factors(6, 2).double()
    start = model.weight.detach().numpy().copy()
    codes, weight = fit(model, x, 1e-7)
    assert (codes >= 0).all()
    assert (weight >= 0).all()
    assert np.linalg.norm(weight, axis=0) == pytest.approx(np.ones(2))
    error = x - codes @ weight.T
    for value, slope in ((codes, -error @ weight), (weight, -error.T @ codes)):
        assert np.abs(np.where(value > 0, slope, slope.clip(max=0))).max() < 2e-3 * np.abs(x.T @ codes).max()
    first = np.stack([nnls(start, one)[0] for one in x])
    reference = NMF(2, init="custom", tol=1e-8, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it might go on
        factors = reference.fit_transform(x, W=first + 1e-9, H=start.T.copy())
    theirs = 0.5 * ((x - factors @ reference.components_) ** 2).sum()
    assert 0.5 * (error**2).sum() <= theirs * (1 + 1e-3)


def test_no_nonnegative_atom_starts_at_zero() -> None:
    """Such an atom has no force on its code, and would stay; of two numbers one in four had none above zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = nonnegative_factors(2, 100).weight
    assert bool((weight > 0).all())
    assert torch.allclose(weight.norm(dim=0), torch.ones(100))


def test_heavy_tails_and_orthonormal_atoms_are_ica() -> None:
    """The sources of a mixture, as FastICA finds them, up to their order and signs."""
    random = np.random.default_rng(2)
    sources = random.laplace(size=(500, 3))
    x = sources @ random.normal(size=(3, 3)).T
    x -= x.mean(0)
    values, axes = np.linalg.eigh(x.T @ x / len(x))
    white = x @ axes / np.sqrt(values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = independent_components(3).double()
    _, weight = fit(model, white, 1e-6)
    reference = FastICA(whiten=False, fun="logcosh", tol=1e-8, random_state=0).fit(white).components_
    agreement = np.abs(weight.T @ reference.T / np.linalg.norm(reference, axis=1))
    best = agreement.argmax(1)
    assert sorted(best) == [0, 1, 2]
    assert agreement[np.arange(3), best] == pytest.approx(np.ones(3), abs=5e-3)
    found = np.abs(np.corrcoef((white @ weight).T, sources.T)[:3, 3:])
    assert found.max(1) == pytest.approx(np.ones(3), abs=0.02)


def test_one_hot_codes_are_k_means() -> None:
    """Lloyd's algorithm from the same centres: the same partition and the same centres."""
    random = np.random.default_rng(3)
    x = random.normal(size=(80, 4)) + 2 * random.normal(size=(5, 4))[random.integers(5, size=80)]
    start = x[:5].copy()
    model = Clusters(4, 5).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(start.T))
    codes, weight = fit(model, x, 0.0)
    reference = KMeans(5, init=start, n_init=1, algorithm="lloyd", tol=0.0).fit(x)
    assert np.array_equal(codes.argmax(1), reference.labels_)
    assert pytest.approx(reference.cluster_centers_, abs=1e-9) == weight.T
    assert ((x - codes @ weight.T) ** 2).sum() == pytest.approx(reference.inertia_)


def test_a_cluster_without_samples_keeps_its_centre() -> None:
    model = Clusters(2, 3).double()
    far = torch.tensor([[0.0, 1.0, 50.0], [0.0, 1.0, 50.0]], dtype=F64)
    with torch.no_grad():
        model.weight.copy_(far)
    factorise(model, torch.tensor([[0.1, 0.0], [1.1, 1.0], [0.9, 1.0]], dtype=F64))
    assert model.weight[:, 2].tolist() == [50.0, 50.0]
    assert model.weight[:, 1].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", ["unit", "nonnegative", "orthonormal", "free"])
def test_updates_lower_the_error_within_the_domain(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    x, a = (torch.randn(20, n, dtype=F64, generator=generator) for n in (6, 4))
    domain = ATOMS[name]
    weight = domain.project(torch.randn(6, 4, dtype=F64, generator=generator))
    found = fitted(weight, a.T @ a, x.T @ a, domain)
    assert torch.allclose(domain.project(found), found, atol=1e-10)
    before, after = (((x - a @ w.T) ** 2).sum() for w in (weight, found))
    assert after < before
    for _ in range(300):  # nothing near it that is allowed is better
        other = domain.project(found + 1e-3 * torch.randn(6, 4, dtype=F64, generator=generator))
        assert ((x - a @ other.T) ** 2).sum() > after - 1e-6


def test_projections_are_the_nearest_points() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 4, dtype=F64, generator=generator)
    for name in ("unit", "orthonormal"):
        near = ATOMS[name].project(weight)
        inner = near.T @ near
        assert torch.allclose(inner.diagonal(), torch.ones(4, dtype=F64))
        if name == "orthonormal":
            assert torch.allclose(inner, torch.eye(4, dtype=F64), atol=1e-12)
        distance = (near - weight).norm()
        for _ in range(200):
            other = ATOMS[name].project(near + 0.1 * torch.randn(6, 4, dtype=F64, generator=generator))
            assert (other - weight).norm() >= distance
    for mixed in (weight, -weight.abs()):
        near = ATOMS["nonnegative"].project(mixed)
        assert bool((near >= 0).all())
        assert torch.allclose(near.norm(dim=0), torch.ones(4, dtype=F64))
        for _ in range(200):
            other = torch.randn(6, 4, dtype=F64, generator=generator).abs()
            other = torch.lerp(near, other / other.norm(dim=0), 0.2)
            apart = (other / other.norm(dim=0) - mixed).norm(dim=0)
            assert bool((apart >= (near - mixed).norm(dim=0)).all())
    zero = torch.zeros(3, 1)
    assert torch.equal(ATOMS["unit"].project(zero), zero)


def test_more_orthonormal_atoms_than_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="no more than the inputs, got 5 atoms for 3 inputs"):
        en.models.SparseCoding(3, 5, atoms="orthonormal").update_(torch.randn(4, 3), torch.randn(4, 5))
