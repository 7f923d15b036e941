"""Whitening by its definition: covariances, inverses, the spectrum of the filter, and what it was fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from energynet.data import LinearWhitening, natural_images, patches, pca, spectral, split_images, zca

F64 = torch.float64
LINEAR: list[Callable[..., LinearWhitening]] = [pca, zca]


def correlated(seed: int, count: int, features: int, spread: float = 10.0) -> torch.Tensor:
    """Normal numbers of standard deviations from 1 to 1 / spread in a turned frame, off centre."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -np.log10(spread), features, dtype=F64)
    turn = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=F64)).Q
    return torch.randn(count, features, generator=generator, dtype=F64) * scale @ turn + 3.0


@pytest.mark.parametrize("fit", LINEAR)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), features=st.integers(1, 6), extra=st.integers(1, 20))
def test_train_is_white_and_comes_back(
    fit: Callable[..., LinearWhitening], seed: int, features: int, extra: int
) -> None:
    train = correlated(seed, features + 1 + extra, features)
    whiten = fit(train)
    white = whiten(train)
    assert torch.allclose(white.mean(0), torch.zeros(features, dtype=F64), atol=1e-9)
    # numpy divides by n - 1 too
    assert np.allclose(np.cov(white.numpy(), rowvar=False), np.eye(features), atol=1e-7)
    other = correlated(seed + 1, 5, features)
    assert torch.allclose(whiten.inverse(whiten(other)), other, atol=1e-9)


@pytest.mark.parametrize("fit", LINEAR)
def test_it_is_fitted_to_train_alone(fit: Callable[..., LinearWhitening]) -> None:
    """Other data are mapped by the statistics of train, one row as it is among others."""
    train, test = correlated(0, 50, 4), 5 * correlated(1, 50, 4) - 2
    whiten = fit(train)
    white = whiten(test)
    assert not np.allclose(np.cov(white.numpy(), rowvar=False), np.eye(4), atol=1)
    assert torch.allclose(whiten(test[7:8]), white[7:8], atol=1e-12)
    centred = train - train.mean(0)
    inverse = torch.linalg.inv(centred.mT @ centred / 49)
    shifted = test - train.mean(0)
    # any whitening has the distances of Mahalanobis
    expected = torch.einsum("bi,ij,bj->b", shifted, inverse, shifted)
    assert torch.allclose(white.square().sum(1), expected, rtol=1e-9)


def test_pca_is_scikit_learns() -> None:
    train, test = correlated(0, 200, 6), correlated(1, 20, 6)
    theirs = PCA(3, whiten=True).fit(train.numpy())
    whiten = pca(train, components=3)
    ours = whiten(test).numpy()
    expected = theirs.transform(test.numpy())
    assert np.allclose(ours * np.sign((ours * expected).sum(0)), expected, atol=1e-8)
    assert np.allclose(whiten.inverse(whiten(test)).numpy(), theirs.inverse_transform(expected), atol=1e-8)


def test_zca_is_symmetric_and_the_nearest() -> None:
    """It is the inverse root of the covariance, by scipy; no turn of it moves the data less."""
    from scipy.linalg import fractional_matrix_power

    train = correlated(2, 200, 5)
    whiten = zca(train)
    expected = fractional_matrix_power(np.cov(train.numpy(), rowvar=False), -0.5)
    assert np.allclose(whiten.forward.numpy(), expected, atol=1e-8)
    centred = train - train.mean(0)
    moved = (whiten(train) - centred).square().sum()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=F64)).Q
    for rotation in (turn, -turn):
        assert moved < (whiten(train) @ rotation - centred).square().sum()


@pytest.mark.parametrize("fit", LINEAR)
def test_ridge_shrinks_by_the_formula_and_is_inverted(fit: Callable[..., LinearWhitening]) -> None:
    """Along a direction of variance v the whitened variance is v / (v + ridge)."""
    train = correlated(4, 300, 5)
    whiten = fit(train, ridge=0.02)
    found = np.linalg.eigvalsh(np.cov(whiten(train).numpy(), rowvar=False))
    variances = np.linalg.eigvalsh(np.cov(train.numpy(), rowvar=False))
    assert np.allclose(found, variances / (variances + 0.02), atol=1e-9)
    assert torch.allclose(whiten.inverse(whiten(train)), train, atol=1e-10)


def test_data_in_a_plane() -> None:
    """Without a ridge the error says how many components there are; these, or a ridge, do."""
    train = correlated(5, 40, 3) @ torch.randn(3, 5, generator=torch.Generator().manual_seed(6), dtype=F64)
    with pytest.raises(ValueError, match="in 3 directions"):
        zca(train)
    whiten = pca(train, components=3)
    assert torch.allclose(whiten.inverse(whiten(train)), train, atol=1e-9)
    assert zca(train, ridge=0.1)(train).isfinite().all()
    with pytest.raises(ValueError, match="in 0 directions"):
        pca(torch.ones(4, 2))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 12)])
