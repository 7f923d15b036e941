"""The command line, from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from energynet import cli
from energynet.training import Digits, Mnist
from helpers.idx_writer import write_mnist

ROOT = Path(__file__).parents[1]
TINY = [
    "--rules",
    "ep",
    "backprop",
    "--epochs",
    "1",
    "--hidden",
    "6",
    "--batch-size",
    "400",
    "--probe-size",
    "4",
]


def test_help_of_the_program() -> None:
    command = [sys.executable, "-m", "energynet.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert "--resume" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--help"], ["digits", "mnist", "scikit-learn"]),
        (["run", "digits", "--help"], ["--rules", "--beta", "Strength of the nudge", "--resume", "--seed"]),
        (["run", "mnist", "--help"], ["--data-dir", "$ENERGYNET_DATA"]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert [word for word in words if word not in out] == []
    assert "type: ignore" not in out


def test_options_arrive() -> None:
    assert cli.parse(["run", "digits"]) == Digits()
    config = cli.parse(
        [
            "run",
            "digits",
            "--rules",
            "chl",
            "ep",
            "--hidden",
            "7",
            "5",
            "--solver",
            "euler",
            "--beta",
            "-0.5",
            "--free-steps",
            "9",
            "--resume",
        ]
    )
    expected = Digits(
        rules=("chl", "ep"), hidden=(7, 5), solver="euler", beta=-0.5, free_steps=9, resume=True
    )
    assert config == expected
    assert cli.parse(["run", "mnist", "--data-dir", "there"]) == Mnist(data_dir=Path("there"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digits", "--epochs", "0"], "--epochs: expected a whole number from 1 up, got 0"),
        (["run", "digits", "--solver", "magic"], "'block-momentum'"),
        (["run", "cifar"], "cifar"),
        ([], "run"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "digits", *TINY, "--runs", str(tmp_path), "--name", "small"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr()
    assert "equilibrium propagation" in shown.out
    assert "batch" in shown.err  # the progress bar
    paths = [Path(line) for line in shown.out.splitlines() if line.startswith(str(tmp_path))]
    assert {path.name for path in paths} == {
        "config.json",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoint.pt",
        "accuracy.png",
        "angle.png",
        "energy.png",
    }
    assert all(path.is_file() for path in paths)
    records = [json.loads(line) for line in (tmp_path / "small" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["rule"], record["epoch"]) for record in records] == [
        ("ep", 0),
        ("ep", 1),
        ("backprop", 0),
        ("backprop", 1),
    ]
    assert "seconds" not in records[0]  # times are kept apart

    before = (tmp_path / "small" / "metrics.jsonl").read_bytes()
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("energynet: error: ")
    assert "--resume" in error
    assert cli.main([*arguments, "--resume", "--beta", "0.2"]) == 1
    assert "expected the configuration beta=0.2, got beta=0.1" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume"]) == 0  # nothing to do, but the table and figures again
    assert "backprop" in capsys.readouterr().out
    assert (tmp_path / "small" / "metrics.jsonl").read_bytes() == before
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "small" / "metrics.jsonl").read_bytes() == before  # the same seed, the same run


def test_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write_mnist(tmp_path / "data")
    arguments = ["run", "mnist", *TINY, "--runs", str(tmp_path / "runs")]
    assert cli.main([*arguments, "--data-dir", str(tmp_path / "data")]) == 0
    config = json.loads((tmp_path / "runs" / "mnist" / "config.json").read_text())
    assert config["run"]["dataset"] == "mnist"
    assert str(tmp_path) not in json.dumps(config)
    assert config["software"]["torch"]

    monkeypatch.setenv("ENERGYNET_DATA", str(tmp_path / "data"))  # data may move while a run is stopped
    assert cli.main([*arguments, "--resume"]) == 0
    write_mnist(tmp_path / "data", train=30)
    assert cli.main([*arguments, "--resume"]) == 1
    assert "data_sha256" in capsys.readouterr().err
    assert cli.main([*arguments, "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: expected a directory with the MNIST files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra", "purpose"),
    [("tyro", "cli", "the command line"), ("sklearn.datasets", "sklearn", "the data set 'digits'")],
)
def test_missing_package(
    module: str,
    extra: str,
    purpose: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["run", "digits", "--runs", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{purpose} needs the package" in error
    assert f"pip install 'energynet[{extra}]'" in error


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main(["run", "digits"]) == 130
    assert "--resume" in capsys.readouterr().err
