"""Images are read as they are, cut apart without overlap, and into patches that are really theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from sklearn.datasets import load_sample_images

from energynet.data import DataError, natural_images, patches, split_images


def numbered(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    """Images each of whose pixels has a number of its own."""
    images, first = [], 0
    for rows, columns in shapes:
        images.append(torch.arange(first, first + rows * columns, dtype=torch.float64).view(rows, columns))
        first += 1000
    return images


def test_sample_images_are_grey_by_luminance() -> None:
    images = natural_images()
    assert [tuple(image.shape) for image in images] == [(427, 640), (427, 640)]
    for image, source in zip(images, load_sample_images().images, strict=True):
        assert image.dtype == torch.float32
        pillow = np.asarray(Image.fromarray(source).convert("L"), dtype=float) / 255
        assert np.abs(image.numpy() - pillow).max() <= 0.51 / 255  # which rounds to whole levels


def test_folder(tmp_path: Path) -> None:
    """Every kind of file gives the same grey, in the order of names; what is no image is passed over."""
    grey = (np.arange(12).reshape(3, 4) * 20).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "b.png")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "c.BMP")
    alpha = np.concatenate([np.repeat(grey[..., None], 3, 2), np.full((3, 4, 1), 7, np.uint8)], 2)
    Image.fromarray(alpha, "RGBA").save(tmp_path / "d.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "e.tif")
    Image.fromarray(grey).convert("RGB").quantize(64).save(tmp_path / "f.png")
    Image.fromarray(np.full((2, 2), 255, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    first, *rest = natural_images(tmp_path)
    assert torch.equal(first, torch.ones(2, 2))
    assert len(rest) == 5
    for image in rest:
        assert torch.allclose(image, torch.from_numpy(grey / 255).float(), atol=1e-6)


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder of images"):
        natural_images(tmp_path / "none")
    with pytest.raises(DataError, match="expected images"):
        natural_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    with pytest.raises(DataError, match="an image that Pillow reads"):
        natural_images(tmp_path)
    (tmp_path / "broken.png").unlink()
    levels = np.array([[0.0, 0.5], [0.25, 1.0]], np.float32)
    Image.fromarray(levels).save(tmp_path / "float.tif")
    assert torch.equal(natural_images(tmp_path)[0], torch.from_numpy(levels))
    Image.fromarray(200 * levels).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"values go from 0 to 200, not from 0 to 1"):
        natural_images(tmp_path)


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_split_shares_no_pixel_and_loses_none(fraction: float) -> None:
    images = numbered((4, 10), (3, 2))
    train, test = split_images(images, fraction)
    for image, left, right in zip(images, train, test, strict=True):
        assert torch.equal(torch.cat([left, right], 1), image)
        assert left.numel() > 0
        assert right.numel() > 0
    assert train[0].shape[1] == {0.001: 9, 0.2: 8, 0.5: 5, 0.999: 1}[fraction]


@pytest.mark.parametrize("border", [0, 2])
def test_patches_are_squares_of_the_images(border: int) -> None:
    """From the number of its first pixel follow the place of a patch and all its pixels."""
    images = numbered((9, 11), (7, 8))
    found = patches(images, 3, 500, border=border, generator=torch.Generator().manual_seed(0))
    assert found.shape == (500, 9)
    assert found.dtype == torch.float64
    for patch in found.tolist():
        number, first = divmod(int(patch[0]), 1000)
        rows, columns = images[number].shape
        row, column = divmod(first, columns)
        assert border <= row <= rows - border - 3
        assert border <= column <= columns - border - 3
        expected = [number * 1000 + (row + i) * columns + column + j for i in range(3) for j in range(3)]
        assert patch == expected


def test_every_place_is_as_likely() -> None:
    """Chi-square over all places of two images of different sizes; a false alarm in 1e6."""
    images = numbered((4, 5), (3, 9), (1, 9))
    found = patches(images, 2, 20000, generator=torch.Generator().manual_seed(1))
    _, counts = np.unique(found[:, 0].numpy(), return_counts=True)
    assert len(counts) == 3 * 4 + 2 * 8  # the third image has no room
    assert chisquare(counts).pvalue > 1e-6


def test_patches_depend_on_the_generator_alone() -> None:
    images = numbered((9, 11))
    first, again, other = (
        patches(images, 2, 20, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_patches_errors() -> None:
    with pytest.raises(ValueError, match="at least 6 by 6"):
        patches(numbered((5, 9)), 4, 1, border=1)
    with pytest.raises(ValueError, match="size >= 1"):
        patches(numbered((5, 9)), 0, 1)
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        patches([torch.zeros(2, 3, 4)], 2, 1)
    with pytest.raises(ValueError, match="give a list of images"):
        patches(torch.zeros(4, 4), 2, 1)
    with pytest.raises(ValueError, match=r"torch\.Tensors, got ndarray"):
        patches([torch.zeros(4, 4).numpy()], 2, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_images(numbered((5, 9)), 1.0)
    with pytest.raises(ValueError, match="two columns"):
        split_images([torch.zeros(3, 1)])
    assert patches(numbered((4, 4)), 4, 3).tolist() == [list(range(16))] * 3
