"""Names, links and commands in the README exist; `test_documents` runs its examples."""

import re
from functools import reduce
from pathlib import Path

import linflow as lf

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_names_exist():
    names = set(re.findall(r"\blf\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", README + REFERENCE))
    assert len(names) > 25
    for name in names:
        reduce(getattr, name.split("."), lf)


def test_every_public_name_is_in_the_reference():
    for name in lf.__all__:
        assert re.search(rf"\blf\.{name}\b", REFERENCE), name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_links_lead_somewhere():
    """Targets outside the repository are not followed; the ones inside exist."""
    for text, folder in ((README, ROOT), (REFERENCE, ROOT / "docs")):
        targets = re.findall(r"\]\(([^)#\s]+)\)", text)
        assert targets
        for target in targets:
            assert target.startswith("https://") or (folder / target).exists(), target


def test_commands_exist():
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
    assert commands == {"reproduce", "test"}
    assert commands <= rules
