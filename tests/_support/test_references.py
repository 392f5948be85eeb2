import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow._support.references import REFERENCES, cite, select
from linflow.cli import app
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "linflow").rglob("*.py"))
TARGET = np.diag([2.0, 1.0])


def keys_of(bibtex):
    return re.findall(r"^@\w+\{(\w+),$", bibtex, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def certificate():
    net = lf.init.imbalanced((2, 4, 2), 3.0, np.eye(2), rng=0)
    return lf.certify(lf.MatrixFactorization(TARGET), net)


# --- The bibliography ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", REFERENCES)
def test_an_entry_is_complete_bibtex(key):
    text = REFERENCES[key].bibtex
    assert text.isascii()  # plain BibTeX reads no other letters
    assert text.count("{") == text.count("}")
    lines = text.splitlines()
    assert keys_of(lines[0]) == [key]
    assert lines[-1] == "}"
    assert all(re.fullmatch(r"  \w+ = \{.*\},", line) for line in lines[1:-1])
    fields = dict(re.findall(r"(\w+) = \{(.*?)\}(?=,(?: \w+ =|$))", "\n".join(lines[1:-1]), flags=re.MULTILINE))
    kind = lines[0][1:].split("{")[0]
    where = {"inproceedings": "booktitle", "article": "journal", "book": "publisher", "software": "version"}[kind]
    assert {"author", "title", "year", where} <= set(fields)
    assert fields["title"].startswith("{") and fields["title"].endswith("}")  # BibTeX keeps the capitals
    assert 1960 <= int(fields["year"]) <= 2030
    assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "2105.06351"))
    for author in fields["author"].split(" and "):
        assert re.fullmatch(r"[^,]+, [^,]+|\{[^{}]+\}", author)


def test_the_preprint_agrees_with_the_year():
    for key, reference in REFERENCES.items():
        found = re.search(r"eprint = \{(\d\d)", reference.bibtex)
        if found:
            year = int(re.search(r"year = \{(\d+)\}", reference.bibtex)[1])
            assert 0 <= year - 2000 - int(found[1]) <= 1, key  # a paper appears within a year of its preprint


def test_the_software_is_cited_as_the_citation_file_says():
    cff = (ROOT / "CITATION.cff").read_text("utf-8")
    field = {
        name: re.search(rf'^{name}: "?(.*?)"?$', cff, flags=re.MULTILINE)[1]
        for name in ("title", "version", "license")
    }
    entry = REFERENCES["linflow"].bibtex
    assert f"title = {{{{{field['title']}}}}}" in entry
    assert f"version = {{{field['version']}}}" in entry
    assert f"license = {{{field['license']}}}" in entry
    assert re.search(r"^date-released: (\d+)", cff, flags=re.MULTILINE)[1] in entry
    assert "The linflow developers" in cff and "{{The linflow developers}}" in entry
    assert lf.__version__ == field["version"]


def test_titles_of_the_citation_file_are_those_of_the_bibliography():
    cff = (ROOT / "CITATION.cff").read_text("utf-8").split("references:")[1]
    titles = {reference.title.lower() for reference in REFERENCES.values()}
    for title in re.findall(r'^    title: "(.*)"$', cff, flags=re.MULTILINE):
        assert title.lower() in titles


# --- Every key that is used resolves -------------------------------------------------------------------------------


def test_every_theorem_and_guarantee_resolves(certificate):
    for theorem in lf.bounds.THEOREMS:
        assert cite(theorem)
    small = lf.init.balanced((2, 3, 2), 0.99 * TARGET, rng=0)
    descent = lf.certify(lf.MatrixFactorization(TARGET), small, algorithm="descent")
    for found in (certificate, descent):
        for guarantee in (*found.guarantees, *found.prior, found.baseline):
            assert cite(guarantee)


def test_every_key_written_in_the_sources_resolves():
    # A key is a name and a year in quotes; those of other meanings (a date, a file) do not look like one.
    written = set()
    for path in SOURCES:
        if path.name == "references.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                written |= {node.value} if re.fullmatch(r"[a-z]{2,}(19|20)\d\d[a-z]*", node.value) else set()
    assert len(written) > 10
    assert select(written)


