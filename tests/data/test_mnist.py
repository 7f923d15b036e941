"""MNIST is found where it should be, and every way of not finding it has its message."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
import pytest
import torch

from energynet.data import DataError, mnist, read_idx
from helpers.idx_writer import encode, write, write_mnist

if TYPE_CHECKING:
    from collections.abc import Iterator

# The package has a function of the same name as this module.
module = importlib.import_module("energynet.data.mnist")

REAL = os.environ.get("ENERGYNET_DATA")
RAW_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENERGYNET_DATA", raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests out of the user's cache, and the network out of the tests."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/")
    return tmp_path / "cache" / "energynet" / "mnist"


@pytest.fixture
def served(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a synthetic MNIST, and expect its checksums."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_mnist(folder)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}/")
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        monkeypatch.setattr(module, "SHA256", digests)
        yield folder
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("zipped", [True, False])
def test_directory(tmp_path: Path, zipped: bool) -> None:
    write_mnist(tmp_path, zipped=zipped)
    data = mnist(tmp_path)
    assert (data.name, data.classes, data.features) == ("mnist", 10, 16)
    assert data.train.label.tolist() == [i % 10 for i in range(20)]
    expected = torch.tensor([[i + j for j in range(16)] for i in range(20)]) / 255
    torch.testing.assert_close(data.train.x, expected)
    torch.testing.assert_close(data.test.x, expected[:10])


def test_directory_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, given = tmp_path / "named", tmp_path / "given"
    for folder, count in ((named, 11), (given, 12)):
        folder.mkdir()
        write_mnist(folder, train=count)
    monkeypatch.setenv("ENERGYNET_DATA", str(named))
    assert len(mnist().train) == 11
    assert len(mnist(given).train) == 12


def test_empty_variable_is_unset(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYNET_DATA", "")
    with pytest.raises(DataError, match="download=False"):
        mnist(download=False)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path)
    assert len(mnist("~").train) == 20


def test_missing_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "absent"
    message = (
        r"absent: expected a directory with the MNIST files, got nothing there \({0} names it\); correct {0}"
    )
    with pytest.raises(DataError, match=message.format("data_dir")):
        mnist(absent)
    monkeypatch.setenv("ENERGYNET_DATA", str(absent))
    with pytest.raises(DataError, match=message.format(r"\$ENERGYNET_DATA")):
        mnist()


def test_file_for_a_directory(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(DataError, match="expected a directory with the MNIST files, got a file"):
        mnist(tmp_path / "train-images-idx3-ubyte.gz")


@pytest.mark.parametrize("name", RAW_SHA256)
def test_missing_file(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / f"{name}.gz").unlink()
    with pytest.raises(
        DataError, match=rf"expected the file {name} or {name}.gz .*, got only t.*; put the file there"
    ):
        mnist(tmp_path)


def test_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got an empty directory"):
        mnist(tmp_path)


def test_crowded_directory_is_not_listed_whole(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"other{i}").touch()
    with pytest.raises(DataError, match=r"got only other0, .*other5 and 3 more;"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", encode(8, (19,), [0] * 19), "expected 20 labels, .*, got 19; take both"),
        ("train-labels-idx1-ubyte", encode(8, (20,), [10] * 20), "expected labels from 0 to 9, got 10"),
        (
            "train-labels-idx1-ubyte",
            encode(0x0C, (20,), [0] * 20),
            r"expected labels: uint8 .*, got int32 of shape \(20,\)",
        ),
        (
            "t10k-images-idx3-ubyte",
            encode(8, (10,), [0] * 10),
            r"images: uint8 of shape \(n, rows, columns\).*, got uint8 of",
        ),
        ("t10k-images-idx3-ubyte", encode(8, (0, 4, 4), []), r"at least one, got uint8 of shape \(0, 4, 4\)"),
        (
            "t10k-images-idx3-ubyte",
            encode(8, (10, 1, 3), [0] * 30),
            "expected images of 4x4 as in the training set, got 1x3",
        ),
        ("t10k-images-idx3-ubyte", encode(8, (10, 4, 4), [0] * 159), "160 bytes of uint8 .*truncated"),
    ],
    ids=["count", "label", "dtype", "dimensions", "empty", "size", "truncated"],
)
def test_wrong_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_mnist(tmp_path, zipped=False)
    write(tmp_path / name, content, zipped=False)
    with pytest.raises(DataError, match=rf"{name}: expected .*") as caught:
        mnist(tmp_path)
    caught.match(message)


def test_download_happens_once(served: Path, cache: Path) -> None:
    assert len(mnist().train) == 20
    assert {path.name for path in cache.iterdir()} == set(module.SHA256)
    for path in served.iterdir():
        path.unlink()
    assert len(mnist().train) == 20
    assert len(mnist(download=False).train) == 20


def test_damaged_cache_is_downloaded_again(served: Path, cache: Path) -> None:
    mnist()
    damaged = cache / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert len(mnist().train) == 20


def test_download_of_something_else(served: Path, cache: Path) -> None:
    (served / "train-images-idx3-ubyte.gz").write_bytes(b"an error page")
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz: expected a download .* SHA-256 .*, got ValueError"
    ):
        mnist()
    assert list(cache.iterdir()) == []


def test_download_of_a_missing_file(served: Path) -> None:
    (served / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte.gz: expected a download .*404.*; check the connection"
    ):
        mnist()


def test_no_connection(cache: Path) -> None:
    with pytest.raises(DataError, match=r"got ConnectionError.*; check the connection, or name a directory"):
        mnist()


def test_no_download_and_no_cache(cache: Path) -> None:
    with pytest.raises(DataError, match="nothing there, and download=False; allow the download"):
        mnist(download=False)
    assert not cache.exists()


def test_checksums_are_of_the_standard_files() -> None:
    assert set(module.SHA256) == {f"{name}.gz" for name in RAW_SHA256}
    assert all(len(bytes.fromhex(digest)) == 32 for digest in module.SHA256.values())


@pytest.fixture
def real() -> Path:
    if not REAL:
        pytest.skip("needs the real MNIST: set ENERGYNET_DATA to the directory of its four files")
    return Path(REAL)


@pytest.mark.parametrize("name", RAW_SHA256)
def test_real_files(real: Path, name: str) -> None:
    """The values are those that were published, however the files are compressed."""
    path = real / name if (real / name).is_file() else real / f"{name}.gz"
    values = read_idx(path)
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    header = bytes([0, 0, 8, values.ndim]) + shape
    assert hashlib.sha256(header + values.tobytes()).hexdigest() == RAW_SHA256[name]


def test_real_mnist(real: Path) -> None:
    data = mnist(real)
    assert (len(data.train), len(data.test), data.features, data.classes) == (60000, 10000, 784, 10)
    assert data.test.label.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean and deviation that everyone normalises MNIST with.
    torch.testing.assert_close(data.train.x.mean(), torch.tensor(0.1307), atol=5e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std(), torch.tensor(0.3081), atol=5e-5, rtol=0)
