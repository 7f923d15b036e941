"""The IDX format, in which MNIST is published.

A file is two zero bytes, a byte for the type, a byte for the number of dimensions, every dimension as a
big-endian 32-bit count, and the values, big-endian, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from energynet.data.error import DataError

if TYPE_CHECKING:
    import os

DTYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
"""The element type of every type code."""

_GZIP = b"\x1f\x8b"
_REPLACE = "replace the file with a complete copy"


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file, gzipped or not; which it is, its content tells, not its name.

    Parameters
    ----------
    path : str or PathLike
        The file.

    Returns
    -------
    ndarray
        The values in the file's shape and type, in the byte order of this machine, writable.

    Raises
    ------
    DataError
        If the file cannot be opened, is not IDX, or does not hold exactly the values it announces.
    """
    path = Path(path)
    content = _content(path)
    shape, dtype, start = _header(path, content)
    expected = math.prod(shape) * dtype.itemsize
    got = len(content) - start
    if got != expected:
        what = "truncated" if got < expected else "followed by something else"
        raise DataError(
            path,
            f"{expected} bytes of {dtype.name} for the shape {shape} in its header",
            f"{got} bytes (the file is {what}, or its header is damaged)",
            _REPLACE,
        )
    values = np.frombuffer(content, dtype, offset=start)
    try:
        values = values.reshape(shape)
    except ValueError as error:
        raise DataError(path, "a shape that an array can have", f"{shape} ({error})", _REPLACE) from error
    return values.astype(dtype.newbyteorder("="))


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            path, "a readable file", error.strerror or str(error), "check the path and its permissions"
        ) from error
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, "a whole gzip file", f"a damaged one ({error})", _REPLACE) from error


def _header(path: Path, content: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    if len(content) < 4 or content[:2] != b"\0\0":
        got = f"{content[:4].hex(' ')!r} ({len(content)} bytes in all)" if content else "an empty file"
        raise DataError(
            path,
            "the four bytes that open an IDX file, '00 00 <type> <dimensions>', or a gzip file of one",
            got,
            "give an IDX file",
        )
    code, ndim = content[2], content[3]
    if code not in DTYPES:
        known = ", ".join(f"0x{known:02x} ({dtype.name})" for known, dtype in DTYPES.items())
        raise DataError(path, f"an IDX type code out of {known}", f"0x{code:02x}", _REPLACE)
    if ndim == 0:
        raise DataError(path, "at least one dimension", "0", _REPLACE)
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(
            path, f"a header of {start} bytes for {ndim} dimensions", f"{len(content)} bytes in all", _REPLACE
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=ndim, offset=4))
    return shape, DTYPES[code], start
