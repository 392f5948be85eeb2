"""Colours, sizes and fonts: the two themes, and figures that use them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.style
import numpy as np
from cycler import cycler
from matplotlib.colors import to_hex, to_rgb, to_rgba

from linflow._support import checks

# Okabe and Ito (2008): distinct for every common form of colour blindness.
COLOURS = MappingProxyType(
    {
        "blue": "#0072B2",
        "vermillion": "#D55E00",
        "green": "#009E73",
        "purple": "#CC79A7",
        "orange": "#E69F00",
        "sky": "#56B4E9",
        "black": "#000000",
        "yellow": "#F0E442",
        "grey": "#7F7F7F",
    }
)

WIDTHS = MappingProxyType({"column": 3.4, "text": 6.9})
"""Widths of one column and of the whole text of a journal page, in inches."""

ON_SCREEN = 125
"""Pixels per inch in a notebook, so that tick labels of 7 points are 12 pixels high."""

_CYCLE = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")
_FAMILY = ["STIXGeneral", "DejaVu Sans"]  # both come with matplotlib; the second fills gaps


@dataclass(frozen=True)
class Theme:
    """The colours of a figure, by the same names in every theme.

    Attributes:
        name: "light" or "dark".
        paper: colour of the background.
        ink: colour of text and axes.
        muted: colour of marks behind the data, such as streamlines.
        colours: colours by the names in `COLOURS`; "black" is the ink of the theme.
    """

    name: str
    paper: str
    ink: str
    muted: str
    colours: Mapping[str, str]

    @property
    def cycle(self) -> list[str]:
        """The colours of successive curves."""
        return [self.colours[name] for name in _CYCLE]

    def text(self, colour: Any) -> str:
        """Return a colour mixed with the ink, so that small letters stay readable.

        >>> THEMES["light"].text("#E69F00")
        '#946a0e'
        """
        r, g, b = 0.58 * np.array(to_rgb(colour)) + 0.42 * np.array(to_rgb(self.ink))
        return to_hex((r, g, b))


THEMES = MappingProxyType(
    {
        "light": Theme("light", "#FFFFFF", "#222222", "#DDDDDD", COLOURS),
        "dark": Theme(
            "dark",
            "#14171C",
            "#E6E6E6",
            "#3A4048",
            MappingProxyType(
                {
                    "blue": "#4C9FE0",
                    "vermillion": "#FF8048",
                    "green": "#2DC79C",
                    "purple": "#E3A0CB",
                    "orange": "#F2B53A",
                    "sky": "#9BD5F7",
                    "black": "#E6E6E6",
                    "yellow": "#F0E442",
                    "grey": "#9298A0",
                }
            ),
        ),
    }
)


def theme_named(name: str) -> Theme:
    """Return the theme with this name.

    Raises:
        ValueError: there is no such theme.
    """
    return THEMES[checks.choice(name, "theme", tuple(THEMES))]


def theme_of(ax: Any) -> Theme:
    """Return the theme whose marks are readable on these Axes, chosen by the lightness of their background."""
    *rgb, alpha = to_rgba(ax.get_facecolor())
    if alpha < 0.5:
        rgb = to_rgb(ax.figure.get_facecolor())
    return THEMES["light" if np.dot(rgb, (0.299, 0.587, 0.114)) > 0.5 else "dark"]


def _settings(theme: Theme, size: float) -> dict[str, Any]:
    """Return the style as matplotlib settings. `size` is the size of axis labels, in points."""
    return {
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.006 * size,
        "figure.constrained_layout.h_pad": 0.006 * size,
        "figure.dpi": 100,
        "figure.facecolor": theme.paper,
        "savefig.dpi": 200,
        "font.family": _FAMILY,
        "mathtext.fontset": "stix",
        "font.size": size,
        "axes.titlesize": size + 0.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 0.8 * size,
        "axes.labelsize": size,
        "axes.labelpad": 0.5 * size,
        "xtick.labelsize": size - 1,
        "ytick.labelsize": size - 1,
        "legend.fontsize": size - 1,
        "text.color": theme.ink,
        "axes.facecolor": theme.paper,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.axisbelow": True,
        "axes.formatter.use_mathtext": True,
        "axes.prop_cycle": cycler(color=theme.cycle),
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.minor.width": 0.5,
        "ytick.minor.width": 0.5,
        "grid.color": theme.muted,
        "grid.linewidth": 0.5,
        "lines.linewidth": 0.15 * size,
        "lines.markersize": 0.4 * size,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "image.cmap": "cividis",
        "pdf.fonttype": 42,  # TrueType, which journals ask for
        "svg.fonttype": "path",  # with text, formulas fall apart if the reader lacks the font
    }


@contextmanager
def style(theme: str = "light", size: float = 10) -> Iterator[None]:
    """Draw in the style of linflow inside a ``with`` block. After the block, the previous settings are restored.

    The functions of `linflow.plots` do not need this block. Use it for your own matplotlib figures.

    Args:
        theme: "light" or "dark".
        size: Size of the axis labels, in points; tick labels and legends are one point smaller.

    Raises:
        ValueError: there is no such theme.
    """
    settings = _settings(theme_named(theme), checks.positive(size, "size"))
    with matplotlib.style.context(["default", settings]):  # "default" overrides the user's matplotlibrc
        yield


Picture = tuple[bytes, dict[str, int]]
"""A PNG file and its size on the screen, in the form that notebooks expect."""


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows if it is the last value of a cell. No backend is needed."""

    def _repr_png_(self) -> Picture:
        content = io.BytesIO()
        with style():  # overrides the user's settings for saved figures
            self.savefig(content, format="png", dpi=200)
        across, high = (round(ON_SCREEN * side) for side in self.get_size_inches())
        return content.getvalue(), {"width": across, "height": high}


