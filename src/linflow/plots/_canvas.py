"""Drawing tools shared by the figures: Axes with a theme, typography, labels at the ends of curves, and ticks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter

from linflow._support.words import in_one_line, kind_of
from linflow.plots.themes import Theme, dress, figure, theme_named, theme_of

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = (0, (4, 2))
"""The dash pattern of guarantees."""


LARGEST = 1e150
"""The largest number that an axis can show, and 1 over the smallest: margins and ticks of others leave float64."""
LONGEST = 32
"""The most characters of a word in a plot."""


@dataclass(frozen=True)
class Canvas:
    """Axes to draw on.

    Attributes:
        ax: the Axes.
        theme: their theme.
        own: whether the figure may set ticks, legends and labels: on axes made here, or if names are requested.
    """

    ax: Any
    theme: Theme
    own: bool

    @property
    def size(self) -> float:
        """Size of text among the data, in points: one less than the axis labels, but at least 7."""
        return max(float(self.ax.xaxis.label.get_fontsize()) - 1, 7.0)

    @property
    def line(self) -> float:
        """Width of a curve, in points."""
        return 0.15 * (self.size + 1)

    def font(self) -> dict[str, Any]:
        """Return the typography of the axis labels, for text among the data."""
        label = self.ax.xaxis.label
        return {
            "fontsize": self.size,
            "fontfamily": label.get_fontfamily(),
            "math_fontfamily": label.get_math_fontfamily(),
        }

    def colour(self, name: str) -> str:
        """Return a colour of the theme."""
        return self.theme.colours[name]

    def halo(self) -> list[Any]:
        """Return a rim in the background colour, which keeps text legible on curves."""
        return [withStroke(linewidth=2, foreground=self.theme.paper)]

    def text(self, x: float, y: float, text: str, *, colour: Any = None, **options: Any) -> Any:
        """Write text among the data, legible on any curve."""
        shade = self.theme.ink if colour is None else self.theme.text(colour)
        return self.ax.text(x, y, text, **{"color": shade, "path_effects": self.halo(), **self.font(), **options})

    def legend(self, handles: Sequence[Any] | None = None, loc: str = "best", **options: Any) -> None:
        """Add a legend without a frame to the Axes."""
        label = self.ax.xaxis.label
        prop = FontProperties(
            family=label.get_fontfamily(), math_fontfamily=label.get_math_fontfamily(), size=self.size
        )
        given = {} if handles is None else {"handles": list(handles)}
        made = self.ax.legend(
            **given, loc=loc, prop=prop, frameon=False, labelcolor=self.theme.ink, handlelength=1.8,
            borderaxespad=0.2, labelspacing=0.3, title_fontproperties=prop, alignment="left", **options,
        )  # fmt: skip
        made.get_title().set_color(self.theme.ink)


def canvas(ax: Any, theme: str | None, aspect: float = 0.72, named: bool | None = None) -> Canvas:
    """Return a canvas on new Axes of one column's width, or on the given ones, in their own theme if none is named.

    Raises:
        TypeError: `ax` is not an Axes.
        ValueError: there is no such theme.
    """
    if ax is None:
        name = "light" if theme is None else theme
        return Canvas(figure("column", aspect=aspect, theme=name)[1], theme_named(name), named is not False)
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax is {kind_of(ax)}; Axes are needed, such as those of linflow.plots.figure(). Leave it out for new "
            "ones."
        )
    if theme is not None:
        dress(ax, theme_named(theme))
    return Canvas(ax, theme_of(ax) if theme is None else theme_named(theme), bool(named))


def legend(c: Canvas, *entries: tuple[str, Any], colour: Any = None) -> list[Line2D]:
    """Return legend handles for line styles, such as ("observed", "-"), in the ink colour if no colour is given."""
    shade = c.theme.ink if colour is None else colour
    return [Line2D([], [], color=shade, linestyle=form, linewidth=0.8 * c.line, label=text) for text, form in entries]


def from_zero(c: Canvas, line: Line2D) -> None:
    """Start the vertical axis at 0, or at the data if it is logarithmic."""
    c.ax.update_datalim([(0.0, 0.0)], updatex=False)
    line.sticky_edges.y.append(0.0)
    c.ax.autoscale_view()


def drawable(x: np.ndarray) -> np.ndarray:
    """Tell of each number whether an axis can show it: it is zero, or finite and not beyond 10^±150."""
    size = np.abs(x)
    return (size == 0) | ((size >= 1 / LARGEST) & (size <= LARGEST))


def label_text(value: Any) -> str:
    r"""Return a value from a file as a label. No character of it is a command, to matplotlib or to a terminal.

    >>> label_text(None), label_text((1, 2.5)), label_text("$x\x1b")
    ('none', '1, 2.5', '\\$x\\u001b')
    """
    if isinstance(value, tuple):
        value = ", ".join(map(label_text, value))
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    text = in_one_line(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
    return text.replace("$", r"\$")


def log_ticks(axis: Any) -> None:
    """Give a logarithmic axis that spans many decades a minor tick at each decade."""
    low, high = axis.get_view_interval()
    if high / low > 10**4.5:
        axis.set_minor_locator(LogLocator(base=10, subs=(1.0,), numticks=400))
        axis.set_minor_formatter(NullFormatter())


def label_ends(c: Canvas, ends: Sequence[tuple[float, float, str, Any]]) -> bool:
    """Name curves at their last points `(x, y, text, colour)`, without overlaps.

    If all curves reach the right edge, the names stand beside the Axes. Otherwise each stands after the end of its
    curve.

    Returns:
        Whether there was room. If not, nothing is written.
    """
    ax, count = c.ax, len(ends)
    for limits in (ax.get_xlim, ax.get_ylim):
        limits()  # performs any pending autoscaling
    box, inches = ax.get_position(), ax.figure.get_size_inches()
    tall = 1.15 * c.size / 72 / (0.8 * box.height * inches[1])
    wide = [0.55 * c.size / 72 * _letters(text) / (0.9 * box.width * inches[0]) for *_, text, _ in ends]
    at = ax.transAxes.inverted().transform(ax.transData.transform([(x, y) for x, y, *_ in ends]))
    order = np.argsort(at[:, 1] if (right := bool((at[:, 0] > 0.96).all())) else at[:, 0])
    if right:
        if count * tall > 1.1:
            return False
        heights = spread_apart(at[order, 1], tall)
        for i, y in zip(order, heights, strict=True):
            *_, text, colour = ends[i]
            ax.annotate(
                text, (1, ends[i][1]), xytext=(4, (y - at[i, 1]) * 72 * 0.85 * box.height * inches[1]),
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
                color=c.theme.text(colour), **c.font(),
            )  # fmt: skip
        return True
    room = [at[j, 0] - at[i, 0] - wide[i] - 0.03 for i, j in pairwise(order)]
    if min(room, default=1.0) < 0:
        return False
    last = order[-1]
    over = at[last, 0] + wide[last] + 0.03
    if over > 1 and ax.get_xscale() == "linear":
        low, high = ax.get_xlim()
        ax.set_xlim(low, low + over * (high - low))
    for (x, y, text, colour), height in zip(ends, at[:, 1], strict=True):
        low = height < tall
        c.ax.annotate(
            text, (x, y), xytext=(3, 1 if low else 0), textcoords="offset points", color=c.theme.text(colour),
            va="bottom" if low else "center", **c.font(),
        )  # fmt: skip
    return True


def spread_apart(heights: np.ndarray, least: float) -> np.ndarray:
    """Return ascending heights, moved slightly so that neighbours are `least` apart, within [0, 1] if they fit."""
    out = np.clip(heights, 0.0, 1.0)
    for _ in range(200):
        short = least - np.diff(out)
        if (short <= 1e-9).all():
            break
        for i in np.flatnonzero(short > 0):
            miss = max(0.0, least - (out[i + 1] - out[i]))
            out[i], out[i + 1] = out[i] - miss / 2, out[i + 1] + miss / 2
        out += max(0.0, -out[0]) - max(0.0, out[-1] - 1.0)
    return out


def _letters(text: str) -> int:
    """Return the approximate number of glyphs in a text with formulas."""
    return len(re.sub(r"\\[a-zA-Z]+", "x", text).translate({ord(sign): None for sign in "${}^_"}))
