"""HTML pages: the templates, and the drawings to put inside."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.colors import to_hex, to_rgb

from linflow._support import digits
from linflow._support.words import in_one_line, visible
from linflow.pages.typesetting import typeset
from linflow.plots.saving import rendered
from linflow.plots.themes import THEMES


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment that loads the templates of this package; it escapes what is put into them."""
    found = Environment(
        loader=PackageLoader("linflow.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_on_one_line,
    )
    found.filters["typeset"], found.filters["lines"] = typeset, lines
    found.globals.update(figure_paper=THEMES["dark"].paper, figure_ink=THEMES["dark"].ink)
    return found


def _on_one_line(value: Any) -> Any:
    """Return a value as it goes into a template: text of others begins no line of the page."""
    return in_one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def lines(text: str) -> Markup:
    r"""Return a text of several lines as HTML. Each is an element, so that none begins a line of the file.

    Example:
        >>> print(lines("a = 1\nb = '<'"))
        <span>a = 1</span>
        <span>b = &#39;&lt;&#39;</span>
    """
    return Markup("\n").join(Markup("<span>{}</span>").format(visible(line)) for line in text.splitlines())


@lru_cache(maxsize=1)
def dark_colours() -> dict[str, str]:
    """Map the colours of the light theme, and the greys from its ink to its paper, to those of the dark theme."""
    light, dark = THEMES["light"], THEMES["dark"]
    ink, paper = (np.array(to_rgb(end)) for end in (dark.ink, dark.paper))
    first, last = (to_rgb(end)[0] for end in (light.ink, light.paper))
    found = {}
    for grey in range(256):
        part = max(grey / 255 - first, 0.0) / (last - first)
        found[f"#{grey:02x}{grey:02x}{grey:02x}"] = to_hex(tuple((1 - part) * ink + part * paper))
    found[light.muted.lower()] = dark.muted
    for name, colour in light.colours.items():
        found[light.text(colour)] = dark.text(dark.colours[name])
        found[colour.lower()] = dark.colours[name]
    return {colour: other.lower() for colour, other in found.items()}


def recoloured(drawing: str) -> str:
    """Return a drawing that uses the colours of the dark theme on a dark page, if the browser supports it."""
    known = dark_colours()

    def both(found: re.Match[str]) -> str:
        name, colour = found[1], found[2].lower()
        return f"{found[0]}; {name}: light-dark({colour}, {known[colour]})" if colour in known else found[0]

    return re.sub(r"\b(fill|stroke|stop-color): ?(#[0-9a-fA-F]{6})\b", both, drawing)


def inlined(drawing: str, name: str, label: str = "") -> Markup:
    """Return an SVG file as an element of a page, with ids and style of its own.

    Args:
        drawing: the content of the file.
        name: prefix that keeps its ids apart from those of other drawings.
        label: what a screen reader reads out for it.
    """
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], count=1, flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", recoloured(drawing))
    drawing = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", drawing, count=1, flags=re.DOTALL)
    style = "stroke-linejoin: round; stroke-linecap: butt"  # what the removed rule set for every element
    said = f'role="img" aria-label="{escape(label)}" ' if label else ""
    return Markup(drawing.replace("<svg", f'<svg {said}style="{style}"', 1))  # made of numbers and escaped labels


def svg(ax: Any, name: str) -> Markup:
    """Return the figure of some Axes as an element of a page; `name` keeps its ids apart from those of others."""
    return inlined(rendered(ax.figure, "svg", {"Date": None, "Creator": None}, name).decode(), name)


def number(x: float | None) -> str:
    """Return a number with four digits; a dash for 0 or if there is no number."""
    return digits.number(x or None)