class Axes(matplotlib.axes.Axes):
    """Axes that show their figure in a notebook if they are the last value of a cell."""

    def _repr_png_(self) -> Picture | None:
        return self.figure._repr_png_() if isinstance(self.figure, Figure) else None


def figure(
    width: float | str = "text",
    height: float | None = None,
    *,
    aspect: float = 0.72,
    ncols: int = 1,
    nrows: int = 1,
    theme: str = "light",
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Return a new figure and its axes in the style of linflow.

    A named width is for a printed page, with axis labels of 8 points and tick labels of 7. A number is for the
    screen, with 10 and 9 points. Everything drawn on the axes later keeps these sizes and colours.

    Args:
        width: "column" (3.4 inches), "text" (6.9 inches), or a number of inches.
        height: Height in inches; computed from `aspect` if not given.
        aspect: Height of a panel divided by its width, used if no height is given.
        ncols: Number of panels side by side.
        nrows: Number of panels one above the other.
        theme: "light" or "dark".
        **subplots: Options of `matplotlib.figure.Figure.subplots`, such as ``sharey=True``.

    Returns:
        The figure, and one Axes or an array of Axes, as `matplotlib.figure.Figure.subplots` returns. In a notebook,
        a figure or Axes shows the picture if it is the last value of a cell. In a script, write it with `save`.

    Raises:
        ValueError: the width or the theme is unknown, or a size is not positive.

    Example:
        >>> import linflow as lf
        >>> fig, axes = lf.plots.figure("text", aspect=0.8, ncols=2, theme="dark")
        >>> tuple(float(round(side, 2)) for side in fig.get_size_inches()), axes.shape
        ((6.9, 2.76), (2,))
    """
    named = isinstance(width, str)
    inches = WIDTHS[checks.choice(width, "width", tuple(WIDTHS))] if named else checks.positive(width, "width")
    tall = max(checks.positive(aspect, "aspect") * inches / ncols, 2.0) * nrows
    size, chosen = 8.0 if named else 10.0, theme_named(theme)
    with style(theme, size):
        new = Figure(figsize=(inches, tall if height is None else checks.positive(height, "height")))
        kind = dict(subplots.pop("subplot_kw", None) or {})
        if not {"projection", "polar", "axes_class"} & kind.keys():
            kind["axes_class"] = Axes
        axes = new.subplots(nrows, ncols, subplot_kw=kind, **subplots)
        for ax in new.axes:
            _pin(ax, chosen, size)
        return new, axes


def dress(ax: Any, theme: Theme) -> None:
    """Give existing axes and their figure the colours of a theme. Sizes do not change."""
    ax.figure.set_facecolor(theme.paper)
    ax.set_facecolor(theme.paper)
    ax.set_prop_cycle(color=theme.cycle)
    for side in ax.spines.values():
        side.set_edgecolor(theme.ink)
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, ax.xaxis.offsetText, ax.yaxis.offsetText):
        text.set_color(theme.ink)
    ax.tick_params(which="both", color=theme.ink, labelcolor=theme.ink)


def _pin(ax: Any, theme: Theme, size: float) -> None:
    """Set the style of future ticks now. Otherwise they would use the settings at the time they are made."""
    for which, length, line in (("major", 3.5, 0.7), ("minor", 2.0, 0.5)):
        ax.tick_params(
            which=which, length=length, width=line, color=theme.ink, labelcolor=theme.ink,
            labelsize=size - 1, labelfontfamily=_FAMILY,
        )  # fmt: skip
