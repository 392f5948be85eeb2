"""Figures in one style: readable in print and on screen, safe for colour-blind readers.

Nothing here imports pyplot, shows a window or leaves a trace in ``matplotlib.rcParams``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import matplotlib.style
import numpy as np
from cycler import cycler
from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure

# Okabe and Ito (2008): distinct under every common form of colour blindness.
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

_INK = "#222222"
_STYLE = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # both come with matplotlib; the second fills gaps
    "mathtext.fontset": "stix",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 10,
    "axes.labelpad": 5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[c for name, c in COLOURS.items() if name not in ("yellow", "grey")]),
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "image.cmap": "cividis",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "path",  # as text, formulas fall apart where the reader lacks the font
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house style inside a ``with`` block; afterwards everything is as it was."""
    with matplotlib.style.context(["default", _STYLE]):  # "default": a reader's matplotlibrc changes nothing
        yield


def figure(
    width: float = 6.5, height: float | None = None, *, ncols: int = 1, nrows: int = 1, **subplots: Any
) -> tuple[Figure, Any]:
    """A figure and its axes in the house style.

    Args:
        width: Width in inches; 6.5 is the text width of a page.
        height: Height in inches; four fifths of a panel's width for every row if not given.
        ncols: Panels side by side.
        nrows: Panels one above the other.
        **subplots: As for `matplotlib.figure.Figure.subplots`, such as ``sharey=True``.

    Returns:
        The figure, and one Axes or an array of them as `matplotlib.figure.Figure.subplots` gives.
    """
    with style():
        new = Figure(figsize=(width, height or max(0.8 * width / ncols, 2.2) * nrows))
        return new, new.subplots(nrows, ncols, **subplots)


def rasterize_large(fig: Figure, limit: int = 3000) -> None:
    """Make collections of more than ``limit`` marks pixels in vector files; axes and text stay vectors."""
    for marks in fig.findobj(Collection):
        if isinstance(marks, QuadMesh):
            size = np.size(marks.get_coordinates()) // 2
        else:
            size = max(len(np.asarray(marks.get_offsets())), len(marks.get_paths()))
        if size > limit:
            marks.set_rasterized(True)
