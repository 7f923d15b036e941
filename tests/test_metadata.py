"""What is said of the package in several places agrees."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import energynet

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CITATION = REPOSITORY / "CITATION.cff"


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    code = "from cffconvert.cli.cli import cli; cli()"
    command = [sys.executable, "-c", code, "--validate", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_citation_validates() -> None:
    result = validate(CITATION)
    assert result.returncode == 0, result.stdout + result.stderr


def test_broken_citation_does_not(tmp_path: Path) -> None:
    broken = tmp_path / "CITATION.cff"
    broken.write_text(CITATION.read_text().replace("authors:", "writers:"))
    assert validate(broken).returncode != 0


def test_versions_agree() -> None:
    citation = yaml.safe_load(CITATION.read_text())
    assert energynet.__version__ == PROJECT["version"] == str(citation["version"])


def test_licences_agree() -> None:
    assert yaml.safe_load(CITATION.read_text())["license"] == PROJECT["license"] == "MIT"
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License")


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = (re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#"))
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair} if lines else {}


def test_every_constraint_is_an_exact_version() -> None:
    lines = [x for x in (REPOSITORY / "constraints.txt").read_text().splitlines() if not x.startswith("#")]
    assert len(pins()) == len(lines) > 0


REQUIREMENTS = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    if requirement.name == "energynet":
        assert requirement.extras <= set(PROJECT["optional-dependencies"])
        return
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_typed() -> None:
    assert (REPOSITORY / "energynet" / "py.typed").exists()
