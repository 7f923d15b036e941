"""A run on disk survives a crash between and within any two operations on files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from energynet import track
from energynet.track import Run, RunError, check_tensors

CONFIG = {"dataset": "none", "hidden": [3], "epochs": 3}


def work(directory: Path, **options: Any) -> Run:
    """A training whose state depends on all that came before."""
    run = Run(directory, CONFIG, **options)
    state = run.state or {"epoch": 0, "weight": torch.ones(50, dtype=torch.float64)}
    for epoch in range(state["epoch"], CONFIG["epochs"]):
        weight = (state["weight"] * 1.7).sin() + epoch
        run.log({"epoch": epoch, "loss": float(weight.sum()), "none": None}, seconds=0.25)
        state = {"epoch": epoch + 1, "weight": weight}
        run.save(state)
    return run


def result(directory: Path) -> tuple[bytes, bytes, torch.Tensor]:
    weight = torch.load(directory / "checkpoint.pt", weights_only=True)["state"]["weight"]
    return (directory / "config.json").read_bytes(), (directory / "metrics.jsonl").read_bytes(), weight


def assert_same(directory: Path, expected: Path) -> None:
    *texts, weight = result(directory)
    *known, known_weight = result(expected)
    assert texts == known
    assert torch.equal(weight, known_weight)
    assert len((directory / "timing.jsonl").read_text().splitlines()) == CONFIG["epochs"]


class Crash(BaseException):
    """What nothing catches, as SIGKILL."""


class Crashing:
    """The module ``os`` until an operation, at which the program stops: before, within or after it."""

    WATCHED = ("open", "write", "fsync", "replace", "truncate", "unlink")

    def __init__(self, at: int, moment: str) -> None:
        self.left, self.moment = at, moment

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if name not in self.WATCHED:
            return original

        def operation(*args: Any) -> Any:
            self.left -= 1
            if self.left > 0:
                return original(*args)
            if self.left == 0 and self.moment == "after":
                original(*args)
            if self.left == 0 and self.moment == "within" and name == "write":
                original(args[0], args[1][: len(args[1]) // 2])
            raise Crash

        return operation


def crash(monkeypatch: pytest.MonkeyPatch, at: int, moment: str, directory: Path, **options: Any) -> bool:
    """Work until a crash; whether there was one."""
    with monkeypatch.context() as patch:
        patch.setattr(track, "os", Crashing(at, moment))
        try:
            work(directory, **options)
        except Crash:
            return True
    return False


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_crash_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    work(tmp_path / "whole")
    at = 1
    while crash(monkeypatch, at, moment, tmp_path / f"{at}"):
        crash(monkeypatch, at // 2 + 1, moment, tmp_path / f"{at}", resume=True)  # and again while resuming
        work(tmp_path / f"{at}", resume=True)
        assert_same(tmp_path / f"{at}", tmp_path / "whole")
        at += 1
    assert at > 40


@pytest.mark.parametrize("moment", ["before", "after"])
def test_crash_while_overwriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    work(tmp_path / "whole")
    at, crashed = 1, True
    while crashed:
        work(tmp_path / f"{at}")
        crashed = crash(monkeypatch, at, moment, tmp_path / f"{at}", overwrite=True)
        work(tmp_path / f"{at}", resume=True)
        assert_same(tmp_path / f"{at}", tmp_path / "whole")
        at += 1


def test_without_the_temporary_file_a_crash_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: a checkpoint that is written in place is torn."""

    def in_place(path: Path, content: bytes) -> None:
        descriptor = track.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        track.os.write(descriptor, content)

    monkeypatch.setattr(track, "_replace", in_place)
    failures = 0
    for at in range(1, 20):
        crash(monkeypatch, at, "within", tmp_path / f"{at}")
        try:
            work(tmp_path / f"{at}", resume=True)
        except RunError:
            failures += 1
    assert failures > 0


