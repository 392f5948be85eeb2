"""Tables that the program fills in: theorems, guarantees, published results, commands, formats, tests."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from docstrings import Names, converted
from docutils import nodes
from docutils.statemachine import StringList
from names import FUNCTIONS
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import linflow as lf

ROOT = Path(__file__).parents[2]
KINDS = {Path: "path", int: "integer", float: "number", str: "text"}
"""What the help calls the type of an option."""


class Table(SphinxDirective):
    """A directive that writes reStructuredText and has it parsed."""

    def lines(self) -> Iterator[str]:
        """Return the lines."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return what the lines say."""
        holder = nodes.section()
        holder.document = self.state.document
        lines = [line for text in self.lines() for line in text.split("\n")]
        self.state.nested_parse(
            StringList(lines, self.get_source_info()[0]), self.content_offset, holder, match_titles=True
        )
        return holder.children

    def prose(self, text: str) -> str:
        """Return text of the program as reStructuredText in one line."""
        return " ".join(converted(text, "linflow", Names(self.env.linflow_names)).split())  # type: ignore[attr-defined]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], widths: str = "auto") -> Iterator[str]:
        """Return a table of cells that are reStructuredText."""
        yield f".. list-table::\n   :header-rows: 1\n   :widths: {widths}\n"
        for row in [head, *rows]:
            for k, cell in enumerate(row):
                yield f"   {'*' if k == 0 else ' '} - {cell}"
        yield ""


def networks() -> list[lf.Network]:
    """Return starts of several kinds, so that every hypothesis fails on some."""
    return [
        lf.init.gaussian((1, 1, 1), rng=0),
        lf.init.gaussian((3, 4, 2), rng=0),
        lf.init.gaussian((2, 2, 2), rng=0),
        lf.init.gaussian((2, 3, 3, 2), rng=0),
        lf.init.gaussian((3, 5, 5, 2), rng=0),
        lf.init.gaussian((2, 3, 4, 3, 2), rng=0),
        lf.init.gaussian((3, 1, 3), rng=0),
    ]


def without_numbers(reason: str) -> str:
    """Return a reason with the sizes of one network taken out, so that equal reasons are told once."""
    reason = re.sub(r"\d+(×\d+)+|\(\d+(, \d+)+\)|\d+(\.\d+)?(e[+-]?\d+)?", "…", reason)
    return re.sub(r"has … layers?", "has … layers", reason)


class Theorems(Table):
    """Every theorem on the least eigenvalue: its kind, its source, and the words with which it does not apply."""

    def lines(self) -> Iterator[str]:
        """Return the table."""
        rows = []
        for theorem in lf.bounds.THEOREMS:
            reasons = {}
            for network in networks():
                reason = theorem.hypothesis(lf.bounds.Invariants.of(network))
                reasons[without_numbers(reason or "")] = reason
            shown = "; ".join(self.prose(reason) for words, reason in reasons.items() if words)
            function = f":py:obj:`{FUNCTIONS[theorem.name]} <linflow.bounds.{FUNCTIONS[theorem.name]}>`"
            rows.append(
                [f"{self.prose(theorem.name)} ({function})", theorem.tightness, shown, self.prose(theorem.source)]
            )
        yield from self.table(
            ["Theorem", "It is", "It does not apply if, for example", "Source"], rows, "25 10 40 25"
        )


class Guarantees(Table):
    """Every guarantee and every published result, from certificates of several kinds of problems."""

    def certificates(self) -> list[lf.Certificate]:
        """Return certificates that together have every row."""
        rng = np.random.default_rng(0)
        X = rng.standard_normal((12, 3))
        square, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), rng=0)
        labels = lf.ExponentialLoss(X, np.sign(X[:, :1] + 0.1))
        power, start = lf.LpRegression(X, rng.standard_normal((12, 2)), 4), lf.init.gaussian((3, 5, 2), rng=0)
        tail = lf.init.gaussian((3, 5, 1), rng=0)
        steps: dict[str, Any] = {"algorithm": "descent"}
        return [
            lf.certify(square, net),
            lf.certify(square, net, **steps, step_size=1e-3),
            lf.certify(square, net, **steps, schedule=lf.schedules.xu2025(square, net)),
            lf.certify(labels, tail),
            lf.certify(labels, tail, **steps, step_size=1e-3),
            lf.certify(power, start),
            lf.certify(square, lf.Network([np.eye(2)[:, :1], np.zeros((1, 2))])),
            lf.certify(square, net, friction=1.0),
        ]

    def lines(self) -> Iterator[str]:
        """Return one table for the rows named in the argument: `guarantees` or `prior`."""
        found: dict[tuple[str, str], tuple[str, set[str]]] = {}
        bounds = {theorem.name for theorem in lf.bounds.THEOREMS}
        for certificate in self.certificates():
            for row in getattr(certificate, self.arguments[0]):
                if row.name not in bounds:
                    reason, about = found.setdefault((row.name, row.source), (row.reason, set()))
                    about.add(certificate.algorithm)
                    found[row.name, row.source] = (reason or row.reason, about)
        rows = [
            [
                self.prose(name),
                ", ".join(sorted(about)) or "–",
                self.prose(without_numbers(reason)) or "–",
                self.prose(source),
            ]
            for (name, source), (reason, about) in found.items()
        ]
        yield from self.table(["Name", "Of", "It does not apply if, for example", "Source"], rows, "20 10 45 25")

    required_arguments = 1