def test_spectrum_of_the_filter(height: int, width: int) -> None:
    """A plane wave of frequency f comes out as R(f) = f exp(-(f / f0)^4) times itself, a constant as zero."""
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=F64), torch.arange(width, dtype=F64), indexing="ij"
    )
    images = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0), dtype=F64)
    whiten = spectral(images, cutoff=0.3)
    for i, j in [(0, 0), (0, 1), (2, 0), (3, 5), (height - 2, 3), (height // 2, 1)]:
        phase = 2 * np.pi * (i * rows / height + j * columns / width) + 0.4
        frequency = np.hypot(min(i, height - i) / height, j / width)
        gain = frequency * np.exp(-((frequency / 0.3) ** 4)) / whiten.scale
        assert torch.allclose(whiten(phase.cos()), gain * phase.cos(), atol=1e-9)


def test_filter_is_fitted_to_train_alone_and_comes_back() -> None:
    """Train has unit variance; other images are scaled by the same number, and come back but for their mean."""
    generator = torch.Generator().manual_seed(1)
    train = [
        torch.rand(12, 20, generator=generator, dtype=F64),
        torch.rand(9, 8, generator=generator, dtype=F64),
    ]
    whiten = spectral(train)
    white = torch.cat([whiten(image).flatten() for image in train])
    assert float(white.mean()) == pytest.approx(0, abs=1e-12)
    assert float(white.square().mean()) == pytest.approx(1, rel=1e-12)
    pixels = torch.cat([image.flatten() for image in train])
    assert whiten.mean == pytest.approx(float(pixels.mean()), rel=1e-12)
    test = 3 * torch.rand(2, 11, 10, generator=generator, dtype=F64)
    assert torch.allclose(whiten(test[:1] * 2), 2 * whiten(test)[:1], atol=1e-12)
    back = whiten.inverse(whiten(test))
    means = test.mean((-2, -1), keepdim=True)
    assert torch.allclose(back, test - means + whiten.mean, atol=1e-9)
    assert torch.allclose(whiten.inverse(whiten(train[0])).mean(), pixels.mean(), atol=1e-12)


def test_it_flattens_the_spectrum_of_photographs() -> None:
    """Power below the cutoff varies by a factor of hundreds before, of less than ten after: 1 / f^2."""
    train, test = split_images(natural_images())
    whiten = spectral(train)

    def powers(images: list[torch.Tensor]) -> list[float]:
        cut = torch.stack([image[:384, :96] for image in images]).double()
        wave = torch.fft.fft2(cut - cut.mean((-2, -1), keepdim=True)).abs().square().mean(0)
        f = torch.hypot(torch.fft.fftfreq(384)[:, None], torch.fft.fftfreq(96)[None, :])
        return [float(wave[(f > a) & (f <= 2 * a)].mean()) for a in (0.02, 0.04, 0.08, 0.12)]

    before, after = powers(test), powers([whiten(image) for image in test])
    assert max(before) / min(before) > 20
    assert max(after) / min(after) < 6


def test_dtypes_are_kept_and_errors_say_what_to_do() -> None:
    train = patches(natural_images(), 4, 200, generator=torch.Generator().manual_seed(0))
    whiten = zca(train)
    assert whiten(train).dtype == torch.float32
    assert torch.allclose(whiten.inverse(whiten(train)), train, atol=1e-4)
    assert spectral(natural_images())(train.view(-1, 4, 4)).dtype == torch.float32
    with pytest.raises(ValueError, match="1 to 16 components"):
        pca(train, components=17)
    with pytest.raises(ValueError, match="the ridge is"):
        pca(train, ridge=-1.0)
    with pytest.raises(ValueError, match="n > 1"):
        pca(train[:1])
    with pytest.raises(ValueError, match=r"torch\.Tensor, got ndarray"):
        zca(train.numpy())
    with pytest.raises(ValueError, match="rows of 16 features"):
        whiten(train[:, :9])
    with pytest.raises(ValueError, match="whole images"):
        spectral(train)
    with pytest.raises(ValueError, match="not constant"):
        spectral([torch.ones(4, 4)])
    with pytest.raises(ValueError, match="positive number of cycles"):
        spectral(natural_images(), cutoff=0.0)
    levels = torch.randint(256, (40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for method in (zca(levels), zca(levels).inverse):
        with pytest.raises(ValueError, match=r"floating-point numbers, got torch.uint8"):
            method(levels)
