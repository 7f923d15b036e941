"""Data sets are found by name, and missing packages by the extra that brings them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from energynet import data
from energynet.optional import require
from helpers.idx_writer import write_mnist

if TYPE_CHECKING:
    from pathlib import Path


def test_digits_by_name() -> None:
    loaded, direct = data.load("digits", seed=3), data.digits(seed=3)
    assert torch.equal(loaded.test.x, direct.test.x)
    assert not torch.equal(loaded.test.x, data.load("digits").test.x)


def test_mnist_by_name(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert torch.equal(data.load("mnist", tmp_path).train.x, data.mnist(tmp_path).train.x)


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match="expected one of 'digits', 'mnist', got 'cifar'; check the spelling"
    ):
        data.load("cifar")


def test_registered_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.DATASETS, "mine", lambda data_dir, seed: (data_dir, seed))
    assert data.load("mine", "there", 7) == ("there", 7)


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("sklearn", "digits", "sklearn"), ("pooch", "mnist", "cli")]
)
def test_missing_package(monkeypatch: pytest.MonkeyPatch, module: str, name: str, extra: str) -> None:
    monkeypatch.delenv("ENERGYNET_DATA", raising=False)
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ModuleNotFoundError,
        match=rf"'{name}'.* needs the package '{module}'.*pip install 'energynet\[{extra}\]'",
    ):
        data.load(name)


def test_broken_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_package.py").write_text("import what_it_needs_itself\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'what_it_needs_itself'$"):
        require("broken_package", extra="x", purpose="the test")


def test_import_needs_no_extra() -> None:
    optional = ["sklearn", "pooch", "tyro", "hypothesis", "jaxtyping", "arviz_stats"]
    code = f"import sys; sys.modules.update(dict.fromkeys({optional}))\nimport energynet.data"
    subprocess.run([sys.executable, "-c", code], check=True)
