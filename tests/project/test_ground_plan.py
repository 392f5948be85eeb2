"""The ground plan holds: few rooms, no arrow up, no circle, no module too long."""

import ast
from functools import lru_cache
from pathlib import Path

import pytest

import linflow

ROOT = Path(linflow.__file__).parent
FLOORS = (
    "_support",
    "model",
    "geometry",
    "bounds",
    "init",
    "dynamics",
    "exact",
    "certificates",
    "schedules",
    "verified",
    "relu",
    "files",
    "plots",
    "advice",
    "pages",
    "torch",
    "experiments",
    "sweeps",
    "experiments.figures",
    "pages.analysis",
    "pages.reproduction",
    "cli",
)
"""From the ground up. Each imports from itself and from those before it."""
ROOMS, LINES = 19, 400
"""Rooms: 18, and one for the talk's second family of models, `relu`."""


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        dotted = ".".join(("linflow", *path.relative_to(ROOT).with_suffix("").parts))
        found[dotted.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Every module of the package that one imports: at its top, inside functions, and for types alone."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "linflow"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.split(".")[0] == "linflow":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    names.add(whole if whole in known else node.module)
    return names


def floor(module: str) -> str:
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in FLOORS else parts[0] if parts else "linflow"


@lru_cache
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {module: imported(path, known) - {module} for module, path in known.items()}


def test_the_root_has_few_rooms_each_with_a_place():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    rooms -= {"__init__", "__main__"}
    assert rooms == {floor.split(".")[0] for floor in FLOORS}
    assert len(rooms) <= ROOMS


def test_no_arrow_goes_up():
    up = []
    for module, targets in arrows().items():
        here = floor(module)
        if here in ("linflow", "__main__"):
            continue
        for target in targets:
            there = floor(target)
            # The face of the package stands on everything.
            allowed = here == "cli" if there == "linflow" else FLOORS.index(there) <= FLOORS.index(here)
            if not allowed:
                up.append(f"{module} imports {target}")
    assert up == []


def test_there_is_no_circle():
    """Modules are taken away while one imports none of those that are left."""
    left = {module: {t for t in targets if t != "linflow"} for module, targets in arrows().items()}
    while True:
        ends = {module for module, targets in left.items() if not targets & left.keys()}
        if not ends:
            break
        left = {module: targets for module, targets in left.items() if module not in ends}
    circles = {module: sorted(targets & left.keys()) for module, targets in left.items()}
    assert circles == {}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_a_forbidden_import_would_be_seen(tmp_path):
    known = {"linflow.cli": tmp_path, "linflow.cli.study": tmp_path, "linflow.plots": tmp_path}
    source = tmp_path / "one.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from linflow.cli.study import app\n"
        "def f():\n    from linflow import plots\n    import linflow.cli\n",
        encoding="utf-8",
    )
    assert imported(source, known) == {"linflow.cli.study", "linflow.plots", "linflow.cli"}
    assert [floor(name) for name in sorted(imported(source, known))] == ["cli", "cli", "plots"]
    assert floor("linflow.experiments.figures.depth") == "experiments.figures"
    assert floor("linflow.experiments.schema") == "experiments"
