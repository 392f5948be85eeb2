"""Docstrings become reStructuredText: formulas are LaTeX, names are links, and nothing else is markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from formulas import is_formula, latex
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.nodes import make_refnode

SPAN = re.compile(r"``([^`]+)``|`([^`]+)`")
PAGE = re.compile(r"docs/(\w+)\.md")
# Words outside code spans that are formulas all the same.
LOOSE = re.compile(
    r"(?<![\w`\\.])([\[‖|(]*[σλμκγβΔΣ∇θρηℓ‖½¼][^\s`,;:]*?)(?=[\s,;:]|\.?$|\.\s|\)[\s.,])", re.MULTILINE
)
# A relation of two letters or numbers.
RELATION = re.compile(
    r"(?<![\w`\\])([A-Za-z](?:_\w)?[*']?(?: [≤≥≠≈⪰⪯=<>] [−-]?(?:[A-Za-z](?:_\w)?|[\d.]*\d)[*']?)+)(?![\w(])"
)
# A letter with an index.
INDEXED = re.compile(r"(?<![\w`\\])([A-Za-z]_(?:[a-z]|\d+|\{[^}]*\}))(?![\w(])")
# The head of a paragraph.
HEAD = re.compile(r"^(\s*)\*([A-Z][^*\n]*\.)\*", re.MULTILINE)
FLAG = re.compile(r"(?<!\S)--[a-z][a-z-]*")


class Names:
    """The public names of linflow, with the short forms in which docstrings write them."""

    def __init__(self, known: set[str]) -> None:
        self.known = known

    def full(self, span: str, within: str) -> str | None:
        """Return the full name of what a code span names, or None."""
        if not re.fullmatch(r"[A-Za-z_][\w.]*", span):
            return None
        place, package = within.split("."), span.removeprefix("lf.").removeprefix("linflow.")
        scopes = [".".join(place[:k]) for k in range(len(place), 0, -1)]
        for candidate in [f"{scope}.{package}" for scope in scopes]:
            if candidate in self.known:
                return candidate
        return None


def converted(text: str, within: str, names: Names) -> str:
    """Return the prose of a docstring as reStructuredText."""

    def span(match: re.Match[str]) -> str:
        code = " ".join((match[1] or match[2]).split())
        if page := PAGE.fullmatch(code):
            return hold(f":doc:`/{page[1]}`")
        if name := names.full(code, within):
            return hold(f":py:obj:`{code} <{name}>`")
        return hold(f":math:`{latex(code)}`" if is_formula(code) else f"``{code}``")

    held: list[str] = []

    def hold(markup: str) -> str:
        held.append(markup)
        return f"\x00{len(held) - 1}\x01"

    text = HEAD.sub(lambda match: match[1] + hold(f"**{match[2]}**"), text)
    text = SPAN.sub(span, text)
    text = PAGE.sub(lambda match: hold(f":doc:`/{match[1]}`"), text)
    text = LOOSE.sub(lambda match: hold(f":math:`{latex(match[1])}`"), text)
    # A letter with a period would begin a list.
    text = re.sub(r"(?<=: )([A-Za-z])(?=\.(?:\s|$))", lambda match: hold(f":math:`{match[1]}`"), text)
    text = FLAG.sub(lambda match: hold(f"``{match[0]}``"), text)
    for formula in (RELATION, INDEXED):
        text = formula.sub(lambda match: hold(f":math:`{latex(match[1])}`"), text)
    text = re.sub(r"(?<=\w)_(?=\W|$)|(?<!\w)_(?=\w)", r"\\_", text)
    text = re.sub(r"\*(?!\*?\w+:)|(?<=\w)\*", r"\\*", text)
    text = text.replace("|", r"\|")
    text = re.sub(r"^Source: ", "**Source.** ", text, flags=re.MULTILINE)
    # Markup needs a space or a mark at both sides; an escaped space shows nothing.
    text = re.sub(r"(?<=[^\s(\[{\"'-])(?=\x00)", r"\\ ", text)
    text = re.sub(r"(?<=\x01)(?=[^\s)\]}\"'.,;:!?-])", r"\\ ", text)
    return re.sub(r"\x00(\d+)\x01", lambda match: held[int(match[1])], text)


def prose(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Return the lines in groups, each with whether it is prose; examples are not."""
    groups: list[tuple[bool, list[str]]] = []
    code = False
    for line in lines:
        if line.lstrip().startswith(">>>"):
            code = True
        elif not line.strip():
            code = False
        if not groups or groups[-1][0] == code:
            groups.append((not code, []))
        groups[-1][1].append(line)
    return groups


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert the docstring of a name in place."""
    names = Names(app.env.linflow_names)  # type: ignore[attr-defined]
    found: list[str] = []
    for is_prose, group in prose(lines):
        found += converted("\n".join(group), name, names).split("\n") if is_prose else group
    lines[:] = found


def page_title(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve names that no page documents to the page of the class or module that has them."""
    target = node.get("reftarget", "")
    if node.get("reftype") != "obj" or "." not in target:
        return None
    owner = target.rpartition(".")[0]
    found = env.get_domain("py").objects.get(owner)
    if found is None or owner == "linflow":
        return None
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contnode, owner)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to autodoc before napoleon does."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("missing-reference", page_title)
    return {"version": str(Path(__file__).stat().st_mtime), "parallel_read_safe": True}
