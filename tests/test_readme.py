"""Every Python block of the README runs on its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Give the line that every ```python block starts on, and its code."""
    fences = re.finditer(r"^```python[^\n]*\n(.*?)^```\s*$", text, re.DOTALL | re.MULTILINE)
    return [(text[: found.start(1)].count("\n") + 1, found[1]) for found in fences]


BLOCKS = python_blocks(README.read_text())


def run(line: int, code: str, source: str) -> None:
    """Run a block; the blank lines in front let errors name the line of the page."""
    exec(compile("\n" * (line - 1) + code, source, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("line", "code"), BLOCKS, ids=[f"line {line}" for line, _ in BLOCKS])
def test_block_runs(line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run(line, code, str(README))


def test_no_block_is_overlooked() -> None:
    assert BLOCKS
    assert len(BLOCKS) == len(re.findall(r"^\s*[`~]{3,}\s*py", README.read_text(), re.MULTILINE))


def test_blocks_are_found_and_errors_name_their_line() -> None:
    page = "# Page\n\n```sh\nmake\n```\n\n```python\nx = 1\n```\n\ntext\n\n```python\n\ny = x\n```\n"
    blocks = python_blocks(page)
    assert blocks == [(8, "x = 1\n"), (14, "\ny = x\n")]
    run(*blocks[0], source="page")
    with pytest.raises(NameError, match="'x' is not defined") as caught:
        run(*blocks[1], source="page")
    assert caught.traceback[-1].lineno == 15 - 1
