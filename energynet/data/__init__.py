"""Data sets by name, and small problems and sequences made to measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energynet.data.dataset import Dataset, Split
from energynet.data.digits import digits
from energynet.data.error import DataError
from energynet.data.idx import read_idx
from energynet.data.mnist import mnist
from energynet.data.patches import natural_images, patches, split_images
from energynet.data.sequences import PITCHES, evolution, melody, spelt
from energynet.data.toys import bars_and_stripes, ising, ising_samples, shifter
from energynet.data.whitening import LinearWhitening, SpectralWhitening, Whitening, pca, spectral, zca

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    Loader = Callable[[str | os.PathLike[str] | None, int], Dataset]

__all__ = [
    "DATASETS",
    "PITCHES",
    "DataError",
    "Dataset",
    "LinearWhitening",
    "SpectralWhitening",
    "Split",
    "Whitening",
    "bars_and_stripes",
    "digits",
    "evolution",
    "ising",
    "ising_samples",
    "load",
    "melody",
    "mnist",
    "natural_images",
    "patches",
    "pca",
    "read_idx",
    "shifter",
    "spectral",
    "spelt",
    "split_images",
    "zca",
]

DATASETS: dict[str, Loader] = {
    "digits": lambda _, seed: digits(seed=seed),
    "mnist": lambda data_dir, _: mnist(data_dir),
}
"""What `load` knows: from a name to a function of the directory and the seed."""


def load(name: str, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        A key of `DATASETS`: ``"digits"`` or ``"mnist"``.
    data_dir : path, optional
        The directory of its files. Sets that ship with a package have none and ignore it.
    seed : int
        Chooses the examples to test on. Sets that come split ignore it; the default is 0.

    Returns
    -------
    Dataset
        The data set.

    Raises
    ------
    ValueError
        If there is no data set of that name.
    DataError
        If its files are missing or corrupt.
    """
    if name not in DATASETS:
        raise ValueError(
            f"data set: expected one of {', '.join(map(repr, DATASETS))}, got {name!r}; "
            "check the spelling, or register a loader in energynet.data.DATASETS"
        )
    return DATASETS[name](data_dir, seed)
