"""The IDX reader returns what was written, and says what is wrong with anything else."""

from __future__ import annotations

import gzip
import itertools
import pickle
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from energynet.data import DataError, read_idx
from helpers.idx_writer import FORMATS, encode

if TYPE_CHECKING:
    from pathlib import Path

RANGES = {
    0x08: (0, 2**8 - 1),
    0x09: (-(2**7), 2**7 - 1),
    0x0B: (-(2**15), 2**15 - 1),
    0x0C: (-(2**31), 2**31 - 1),
}
NAMES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def compress(content: bytes) -> bytes:
    """Compress without a time stamp, which would make every run's bytes differ."""
    return gzip.compress(content, mtime=0)


GOOD = encode(0x08, (2, 3), range(6))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


@st.composite
def contents(draw: st.DrawFn) -> tuple[int, tuple[int, ...], list[float]]:
    code = draw(st.sampled_from(sorted(FORMATS)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    floats = st.floats(width=32 if code == 0x0D else 64)
    elements = st.integers(*RANGES[code]) if code in RANGES else floats
    size = int(np.prod(shape))
    return code, shape, draw(st.lists(elements, min_size=size, max_size=size))


@given(content=contents(), zipped=st.booleans())
@example(content=(0x0B, (2,), [1, 256]), zipped=False)
def test_round_trip(file: Path, content: tuple[int, tuple[int, ...], list[float]], zipped: bool) -> None:
    code, shape, values = content
    raw = encode(code, shape, values)
    file.write_bytes(compress(raw) if zipped else raw)
    array = read_idx(file)
    assert array.shape == shape
    assert array.dtype == np.dtype(NAMES[code])
    assert array.dtype.isnative
    assert array.flags.writeable
    np.testing.assert_array_equal(array.ravel(), values)


def test_last_dimension_is_fastest(file: Path) -> None:
    file.write_bytes(GOOD)
    assert read_idx(str(file)).tolist() == [[0, 1, 2], [3, 4, 5]]


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\0\0\x08" + tail))
@example(b"\0\0\x08\x48" + struct.pack(">72I", *[1] * 72) + b"x")  # more dimensions than an array has
@example(b"\0\0\x08\x04" + struct.pack(">4I", 0, *[2**32 - 1] * 3))  # no values, but too large a shape
@example(b"\0\0\x0e\x03" + struct.pack(">3I", *[2**32 - 1] * 3))
def test_anything_is_read_or_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        array = read_idx(file)
    except DataError:
        return
    assert len(content) == 4 + 4 * array.ndim + array.nbytes


@given(st.integers(0, len(GOOD) - 1), st.booleans())
def test_every_truncation_is_refused(file: Path, length: int, zipped: bool) -> None:
    file.write_bytes(compress(GOOD[:length]) if zipped else GOOD[:length])
    with pytest.raises(DataError):
        read_idx(file)


ZIPPED = compress(GOOD)


@given(st.integers(2, len(ZIPPED) - 1))
def test_every_truncated_gzip_is_refused(file: Path, length: int) -> None:
    file.write_bytes(ZIPPED[:length])
    with pytest.raises(DataError, match="expected a whole gzip file, got a damaged one"):
        read_idx(file)


# Bytes 4 to 9 of gzip are a time stamp and hints that nothing depends on.
@given(st.integers(10, len(ZIPPED) - 1), st.integers(1, 255))
def test_every_flipped_byte_in_gzip_is_refused(file: Path, place: int, change: int) -> None:
    damaged = bytearray(ZIPPED)
    damaged[place] ^= change
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="replace the file with a complete copy"):
        read_idx(file)


@pytest.mark.parametrize(
    ("content", "expected", "got"),
    [
        (b"", "the four bytes that open an IDX file", "an empty file"),
        (b"\0\0\x08", "the four bytes that open an IDX file", r"'00 00 08' \(3 bytes in all\)"),
        (b"\x89PNG\r\n", "the four bytes that open an IDX file", "'89 50 4e 47'"),
        (b"\0\0\x0a\x01" + b"\0\0\0\0", r"type code out of 0x08 \(uint8\), .*0x0e \(float64\)", "0x0a"),
        (b"\0\0\x08\x00", "at least one dimension", "0"),
        (GOOD[:9], "a header of 12 bytes for 2 dimensions", "9 bytes in all"),
        (GOOD[:-1], r"6 bytes of uint8 for the shape \(2, 3\)", r"5 bytes \(the file is truncated"),
        (GOOD + b"xy", r"6 bytes of uint8 for the shape \(2, 3\)", r"8 bytes \(the file is followed by"),
        (encode(0x0D, (2,), [0.5]), r"8 bytes of float32 for the shape \(2,\)", "4 bytes"),
        (ZIPPED + b"xy", "a whole gzip file", "a damaged one"),
        (compress(b"text"), "the four bytes that open an IDX file", "'74 65 78 74'"),
    ],
    ids=[
        "empty",
        "three bytes",
        "PNG",
        "type code",
        "no dimensions",
        "short header",
        "truncated",
        "trailing bytes",
        "other type",
        "trailing bytes after gzip",
        "text in gzip",
    ],
)
def test_the_message(file: Path, content: bytes, expected: str, got: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}: expected .*{expected}.*, got {got}.*; (replace|give) "):
        read_idx(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"absent: expected a readable file, got No such file.*; check the path"
    ):
        read_idx(tmp_path / "absent")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a readable file, got Is a directory"):
        read_idx(tmp_path)


def test_error_is_a_value_error_and_survives_pickling() -> None:
    error = DataError("file", "this", "that", "do so")
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "file: expected this, got that; do so"
    assert (copy.source, copy.expected, copy.got, copy.remedy) == ("file", "this", "that", "do so")


def test_writer_knows_every_type() -> None:
    from energynet.data.idx import DTYPES

    assert set(FORMATS) == set(DTYPES) == set(NAMES)
    for code, other in itertools.product(DTYPES, DTYPES):
        assert (code == other) == (DTYPES[code] == DTYPES[other])