def test_every_module_with_theorems_was_walked():
    # Theorems that are defined but not listed would escape the test above.
    import linflow.bounds

    listed = {id(theorem) for theorem in lf.bounds.THEOREMS}
    for info in pkgutil.iter_modules(linflow.bounds.__path__):
        module = importlib.import_module(f"linflow.bounds.{info.name}")
        defined = [x for x in vars(module).values() if isinstance(x, lf.bounds.Theorem)]
        assert {id(x) for x in defined} <= listed


# --- cite ----------------------------------------------------------------------------------------------------------


def test_keys_are_sorted_and_printed_once():
    assert keys_of(cite(["saxe2014", "min2021", "saxe2014"])) == ["min2021", "saxe2014"]
    assert cite(["min2021", "saxe2014"]) == cite("min2021") + "\n\n" + cite("saxe2014")


def test_two_keys_of_one_paper_give_one_entry():
    assert keys_of(cite(["arora2019convergence", "arora2019convergence"])) == ["arora2019convergence"]


def test_a_certificate_cites_what_applies_and_the_software(certificate):
    used = set().union(*(g.citation for g in certificate.guarantees if g.applies)) | {"linflow"}
    assert keys_of(cite(certificate)) == sorted(used)
    assert "min2021" in used
    unused = set().union(*(g.citation for g in certificate.guarantees)) - used
    assert not unused & set(keys_of(cite(certificate)))


def test_a_certificate_on_separable_data_cites_its_theory():
    from linflow.model.classification import LogisticLoss

    f = LogisticLoss(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0]))
    cert = lf.certify(f, lf.init.gaussian((2, 3, 1), rng=0))
    assert "soudry2018" in keys_of(cite(cert))


def test_a_run_cites_its_integrator():
    f, net = lf.MatrixFactorization(TARGET), lf.init.balanced((2, 3, 2), 0.9 * TARGET, rng=0)
    run = lf.gradient_flow(f, net, until=1e-2)
    assert keys_of(cite(run)) == ["hairer1993", "linflow"]
    run = lf.gradient_descent(f, net, step_size=0.01, steps=3)
    assert keys_of(cite(run)) == ["linflow"]


def test_bounds_theorems_guarantees_and_lists_of_them(certificate):
    bound = lf.bounds.best(certificate.start)
    assert keys_of(cite(bound)) == keys_of(cite(bound.theorem)) == [bound.theorem.citation]
    row = certificate.prior[0]
    assert keys_of(cite(row)) == sorted(row.citation)
    assert set(keys_of(cite([certificate, row, "fukumizu1998"]))) == {
        *keys_of(cite(certificate)),
        *row.citation,
        "fukumizu1998",
    }


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match=r"no reference 'min203'\. Did you mean 'min2023' or"):
        cite("min203")
    with pytest.raises(ValueError, match=r"no reference '\?'\. `linflow cite --list` shows all"):
        cite(["min2023", "?"])


def test_what_rests_on_no_reference():
    for x in (3, np.eye(2), None):
        with pytest.raises(TypeError, match="has no references; a Certificate"):
            cite(x)


# --- The command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def linflow():
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_command_prints_all_or_those_named(linflow):
    result = linflow("cite")
    assert result.exit_code == 0
    assert keys_of(result.stdout) == sorted(REFERENCES)
    result = linflow("cite", "saxe2014", "min2021")
    assert result.stdout == cite(["min2021", "saxe2014"]) + "\n"


def test_command_lists(linflow):
    lines = linflow("cite", "--list").stdout.splitlines()
    assert len(lines) == len(REFERENCES)
    assert lines[0].split("  ")[0] == min(REFERENCES)
    line = linflow("cite", "--list", "xu2025").stdout
    assert line.startswith("xu2025  A Local Polyak–Łojasiewicz")  # a table for readers, in Unicode


def test_command_prints_json(linflow):
    found = json.loads(linflow("cite", "yun2021", "--json").stdout)
    assert found == [{"key": "yun2021", "title": REFERENCES["yun2021"].title, "bibtex": cite("yun2021")}]
    listed = json.loads(linflow("cite", "--list", "--json").stdout)
    assert [set(entry) for entry in listed] == [{"key", "title"}] * len(REFERENCES)


def test_command_refuses_an_unknown_key(linflow):
    for options in ((), ("--list",), ("--json",)):
        result = linflow("cite", "min203", *options)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("linflow: there is no reference 'min203'. Did you mean 'min2023'")
        assert result.stderr.count("\n") == 1


def test_keys_need_no_numbers():
    program = "import sys; from linflow import cite; cite(['min2021']); print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "False"
