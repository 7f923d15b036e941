"""Imports point one way, and no file holds too much."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "energynet"

# From the inside out. A module imports from inner layers and, as long as nothing goes round in a circle,
# from its own. The package itself gathers what is public, so only what lies outside it may import it.
LAYERS = [
    {"backends", "errors", "link", "one_hot", "optional", "prior", "state", "truncated", "units", "variable"},
    {"trace", "programs", "derivation"},
    {"energy", "overlaps"},
    {"terms", "cost", "meanfield"},
    {
        "clamp",
        "couplings",
        "packing",
        "quadratic",
        "dynamics",
        "forces",
        "flow",
        "hessian",
        "lifted",
        "factorial",
        "conditional",
        "energies",
        "stopping",
    },
    {"solvers", "samplers"},
    {"diagnostics", "recording", "running", "solution", "lifting", "recorded", "compiled", "settle", "exact"},
    {"annealing", "rules", "models"},
    {"analysis", "sklearn", "testing", "data", "plot", "track", "provenance"},
    {"training"},
    {PACKAGE},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

MAX_LINES = 400


def unit(path: Path, root: Path) -> str:
    """Name the entry of LAYERS that a file belongs to."""
    relative = path.relative_to(root)
    name = relative.parts[0].removesuffix(".py")
    return PACKAGE if name == "__init__" else name


def is_for_types(node: ast.AST) -> bool:
    """Tell an `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(node: ast.AST, path: Path, root: Path) -> set[str]:
    """Name the entries of LAYERS that the code under a node imports."""
    found: set[str] = set()
    if isinstance(node, ast.Import):
        for alias in node.names:
            found |= entry(alias.name)
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            package = (PACKAGE, *path.relative_to(root).parts[:-1])
            base = package[: len(package) - node.level + 1]
            module = ".".join((*base, module) if module else base)
        for alias in node.names:
            # `from energynet import energy` imports that module, not the package's names.
            direct = f"{module}.{alias.name}"
            is_module = module == PACKAGE and any(
                (root / f"{alias.name}{end}").exists() for end in ("", ".py")
            )
            found |= entry(direct if is_module else module)
    elif is_for_types(node):
        assert isinstance(node, ast.If)
        for child in node.orelse:
            found |= imported(child, path, root)
        return found
    for child in ast.iter_child_nodes(node):
        found |= imported(child, path, root)
    return found


def entry(module: str) -> set[str]:
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return set()
    return {parts[1] if len(parts) > 1 else PACKAGE}


def imports_of_package(root: Path = REPOSITORY / PACKAGE) -> dict[str, set[str]]:
    """Give what every entry of LAYERS imports; docs/imports.py draws it."""
    uses: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        found = imported(ast.parse(path.read_text(), str(path)), path, root)
        uses.setdefault(unit(path, root), set()).update(found)
    return uses


def violations(root: Path) -> list[str]:
    """Say what is wrong with the imports of the package in the folder `root`."""
    wrong: list[str] = []
    uses: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        source = unit(path, root)
        if source not in LEVEL:
            wrong.append(f"{path.relative_to(root)}: {source} is in no layer; give it a place in LAYERS")
            continue
        targets = imported(ast.parse(path.read_text(), str(path)), path, root) - {source}
        uses.setdefault(source, set()).update(targets)
        for target in sorted(targets):
            if target not in LEVEL:
                wrong.append(f"{path.relative_to(root)}: imports {target}, which is in no layer")
            elif LEVEL[target] > LEVEL[source]:
                wrong.append(f"{path.relative_to(root)}: {source} imports {target}, which lies further out")
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        wrong.append(f"a circle of imports: {' <- '.join(error.args[1])}")
    return wrong


def test_imports_point_one_way() -> None:
    assert (REPOSITORY / PACKAGE / "__init__.py").exists()
    assert violations(REPOSITORY / PACKAGE) == []


def python_files() -> list[Path]:
    folders = (PACKAGE, "tests", "experiments", "benchmarks")
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in python_files()
    }
    assert f"{PACKAGE}/__init__.py" in lengths
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def plant(root: Path, files: dict[str, str]) -> list[str]:
    base = {
        "__init__.py": "from energynet.energy import Energy",
        "variable.py": "",
        "energy.py": "import torch",
    }
    for name, source in (base | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return violations(root)


@pytest.mark.parametrize(
    "source",
    [
        "import energynet.energy",
        "import torch, energynet.energy as inner",
        "from energynet.energy import Energy",
        "from energynet import energy",
        "from .energy import Energy",
        "from . import energy",
        "def late():\n    from energynet.energy import Energy",
        "class Lazy:\n    try:\n        import energynet.energy\n    except ImportError:\n        pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import energynet.energy",
    ],
)
def test_planted_outward_import_is_caught(tmp_path: Path, source: str) -> None:
    expected = ["variable.py: variable imports energy, which lies further out"]
    assert plant(tmp_path, {"variable.py": source}) == expected


@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("settle.py", "from energynet.rules.equilibrium import Rule", "rules"),
        ("terms/bilinear.py", "from ..models.hopfield import Hopfield", "models"),
        ("terms/bilinear.py", "from .. import models", "models"),
        ("rules/base.py", "import energynet as en", "energynet"),
        ("rules/base.py", "from energynet import settle as s, Energy", "energynet"),
        ("track.py", "from energynet.cli import main", "cli"),
        ("__init__.py", "from energynet.cli import main", "cli"),
    ],
)
def test_other_planted_imports_are_caught(tmp_path: Path, path: str, source: str, target: str) -> None:
    planted = {"models/__init__.py": "", "settle.py": "", "rules/__init__.py": ""} | {path: source}
    found = plant(tmp_path, planted)
    assert len(found) == 1
    assert found[0].startswith(f"{path}: ")
    assert f"imports {target}, which lies further out" in found[0]


def test_planted_circle_is_caught(tmp_path: Path) -> None:
    found = plant(
        tmp_path, {"rules/a.py": "import energynet.models", "models/b.py": "from energynet.rules import a"}
    )
    assert len(found) == 1
    assert found[0].startswith("a circle of imports: ")


def test_module_without_a_layer_is_caught(tmp_path: Path) -> None:
    found = plant(tmp_path, {"misc.py": "", "settle.py": "import energynet.misc"})
    assert found == [
        "misc.py: misc is in no layer; give it a place in LAYERS",
        "settle.py: imports misc, which is in no layer",
    ]


def test_inward_imports_are_allowed(tmp_path: Path) -> None:
    files = {
        "rules/base.py": "from energynet import settle, variable\nfrom energynet.rules.other import x",
        "rules/other.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import energynet.cli",
        "models/hopfield.py": "import energynet_other\nfrom energynet.rules import base\nfrom . import x",
        "settle.py": "",
        "cli.py": "import energynet as en\nfrom energynet.track import Run",
        "track.py": "",
    }
    assert plant(tmp_path, files) == []