class Commands(Table):
    """The command line, as the program itself describes it."""

    def lines(self) -> Iterator[str]:
        """Return a section for each command."""
        from typer.main import get_command  # noqa: PLC0415

        from linflow.cli import app  # noqa: PLC0415

        program = get_command(app)
        for name, command in program.commands.items():  # type: ignore[attr-defined]
            inner = getattr(command, "commands", {})
            for words, one in [
                (name, command),
                *((f"{name} {sub}", sub_command) for sub, sub_command in inner.items()),
            ]:
                if words.endswith(" run"):  # the word can be left out
                    continue
                yield from self.command(words, inner["run"] if one is command and "run" in inner else one)

    def command(self, words: str, command: Any) -> Iterator[str]:
        """Return the section of one command."""
        arguments = [p for p in command.params if not p.opts[0].startswith("-")]
        usage = " ".join(
            f"[{p.metavar or p.name.upper()}]" if not p.required else p.metavar or p.name.upper() for p in arguments
        )
        title = f"linflow {words}"
        yield f"{title}\n{'-' * len(title)}\n"
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
            yield self.prose(paragraph) + "\n"
        yield f".. code-block:: sh\n\n   linflow {words} {usage + ' ' if usage else ''}[OPTIONS]\n"
        rows = []
        for p in command.params:
            flags = (
                ", ".join(f"``{o}``" for o in (*p.opts, *p.secondary_opts))
                if p not in arguments
                else f"``{p.metavar or p.name.upper()}``"
            )
            default = p.default() if callable(p.default) else p.default
            shown = "" if default in (None, False, (), []) or "Sentinel" in repr(default) else f"``{default}``"
            kind = (
                "" if getattr(p, "is_flag", False) else p.metavar or KINDS.get(p.type_descriptor.annotation, "text")
            )
            rows.append([flags, kind if p not in arguments else "", self.prose(getattr(p, "help", "") or ""), shown])
        yield from self.table(["Option", "Value", "What it does", "Default"], rows, "25 12 48 15")


class Schema(Table):
    """The keys of an experiment file, from the classes that check it."""

    def lines(self) -> Iterator[str]:
        """Return a table for each section."""
        from linflow.experiments.schema import SECTIONS, Experiment  # noqa: PLC0415

        whole = Experiment.model_json_schema()
        yield from self.section("", {"properties": {"algorithm": whole["properties"]["algorithm"]}})
        for name, section in SECTIONS.items():
            yield from self.section(name, whole["$defs"][section.__name__])

    def section(self, name: str, schema: dict[str, Any]) -> Iterator[str]:
        """Return one section."""
        if name:
            title = f"[{name}]"
            yield f"{title}\n{'~' * len(title)}\n"
            yield self.prose(schema.get("description", "")) + "\n"
        rows = []
        for key, value in schema["properties"].items():
            default = value.get("default")
            rows.append(
                [
                    f"``{key}``",
                    self.kind(value),
                    ""
                    if default in (None, [])
                    else f"``{str(default).lower() if isinstance(default, bool) else default}``",
                ]
            )
        yield from self.table(["Key", "Value", "Default"], rows, "25 55 20")

    def kind(self, value: dict[str, Any]) -> str:
        """Return in words which values are allowed."""
        if "anyOf" in value:
            return ", or ".join(kind for one in value["anyOf"] if (kind := self.kind(one)))
        if "enum" in value:
            return "one of " + ", ".join(f"``{one}``" for one in value["enum"])
        if "const" in value:
            return f"``{value['const']}``"
        words = {
            "integer": "a whole number",
            "number": "a number",
            "boolean": "true or false",
            "array": "a list",
            "null": "",
        }
        kind = words.get(value.get("type", ""), "a path" if value.get("format") == "path" else "text")
        if kind == "a list":
            item = value.get("items") or (value.get("prefixItems") or [{}])[0]
            kind = f"a list, each {self.kind(item)}"
        limits = [
            f"{words} {value[key]}"
            for key, words in (
                ("minimum", "at least"),
                ("exclusiveMinimum", "above"),
                ("maximum", "at most"),
                ("exclusiveMaximum", "below"),
            )
            if key in value
        ]
        return " ".join([kind, *([", ".join(limits)] if limits else [])])


class Tested(Table):
    """Which tests name each theorem of `lf.bounds`, found by reading the tests."""

    def lines(self) -> Iterator[str]:
        """Return the table."""
        named = uses(set(FUNCTIONS.values()))
        rows = []
        for theorem in lf.bounds.THEOREMS:
            function = FUNCTIONS[theorem.name]
            files: dict[str, int] = {}
            for path, _test in named[function]:
                files[path] = files.get(path, 0) + 1
            where = ", ".join(
                f"``{path}`` ({count})" for path, count in sorted(files.items(), key=lambda x: (-x[1], x[0]))[:4]
            )
            rows.append([self.prose(theorem.name), f":py:obj:`{function} <linflow.bounds.{function}>`", where])
        yield from self.table(["Theorem", "Function", "Tests that name it, by file"], rows, "30 20 50")


def uses(names: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Return for each function of `bounds` the tests (file and name) in which it is named."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                words = {n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute)}
                words |= {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
                for name in names & words:
                    found[name].append((path.relative_to(ROOT).as_posix(), test.name))
    return found


def keep_numbers(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark cells that hold a number, which a browser would break at the sign of its exponent."""
    for cell in doctree.findall(nodes.entry):
        if re.fullmatch(r"\d[\d.,]*(e[+-]?\d+)?", cell.astext()):
            cell["classes"].append("number")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    for name, directive in (
        ("theorems", Theorems),
        ("guarantees", Guarantees),
        ("commands", Commands),
        ("schema", Schema),
        ("tested", Tested),
    ):
        app.add_directive(name, directive)
    app.connect("doctree-resolved", keep_numbers)
    return {"version": "1", "parallel_read_safe": True}
