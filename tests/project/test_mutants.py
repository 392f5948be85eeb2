"""The tool that makes one-place errors: which it makes, and that its list of argued survivors is up to date."""

import ast
import gc
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import ARGUED
from tests.mutants.changes import mutants
from tests.mutants.session import functions_of
from tests.mutants.targets import TARGETS

ROOT = Path(__file__).parents[2]


def made(source: str) -> list[str]:
    return [m.text for m in mutants(ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("def f(a, b): return a + b * 2", ["a + b * 2 -> a - b * 2", "b * 2 -> b / 2", "b * 2 -> b * 3"]),
        ("def f(a): return a ** 0.5", ["a ** 0.5 -> a * 0.5", "a ** 0.5 -> a ** 1.0"]),
        ("def f(a): return -a if a < 0 else a", ["-a -> a", "a < 0 -> a <= 0", "a < 0 -> a < 1"]),
        (
            "def f(a): return max(a) or not any(a)",
            [
                "max(a) or not any(a) -> max(a) and (not any(a))",
                "max(a) -> min(a)",
                "not any(a) -> any(a)",
                "any(a) -> all(a)",
            ],
        ),
        ("def f(W): return math.sqrt(W.T)", ["math.sqrt(W.T) -> W.T", "math.sqrt(W.T) -> math.sqrt(W)"]),
        ("X = 3", ["X = 3 -> X = 4"]),
        ("def f(a):\n    a += 1", ["a += 1 -> a -= 1", "a += 1 -> a += 2"]),
        ("def f(D): return D.lower", ["return D.lower -> return D.upper"]),
        ("def f(a): return g(a - b, a - b)", ["a - b -> a + b #1", "a - b -> a + b #2"]),
        # What only shows, what raises, and what is a zero or a maximum of the kind of an array is left alone.
        ("def __repr__(self): return 1 + 1", []),
        ("def f(a): raise ValueError(a + 1)", []),
        ("def f(a): return f'{a + 1}'", []),
        ("def f(a, b): return where(a > b, a, b) + 0.0 * a", []),
        ("def f(a): return namespace(a[0], a[1])", []),
        ("def f(a):\n    while True:\n        return a", []),
    ],
)
def test_errors_are_made_one_at_a_time(source, texts):
    assert sorted(made(source)) == sorted(texts)


def test_making_an_error_changes_the_tree_and_listing_it_does_not():
    tree = ast.parse("def f(a):\n    return a + 1\n")
    first, second = mutants(tree)
    assert ast.unparse(tree) == "def f(a):\n    return a + 1"
    second.make()
    assert ast.unparse(tree) == "def f(a):\n    return a + 2" and (first.function, first.line) == ("f", 2)


def test_errors_of_one_text_are_numbered_within_their_function():
    tree = ast.parse("def f(a):\n    g(a < 1)\n    return a < 1\ndef g(a):\n    return a < 1\n")
    found = {(m.function, m.text): m.line for m in mutants(tree) if "<=" in m.text}
    assert found == {("f", "a < 1 -> a <= 1 #1"): 2, ("f", "a < 1 -> a <= 1 #2"): 3, ("g", "a < 1 -> a <= 1"): 5}


def test_functions_are_found_that_the_collector_does_not_look_at():
    gc.freeze()
    assert functions_of(made.__code__.co_filename)[made.__code__] == [made]


def test_each_argued_survivor_is_exactly_one_error():
    found = {}
    with ARGUED.open("rb") as file:
        entries = [(group["where"], text) for group in tomllib.load(file)["survivor"] for text in group["mutants"]]
    assert [entry for entry, count in Counter(entries).items() if count > 1] == []
    for where, text in entries:
        name, _, function = where.partition(":")
        assert name in TARGETS, where
        if name not in found:
            source = ROOT.joinpath("src", "linflow", *name.split(".")).with_suffix(".py").read_text(encoding="utf-8")
            found[name] = Counter((m.function, m.text) for m in mutants(ast.parse(source)))
        count = found[name][function, text]
        assert count > 0, f"{where}: {text} is no longer made; take it out of survivors.toml"
        assert count == 1, f"{where}: {text} names {count} errors"


def test_every_module_with_tests_is_there():
    for name, tests in TARGETS.items():
        assert ROOT.joinpath("src", "linflow", *name.split(".")).with_suffix(".py").exists(), name
        assert any(ROOT.joinpath("tests", f"{test}.py").exists() for test in tests), name
