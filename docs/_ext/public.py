"""The reference: every public name with its docstring."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from names import public_names, resolved, with_attributes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Public(SphinxDirective):
    """`.. public::` with full names, one a line: a table of them, then each with its docstring."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the parsed entries."""
        names = [line.strip() for line in self.content if line.strip()]
        lines: list[str] = []
        for name in names:
            value = resolved(name)
            self.env.linflow_shown[name] = self.env.docname  # type: ignore[attr-defined]
            if inspect.isclass(value):
                lines += [f".. autoclass:: {name}", "   :members:", ""]
            elif callable(value):
                lines += [f".. autofunction:: {name}", ""]
            else:
                lines += [f".. autodata:: {name}", "   :no-value:", ""]
        holder = nodes.Element()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, holder)
        return holder.children


def start(app: Sphinx) -> None:
    """Ask the package for its names."""
    app.env.linflow_names = with_attributes(public_names())  # type: ignore[attr-defined]
    if not hasattr(app.env, "linflow_shown"):
        app.env.linflow_shown = {}  # type: ignore[attr-defined]


def merge(app: Sphinx, env: Any, docnames: Any, other: Any) -> None:
    """Join what parallel readers found."""
    env.linflow_shown |= other.linflow_shown


def all_shown(app: Sphinx, env: Any) -> None:
    """Refuse a reference that leaves a public name out."""
    missing = sorted(set(public_names()) - set(env.linflow_shown))
    if missing:
        raise ValueError(f"no page of docs/api shows {', '.join(missing)}; add them under '.. public::'.")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and the check."""
    app.add_directive("public", Public)
    app.connect("builder-inited", start)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", all_shown)
    return {"version": "1", "parallel_read_safe": True}
