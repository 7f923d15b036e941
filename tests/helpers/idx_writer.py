"""A writer of IDX files that shares nothing with the reader under test."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORMATS = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}


def encode(code: int, shape: Sequence[int], values: Sequence[float]) -> bytes:
    """Give the bytes of an IDX file; they are a lie if `shape` does not fit `values`."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + struct.pack(f">{len(values)}{FORMATS[code]}", *values)


def write_mnist(
    directory: Path, *, train: int = 20, test: int = 10, side: int = 4, zipped: bool = True
) -> None:
    """Write the four files: pixel j of image i is i + j, and its label i % 10."""
    for name, count in (("train", train), ("t10k", test)):
        pixels = [(i + j) % 256 for i in range(count) for j in range(side * side)]
        write(directory / f"{name}-images-idx3-ubyte", encode(0x08, (count, side, side), pixels), zipped)
        write(
            directory / f"{name}-labels-idx1-ubyte",
            encode(0x08, (count,), [i % 10 for i in range(count)]),
            zipped,
        )


def write(path: Path, content: bytes, zipped: bool) -> None:
    """Write a file, under the ending .gz if it is zipped."""
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content, mtime=0))
    else:
        path.write_bytes(content)