def test_torn_and_surplus_lines_are_cut(tmp_path: Path) -> None:
    work(tmp_path / "whole")
    run = work(tmp_path / "torn")
    for path in (run.metrics_path, run.timing_path):
        with path.open("a") as file:
            file.write('{"epoch": 3}\n{"epoch": 4, "lo')
    work(tmp_path / "torn", resume=True)
    assert_same(tmp_path / "torn", tmp_path / "whole")


def test_what_is_logged_can_be_read(tmp_path: Path) -> None:
    run = work(tmp_path / "run")
    assert [record["epoch"] for record in run.metrics()] == [0, 1, 2]
    assert run.timing() == [{"epoch": epoch, "seconds": 0.25} for epoch in range(3)]
    assert json.loads(run.config_path.read_text())["run"] == CONFIG
    with pytest.raises(ValueError, match="JSON"):
        run.log({"loss": float("nan")})


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    work(tmp_path)
    before = result(tmp_path)[:2]
    with pytest.raises(RunError, match=r"expected no run .* got checkpoint.pt.*--resume.*--overwrite"):
        Run(tmp_path, CONFIG)
    assert result(tmp_path)[:2] == before
    (tmp_path / "figures").mkdir()
    assert Run(tmp_path, CONFIG, overwrite=True).state is None
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "figures").exists()
    with pytest.raises(ValueError, match="choose one"):
        Run(tmp_path, CONFIG, overwrite=True, resume=True)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="expected a directory, got a file"):
        Run(tmp_path / "run", CONFIG)


def test_another_configuration(tmp_path: Path) -> None:
    work(tmp_path)
    other = {**CONFIG, "hidden": [4], "beta": 0.1}
    message = re.escape(
        "expected the configuration hidden=[4], beta=0.1, got hidden=[3], beta=(absent); resume with"
    )
    with pytest.raises(RunError, match=message):
        Run(tmp_path, other, resume=True)
    (tmp_path / "config.json").unlink()  # the checkpoint knows its configuration as well
    with pytest.raises(RunError, match=r"checkpoint\.pt: " + message):
        Run(tmp_path, other, resume=True)


def test_a_checkpoint_of_another_model() -> None:
    expected = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    check_tensors("here", expected, {"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    message = re.escape(
        "here: expected a model with weight (2, 3), bias (2,), skip (absent), "
        "got weight (3, 3), bias (absent), skip (1,); it is a checkpoint of another model"
    )
    with pytest.raises(RunError, match=message):
        check_tensors("here", expected, {"weight": torch.ones(3, 3), "skip": torch.ones(1)})


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "flipped":  # one bit of the weights
        weight = torch.load(path, weights_only=True)["state"]["weight"].numpy().tobytes()
        at = content.index(weight) + 7
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif kind == "foreign":
        torch.save({"weight": torch.ones(2)}, path)
    elif kind == "newer":
        torch.save({**torch.load(path, weights_only=True), "format": 99}, path)
    elif kind == "code":
        torch.save(Crash, path)  # what only an unsafe load would read
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello\n"}[kind])


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        ("empty", "of 0 bytes"),
        ("truncated", "damaged or foreign file of"),
        ("text", "damaged or foreign file of 6 bytes"),
        ("flipped", "whose part '.*data/.*' is damaged"),
        ("foreign", "something else that torch.save wrote"),
        ("newer", "format 99"),
        ("code", "damaged or foreign file"),
    ],
)
def test_a_damaged_checkpoint(tmp_path: Path, kind: str, got: str) -> None:
    work(tmp_path)
    damage(tmp_path / "checkpoint.pt", kind)
    with pytest.raises(RunError, match=f"checkpoint.pt: expected a checkpoint.*{got}.*--overwrite"):
        Run(tmp_path, CONFIG, resume=True)


def test_missing_metrics_and_damaged_configuration(tmp_path: Path) -> None:
    work(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl: expected at least 3 lines.*got 1"):
        Run(tmp_path, CONFIG, resume=True)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json: expected JSON"):
        Run(tmp_path, CONFIG, resume=True)


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    work(tmp_path / "whole")
    work(tmp_path / "new", resume=True)
    assert_same(tmp_path / "new", tmp_path / "whole")
