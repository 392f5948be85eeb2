"""Every page with code that runs can be downloaded as a Jupyter notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from plain_markdown import plain
from sphinx.application import Sphinx


def converted(text: str, path: Path) -> nbformat.NotebookNode:
    """Return a page as a notebook without outputs."""
    notebook = read_myst_markdown_notebook(text, path=str(path))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source)
        cell.metadata = {}
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def sources(app: Sphinx) -> dict[str, Path]:
    """Return the pages that run code."""
    found = {}
    for name in app.env.found_docs:
        path = Path(app.env.doc2path(name))
        if path.suffix == ".md" and is_myst_markdown_notebook(path.read_text(encoding="utf-8")):
            found[name] = path
    return found


def place(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Tell the template of a page where its notebook lies."""
    here = pagename in app.linflow_notebooks  # type: ignore[attr-defined]
    context["notebook"] = context["pathto"](f"notebooks/{pagename}.ipynb", resource=True) if here else ""


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the notebooks beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    for name, path in app.linflow_notebooks.items():  # type: ignore[attr-defined]
        target = Path(app.outdir) / "notebooks" / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(converted(path.read_text(encoding="utf-8"), path), target)


def collect(app: Sphinx, env: Any) -> None:
    """Find the pages once."""
    app.linflow_notebooks = sources(app)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps."""
    app.connect("env-check-consistency", collect)
    app.connect("html-page-context", place)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True}
