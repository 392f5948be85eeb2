"""Pages in HTML: the templates, and drawings to put inside."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from linflow._typeset import typeset


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return where the templates of this package are found; what is put into them is escaped."""
    found = Environment(
        loader=PackageLoader("linflow"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["typeset"] = typeset
    return found


def svg(ax: Any, name: str) -> Markup:
    """Return the figure of some Axes as an element of a page; `name` keeps its ids apart from those of others."""
    from matplotlib import rc_context  # noqa: PLC0415 - slow to import

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        ax.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for mark in ('id="', "url(#", 'href="#'):
        text = text.replace(mark, mark + name + "-")
    return Markup(text)  # made here, of numbers and escaped labels


def number(x: float | None) -> str:
    """Return four digits; a dash for what there is none of."""
    return "–" if x is None or not math.isfinite(x) or x == 0 else f"{x:.4g}"
