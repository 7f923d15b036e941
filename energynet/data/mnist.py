"""MNIST: 28x28 handwritten digits, from a directory or downloaded."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from energynet.data.dataset import Dataset, Split
from energynet.data.error import DataError
from energynet.data.idx import read_idx
from energynet.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""Where the files are downloaded from."""

SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""The published files and their checksums, which are of the compressed files."""

VARIABLE = "ENERGYNET_DATA"
"""The environment variable that names the directory of the files."""


def mnist(data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> Dataset:
    """Load MNIST.

    The four standard files (``train-images-idx3-ubyte`` and so on, gzipped with the ending ``.gz`` or not)
    are read from `data_dir`, else from the directory that the environment variable ``ENERGYNET_DATA``
    names, else from the user's cache, to which they are downloaded and where their checksums are verified.
    Other data in the same format and under the same names (Fashion-MNIST, ...) are read as well.

    Parameters
    ----------
    data_dir : path, optional
        The directory of the files. If it is given, nothing is downloaded.
    download : bool
        Whether files missing in the cache may be downloaded; the default is True.

    Returns
    -------
    Dataset
        784 features in [0, 1] and 10 classes; 60000 examples to train on, 10000 to test.

    Raises
    ------
    DataError
        If the directory or a file is missing, corrupt, or not images with their labels; if the download
        fails or brings something else.
    ModuleNotFoundError
        If no directory is given and pooch is not installed.
    """
    # An empty variable counts as unset, as it does to most programs.
    directory = data_dir if data_dir is not None else os.environ.get(VARIABLE) or None
    if directory is not None:
        find = _in_directory(
            Path(directory).expanduser(), "data_dir" if data_dir is not None else f"${VARIABLE}"
        )
    else:
        find = _in_cache(download)
    train, train_shape = _split(find("train-images-idx3-ubyte"), find("train-labels-idx1-ubyte"))
    images = find("t10k-images-idx3-ubyte")
    test, test_shape = _split(images, find("t10k-labels-idx1-ubyte"))
    if train_shape != test_shape:
        raise DataError(
            images,
            f"images of {train_shape[0]}x{train_shape[1]} as in the training set",
            f"{test_shape[0]}x{test_shape[1]}",
            "take the four files from one source",
        )
    return Dataset("mnist", train, test, classes=10)


def _in_directory(directory: Path, origin: str) -> Callable[[str], Path]:
    if not directory.is_dir():
        raise DataError(
            directory,
            "a directory with the MNIST files",
            "a file" if directory.exists() else f"nothing there ({origin} names it)",
            f"correct {origin}, or leave it unset to download the files",
        )

    def find(name: str) -> Path:
        for candidate in (directory / name, directory / f"{name}.gz"):
            if candidate.is_file():
                return candidate
        there = sorted(path.name for path in directory.iterdir())
        raise DataError(
            directory,
            f"the file {name} or {name}.gz ({origin} names the directory)",
            _listing(there),
            "put the file there, or leave the directory unset to download it",
        )

    return find


def _listing(names: list[str], limit: int = 6) -> str:
    if not names:
        return "an empty directory"
    more = len(names) - limit
    return "only " + ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _in_cache(download: bool) -> Callable[[str], Path]:
    pooch = require("pooch", extra="cli", purpose="the data set 'mnist' without a directory")
    # Its messages on every file would break into the progress bar.
    pooch.get_logger().setLevel(logging.WARNING)
    registry = {name: f"sha256:{digest}" for name, digest in SHA256.items()}
    cache = pooch.create(
        path=Path(pooch.os_cache("energynet")) / "mnist", base_url=URL, registry=registry, retry_if_failed=1
    )

    def find(name: str) -> Path:
        file = f"{name}.gz"
        path = Path(cache.abspath) / file
        if not download and not path.is_file():
            raise DataError(
                path,
                "the file from an earlier download",
                "nothing there, and download=False",
                f"allow the download, or name the directory of the files by data_dir or ${VARIABLE}",
            )
        if not download:
            return path
        try:
            return Path(cache.fetch(file, downloader=pooch.HTTPDownloader(progressbar=True)))
        except (OSError, ValueError) as error:
            raise DataError(
                URL + file,
                f"a download to {cache.abspath} with the SHA-256 sum {SHA256[file]}",
                f"{type(error).__name__}: {error}",
                f"check the connection, or name a directory of the files by data_dir or ${VARIABLE}",
            ) from error

    return find


def _split(image_file: Path, label_file: Path) -> tuple[Split, tuple[int, ...]]:
    images = _read(image_file, "images", ("n", "rows", "columns"))
    labels = _read(label_file, "labels", ("n",))
    if len(images) != len(labels):
        raise DataError(
            label_file,
            f"{len(images)} labels, one for each image of {image_file.name}",
            str(len(labels)),
            "take both files from the same source",
        )
    if labels.max(initial=0) > 9:
        raise DataError(
            label_file,
            "labels from 0 to 9",
            str(labels.max()),
            "give the labels of a data set with ten classes",
        )
    x = torch.from_numpy(images.reshape(len(images), -1)).float().div_(255)
    return Split(x, torch.from_numpy(labels).long()), images.shape[1:]


def _read(path: Path, what: str, dimensions: Iterable[str]) -> np.ndarray:
    values = read_idx(path)
    dimensions = tuple(dimensions)
    if values.dtype != "uint8" or values.ndim != len(dimensions) or not values.size:
        raise DataError(
            path,
            f"{what}: uint8 of shape ({', '.join(dimensions)}), at least one",
            f"{values.dtype.name} of shape {values.shape}",
            "check that no two files have each other's name",
        )
    return values
