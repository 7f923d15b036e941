"""Grey images of nature, cut into patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from energynet.data.error import DataError
from energynet.optional import require

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
"""Endings, in small letters, of what counts as an image in a folder."""

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode "L"


def natural_images(folder: str | os.PathLike[str] | None = None) -> list[Float[Tensor, "height width"]]:
    """Load images as grey values.

    Parameters
    ----------
    folder : path, optional
        A folder of images (`SUFFIXES`), not searched deeper, taken in the order of their names. None, the
        default, takes the two photographs that ship with scikit-learn, a temple and a flower, 427 by 640
        pixels each.

    Returns
    -------
    list of Tensor
        Float32 in [0, 1]: colours by their luminance, 0.299 red + 0.587 green + 0.114 blue; transparency is
        ignored. Whole numbers are parts of 255, or of 65535 where they have more bits.

    Raises
    ------
    DataError
        If the folder is missing, holds no image, or one that cannot be read, or whose values are outside
        [0, 1], as floating-point ones may be.
    ModuleNotFoundError
        If there is no folder and scikit-learn is not installed.
    """
    if folder is None:
        source = require("sklearn.datasets", extra="sklearn", purpose="the sample images")
        return [_grey(image) for image in source.load_sample_images().images]
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "a folder of images", "none", "check the path")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(
            folder,
            f"images ({', '.join(sorted(SUFFIXES))})",
            "none",
            "put images there, or give another folder",
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib

    try:
        with Image.open(path) as image:
            # a palette holds numbers of colours, not grey values
            whole = image.convert("RGB") if image.mode in ("P", "1", "CMYK", "YCbCr", "LAB", "HSV") else image
            return _grey(np.asarray(whole))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(
            path, "an image that Pillow reads", str(error), "replace or remove the file"
        ) from error


def _grey(image: np.ndarray) -> Tensor:
    values = image.astype(np.float64)
    if image.dtype.kind in "iu":
        # Pillow reads 16 bits as 32
        values /= np.iinfo(np.uint16 if image.dtype.itemsize > 1 else np.uint8).max
    if values.size and not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(f"its values go from {values.min():g} to {values.max():g}, not from 0 to 1")
    if values.ndim == 3:
        values = values[..., :3] @ _LUMINANCE if values.shape[2] > 2 else values[..., 0]
    return torch.from_numpy(np.clip(values, 0, 1)).float()


def split_images(
    images: Sequence[Float[Tensor, "height width"]], test_fraction: float = 0.2
) -> tuple[list[Tensor], list[Tensor]]:
    """Cut every image in two, to learn from the left and to be judged on the right.

    Patches of the two parts share no pixel, while both parts hold all images: with two images only, one to
    learn from and one to judge by would be about different scenes.

    Parameters
    ----------
    images : sequence of Tensor
        ``(height, width)`` each.
    test_fraction : float
        The share of the columns to judge by, in (0, 1), rounded, at least one column on either side. The
        default is 0.2.

    Returns
    -------
    train, test : list of Tensor
        Views of the images, in their order.

    Raises
    ------
    ValueError
        If ``test_fraction`` is not between 0 and 1, or an image has fewer than two columns.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number between 0 and 1, got {test_fraction}; try 0.2")
    train, test = [], []
    for image in images:
        columns = _shape(image)[1]
        if columns < 2:
            raise ValueError("split_images: expected images of two columns or more, got one of one column")
        cut = columns - min(max(round(test_fraction * columns), 1), columns - 1)
        train.append(image[:, :cut])
        test.append(image[:, cut:])
    return train, test


def patches(
    images: Sequence[Float[Tensor, "height width"]],
    size: int,
    count: int,
    *,
    border: int = 0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "count size*size"]:
    """Cut square patches at random places, each place of every image as likely as any other.

    Parameters
    ----------
    images : sequence of Tensor
        ``(height, width)`` each; their sizes may differ.
    size : int
        Side of a patch, in pixels.
    count : int
        How many; places may come again.
    border : int
        Pixels at the four sides of each image to stay away from, such as those where a filter has wrapped
        around. The default is 0.
    generator : torch.Generator, optional
        Chooses the places.

    Returns
    -------
    Tensor
        ``(count, size * size)``, rows of pixels one after the other, in the dtype of the images.

    Raises
    ------
    ValueError
        If a number is negative, or no image has room for a patch.
    """
    if size < 1 or count < 0 or border < 0:
        raise ValueError(
            f"patches: expected size >= 1, count >= 0 and border >= 0, got {size}, {count} and {border}"
        )
    windows = []
    for image in images:
        rows, columns = _shape(image)
        if min(rows, columns) >= size + 2 * border:
            inner = image[border : rows - border, border : columns - border]
            windows.append(inner.unfold(0, size, 1).unfold(1, size, 1))
    if not windows:
        raise ValueError(
            f"patches: expected an image of at least {size + 2 * border} by {size + 2 * border} pixels for "
            f"patches of {size} and a border of {border}, got {[tuple(i.shape) for i in images]}; "
            "give larger images or smaller patches"
        )
    places = torch.tensor([window.shape[0] * window.shape[1] for window in windows])
    ends = places.cumsum(0)
    chosen = torch.randint(int(ends[-1]), (count,), generator=generator)
    which = torch.bucketize(chosen, ends, right=True)
    result = windows[0].new_empty(count, size, size)
    for number, window in enumerate(windows):
        mine = (which == number).nonzero().squeeze(1)
        place = chosen[mine] - (ends[number] - places[number])
        result[mine] = window[place // window.shape[1], place % window.shape[1]]
    return result.flatten(1)


def _shape(image: Tensor) -> tuple[int, int]:
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"expected images as torch.Tensors, got {type(image).__name__}")
    if image.ndim != 2:
        raise ValueError(
            f"expected images of shape (height, width), got {tuple(image.shape)}; "
            "give a list of images, also of one"
        )
    return image.shape[0], image.shape[1]
