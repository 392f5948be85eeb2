"""`paper-figure`: a figure of the talk or a paper, computed in the build, with what is claimed and what was seen."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from docstrings import Names, converted
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import linflow as lf
from linflow.experiments.figures import Outcome, PaperFigure, select

FOLDER = "_generated"
"""Where figures lie beside the sources; git ignores it."""
PIECE = re.compile(r":math:`([^`]*)`|``([^`]*)``|\\ |\\(.)")


def typeset(text: str) -> list[nodes.Node]:
    """Return text of the program with its formulas as mathematics."""
    found: list[nodes.Node] = []
    at, markup = 0, converted(text, "linflow", Names(set()))
    for match in PIECE.finditer(markup):
        found.append(nodes.Text(markup[at : match.start()]))
        if match[1]:
            found.append(nodes.math("", match[1]))
        elif match[2]:
            found.append(nodes.literal("", match[2]))
        elif match[3]:
            found.append(nodes.Text(match[3]))
        at = match.end()
    return [*found, nodes.Text(markup[at:])]


def table(head: list[str], rows: list[list[str]], widths: list[int]) -> nodes.table:
    """Return a table of texts."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    parts = []
    for kind, lines in ((nodes.thead, [head]), (nodes.tbody, rows)):
        part = kind()
        for line in lines:
            row = nodes.row()
            for cell in line:
                row += nodes.entry("", nodes.paragraph("", "", *typeset(cell)))
            part += row
        parts.append(part)
    group += parts
    return nodes.table("", group)


class Figure(SphinxDirective):
    """A figure by its name, with settings such as `seeds=5` if the full one takes long."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"set": directives.unchanged, "alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Compute, draw and describe the figure."""
        (figure,) = select([self.arguments[0]])
        given = dict(word.split("=", 1) for word in self.options.get("set", "").split())
        outcome = figure.run(0, lambda fraction, note="": None, figure.settings.read(given))
        failed = [claim.text for claim in outcome.claims if not claim.passed]
        if failed:
            raise self.error(f"{figure.id}: a claim does not hold: {failed[0]}")
        return [self.picture(figure, given, outcome), *self.claims(outcome)]

    def picture(self, figure: PaperFigure, given: dict[str, str], outcome: Outcome) -> nodes.Node:
        """Return the drawing with its caption and the command that makes it."""
        mark = sha256(repr(sorted(given.items())).encode()).hexdigest()[:8]
        path = Path(self.env.srcdir) / FOLDER / f"{figure.id}-{mark}.svg"
        path.parent.mkdir(exist_ok=True)
        lf.plots.save(outcome.draw(), path, editable=False)
        uri = "/" + path.relative_to(self.env.srcdir).as_posix()
        command = " ".join(["linflow", "reproduce", figure.id, *(f"--set {k}={v}" for k, v in given.items())])
        image = nodes.image(uri=uri, alt=self.options.get("alt", figure.title))
        words = f"{figure.title}. Source: {figure.source}. It is drawn by "
        caption = nodes.caption("", "", nodes.Text(words), nodes.literal("", command), nodes.Text("."))
        holder = nodes.figure("", image, caption, classes=["paper-figure"])
        self.env.note_dependency(__file__)
        return holder

    def claims(self, outcome: Outcome) -> list[nodes.Node]:
        """Return what is claimed and what was seen, folded."""
        rows = [[claim.text, claim.observed] for claim in outcome.claims]
        title = f"What is claimed, and what was seen: all {len(rows)} claims hold here"
        parts: list[nodes.Node] = [
            nodes.raw("", f'<details class="claims"><summary>{title}</summary>', format="html"),
            table(["Claimed", "Seen"], rows, [60, 40]),
        ]
        if outcome.left_out:
            others = f"Left out, as the settings differ from those of the paper: {len(outcome.left_out)}."
            parts.append(nodes.paragraph("", others))
        return [*parts, nodes.raw("", "</details>", format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("paper-figure", Figure)
    return {"version": "1", "parallel_read_safe": True}
