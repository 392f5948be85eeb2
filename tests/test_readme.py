"""The README's example runs and prints what the README shows; names, links and commands in it exist."""

import doctest
import re
from functools import reduce
from pathlib import Path

import linflow as lf

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_examples_print_what_is_shown(capsys):
    """Each Python block runs, in one namespace; a plain block right behind it is what it prints."""
    found = list(BLOCK.finditer(README))
    scope, ran = {}, 0
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block[1] != "python":
            continue
        exec(compile(block[2], "README.md", "exec"), scope)
        ran += 1
        printed = capsys.readouterr().out
        if after is not None and not after[1] and not README[block.end() : after.start()].strip():
            # As in a doctest: columns may move with the width of a number, the rest may not.
            same = doctest.OutputChecker().check_output(after[2], printed, doctest.NORMALIZE_WHITESPACE)
            assert same, f"README shows\n{after[2]}\nbut the example prints\n{printed}"
        else:
            assert not printed, f"the README does not show what the example prints:\n{printed}"
    assert ran > 0


def test_names_exist():
    names = set(re.findall(r"\blf\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", README))
    assert len(names) > 25
    for name in names:
        reduce(getattr, name.split("."), lf)


def test_every_public_name_is_mentioned():
    for name in lf.__all__:
        assert re.search(rf"\blf\.{name}\b", README), name


def test_links_lead_somewhere():
    """Targets outside the repository are not followed; the ones inside exist."""
    targets = re.findall(r"\]\(([^)#\s]+)\)", README)
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_exist():
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
    assert commands == {"reproduce", "test"}
    assert commands <= rules
