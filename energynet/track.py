"""A run on disk: its configuration, its metrics as it goes, and a checkpoint from which it can go on.

A process may be killed between any two operations on files, or within one, and the run still resumes to the
result it would have had. A checkpoint is put in place whole or not at all, after the metrics that it
counts are on the disk; metrics beyond those are cut off on resuming, a torn line too.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch

FORMAT = 1
_ABSENT = "(absent)"


class RunError(RuntimeError):
    """A run directory does not hold what is needed.

    Parameters
    ----------
    source
        The file or directory.
    expected
        What should have been there.
    got
        What was there.
    remedy
        What the user can do about it.
    """

    def __init__(self, source: object, expected: str, got: str, remedy: str) -> None:
        super().__init__(source, expected, got, remedy)
        self.source = source
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.source}: expected {self.expected}, got {self.got}; {self.remedy}"


@final
class Run:
    """The directory of one run.

    It holds ``config.json``; ``metrics.jsonl``, which two runs of one configuration write alike, byte for
    byte; ``timing.jsonl``, where times are, which differ; ``checkpoint.pt``; and ``figures/``.

    Parameters
    ----------
    directory
        Where; it is made.
    config
        What the run is, in the types of JSON. A run resumes only under the configuration it began with.
    resume
        Go on from the checkpoint, or from the start where there is none yet.
    overwrite
        Delete the run that is there.
    notes
        What is worth knowing of the run but may differ on resuming, such as versions; kept in
        ``config.json`` of the first start.

    Attributes
    ----------
    state
        What `save` was last given, if the run resumes from a checkpoint; else None.

    Raises
    ------
    RunError
        If there is a run and neither ``resume`` nor ``overwrite`` says what to do with it; if what is there
        is of another configuration, or damaged.

    Examples
    --------
    >>> run = Run("runs/first", {"epochs": 2}, resume=True)
    >>> start = 0 if run.state is None else run.state["epoch"]
    >>> for epoch in range(start, 2):
    ...     run.log({"epoch": epoch, "loss": 0.5}, seconds=1.0)
    ...     run.save({"epoch": epoch + 1})
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        if resume and overwrite:
            raise ValueError("Run: resume keeps the run that is there and overwrite deletes it; choose one")
        self.directory = Path(directory)
        self.config = json.loads(json.dumps(dict(config)))  # as it comes back from the file
        self.state: Any = None
        self._counts = [0, 0]
        self._make_directory()
        if overwrite:
            self._clear()
        elif not resume and self._files():
            raise RunError(
                self.directory,
                "no run under this name yet",
                ", ".join(path.name for path in self._files()),
                "go on with it (--resume), delete it (--overwrite), or choose another name (--name)",
            )
        if self.config_path.exists():
            known = _read_json(self.config_path)
            self._check_config(self.config_path, known.get("run"))
        else:
            text = json.dumps({"run": self.config, **(notes or {})}, indent=2)
            _replace(self.config_path, text.encode() + b"\n")
        if self.checkpoint_path.exists():
            self._restore()
        for path, count in zip(self._logs(), self._counts, strict=True):
            _truncate(path, count)

    @property
    def config_path(self) -> Path:
        """What the run is, in JSON."""
        return self.directory / "config.json"

    @property
    def metrics_path(self) -> Path:
        """What is compared between runs, a JSON object a line."""
        return self.directory / "metrics.jsonl"

    @property
    def timing_path(self) -> Path:
        """Times, a JSON object a line."""
        return self.directory / "timing.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        """What the run resumes from, written by ``torch.save``."""
        return self.directory / "checkpoint.pt"

    @property
    def figures_path(self) -> Path:
        """The directory of figures, which this makes."""
        path = self.directory / "figures"
        path.mkdir(exist_ok=True)
        return path

    def log(self, record: Mapping[str, Any], **timing: float) -> None:
        """Append to the metrics, and to the times under the same keys where those are not numbers.

        Parameters
        ----------
        record
            What is the same in every run of this configuration, in the types of JSON.
        **timing
            What is not.
        """
        keys = {name: value for name, value in record.items() if isinstance(value, (str, int))}
        for number, (path, line) in enumerate(zip(self._logs(), (record, {**keys, **timing}), strict=True)):
            _append(path, json.dumps(line, allow_nan=False).encode() + b"\n")
            self._counts[number] += 1

    def save(self, state: Any) -> None:
        """Write the checkpoint; the one before stays until this one is whole.

        Parameters
        ----------
        state
            Tensors, numbers, strings, and dicts and lists of them.
        """
        for path in self._logs():
            _sync(path)
        buffer = io.BytesIO()
        torch.save(
            {"format": FORMAT, "config": json.dumps(self.config), "lines": self._counts, "state": state},
            buffer,
        )
        _replace(self.checkpoint_path, buffer.getvalue())

    def metrics(self) -> list[dict[str, Any]]:
        """Read what has been logged, in order."""
        return _read_lines(self.metrics_path)

    def timing(self) -> list[dict[str, Any]]:
        """Read the times that have been logged, in order."""
        return _read_lines(self.timing_path)

    def _logs(self) -> tuple[Path, Path]:
        return self.metrics_path, self.timing_path

    def _files(self) -> list[Path]:
        """List what there is of a run, in the order to delete it in: what it resumes from goes first."""
        paths = (self.checkpoint_path, self.config_path, *self._logs())
        return [path for path in paths if path.exists()]

    def _clear(self) -> None:
        for path in self._files():
            os.unlink(path)  # noqa: PTH108  through `os`, so that a test can stop in between
        shutil.rmtree(self.directory / "figures", ignore_errors=True)

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise RunError(self.directory, "a directory", "a file", "choose another name (--name)") from error

    def _restore(self) -> None:
        path = self.checkpoint_path
        content = _load(path)
        self._check_config(path, json.loads(content["config"]))
        counts = list(content["lines"])
        for log, count in zip(self._logs(), counts, strict=True):
            there = log.read_bytes().count(b"\n") if log.exists() else 0
            if there < count:
                raise RunError(
                    log,
                    f"at least {count} lines, which the checkpoint counts",
                    str(there),
                    "put the file back, or begin again (--overwrite)",
                )
        self.state, self._counts = content["state"], counts

    def _check_config(self, source: Path, found: object) -> None:
        differences = _differences(self.config, found)
        if differences:
            raise RunError(
                source,
                "the configuration " + ", ".join(f"{name}={mine}" for name, mine, _ in differences),
                ", ".join(f"{name}={theirs}" for name, _, theirs in differences),
                "resume with the options that the run began with, or choose another name (--name) or begin "
                "again (--overwrite)",
            )


def check_tensors(source: object, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise `RunError` unless two dicts have tensors of the same shapes under the same names.

    Parameters
    ----------
    source
        Where ``found`` is from.
    expected
        The ``state_dict`` of what is to be filled.
    found
        What it is to be filled with.
    """
    mine, theirs = ({name: _shape(value) for name, value in state.items()} for state in (expected, found))
    differences = _differences(mine, theirs)
    if differences:
        raise RunError(
            source,
            "a model with " + ", ".join(f"{name} {mine}" for name, mine, _ in differences),
            ", ".join(f"{name} {theirs}" for name, _, theirs in differences),
            "it is a checkpoint of another model; resume with the model that it is of",
        )


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def _differences(mine: Any, theirs: Any) -> list[tuple[str, object, object]]:
    if not isinstance(theirs, Mapping):
        return [("configuration", "a table", type(theirs).__name__)]
    names = [*mine, *(name for name in theirs if name not in mine)]
    pairs = [(name, mine.get(name, _ABSENT), theirs.get(name, _ABSENT)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, the sums of its parts checked."""

    def wrong(got: str) -> RunError:
        return RunError(
            path,
            f"a checkpoint of energynet, format {FORMAT}",
            got,
            "put a whole copy back, or begin again (--overwrite)",
        )

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = torch.load(path, map_location="cpu", weights_only=True) if damaged is None else None
    except (
        zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, KeyError, NotImplementedError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        size = path.stat().st_size
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise wrong(f"a damaged or foreign file of {size} bytes ({reason})") from error
    if damaged is not None:
        raise wrong(f"a file whose part {damaged!r} is damaged")
    if not isinstance(content, dict) or not {"format", "config", "lines", "state"} <= set(content):
        raise wrong("something else that torch.save wrote")
    if content["format"] != FORMAT:
        raise wrong(f"format {content['format']}")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(path, "JSON", f"something else ({error})", "begin again (--overwrite)") from error
    return content if isinstance(content, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# All that changes a file goes through the functions below, and they through `os`, so that a test can stop
# the program before, after and within every operation.


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _write(descriptor, line)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    if path.exists():
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        _write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)  # noqa: PTH105  through `os`, see above
    if os.name == "posix":  # the rename itself is to survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _truncate(path: Path, lines: int) -> None:
    """Keep the first lines of a file."""
    if not path.exists():
        return
    content = path.read_bytes()
    size = 0
    for _ in range(lines):
        size = content.index(b"\n", size) + 1
    if size < len(content):
        os.truncate(path, size)
