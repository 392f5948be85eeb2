"""The README's example runs and prints what the README shows; the names it mentions exist."""

import re
from functools import reduce
from pathlib import Path

import linflow as lf

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_is_shown(capsys):
    code, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_names_exist():
    names = set(re.findall(r"\blf\.([\w.]+\w)", README))
    assert len(names) > 15
    for name in names:
        reduce(getattr, name.split("."), lf)
    for name in re.search(r"`lf.init.gaussian`, (.*?), or your own", README)[1].split(", "):
        getattr(lf.init, name.strip("`"))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (Path(__file__).parent.parent / target).exists(), target
