"""What a package index shows: the README with links that work there, and the addresses of the project."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def hook():
    pytest.importorskip("hatchling", reason="hatchling builds the package; pip install hatchling runs this test")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(hook, monkeypatch, address):
    monkeypatch.setenv("LINFLOW_REPOSITORY", address)
    metadata = {}
    hook.Description(str(ROOT), {}).update(metadata)
    return metadata


def test_links_are_absolute_where_the_repository_is_named(hook, monkeypatch):
    made = described(hook, monkeypatch, "https://host.example/team/linflow/")
    text = made["readme"]["text"]
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", README)) > 10
    assert all(link.startswith(("https://", "http://", "#")) for link in links)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and all(
        re.fullmatch(r"https://host\.example/team/linflow/raw/v[\d.]+\w*/docs/.+\.png", p) for p in pictures
    )
    for link in links:
        file = re.fullmatch(r"https://host\.example/team/linflow/(?:raw|blob)/v[^/]+/(.+)", link)
        assert file is None or (ROOT / file[1]).exists(), link
    assert set(made["urls"]) == {"Paper", "Repository", "Documentation", "Changelog"}


def test_without_an_address_the_readme_stays(hook, monkeypatch):
    made = described(hook, monkeypatch, "")
    assert made["readme"]["text"] == README and set(made["urls"]) == {"Paper"}
