"""Figures in one style: readable in print and on screen, safe for colour-blind readers.

Nothing here imports pyplot, shows a window or leaves a trace in ``matplotlib.rcParams``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from cycler import cycler
from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure

from linflow._arrays import to_numpy

if TYPE_CHECKING:
    from linflow.certificates import Certificate
    from linflow.dynamics import Trajectory
    from linflow.imbalance import ImbalanceSpectrum

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
_BOTH_WAYS = {"arrowstyle": "<->", "linewidth": 0.8, "color": _INK, "shrinkA": 0, "shrinkB": 0}
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


def convergence(run: Trajectory, cert: Certificate | None = None, ax: Any = None, **line: Any) -> Any:
    """Draw the loss gap of a run over its start, and the guarantee of its certificate, dashed.

    Args:
        run: A run of `gradient_flow` or `gradient_descent`.
        cert: Its certificate; the best of its guarantees at each time is drawn where one applies.
        ax: Axes to draw on; new ones if not given.
        **line: For the curve, such as ``color`` and ``label``.

    Returns:
        The Axes.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
        >>> ax = lf.plots.convergence(lf.gradient_flow(f, net), lf.certify(f, net))
        >>> ax.get_yscale()
        'log'
    """
    ax = figure(4.5)[1] if ax is None else ax
    t, first = _instants(run), to_numpy(run.gap)[0]
    (curve,) = ax.semilogy(t, to_numpy(run.gap_at(t)) / first, **line)
    if cert is not None and cert.best is not None:
        promised = np.array([cert.gap_at(float(x)) for x in t]) / first
        ax.semilogy(t, promised, "--", color=curve.get_color(), linewidth=1)
    ax.set(xlabel="time $t$", ylabel="loss gap over its start", xlim=(0, t[-1]))
    return ax


def _instants(run: Trajectory) -> np.ndarray:
    """Instants dense enough for a smooth curve on a linear as on a logarithmic time axis."""
    end = float(run.t[-1])
    return np.union1d(np.linspace(0, end, 300), np.geomspace(1e-4 * end, end, 300)) if end > 0 else np.zeros(1)


def rate(run: Trajectory, cert: Certificate | None = None, ax: Any = None, **line: Any) -> Any:
    """Draw the instantaneous rate of a run, and the rate its certificate guarantees at each gap, dashed.

    Args:
        run: A run of `gradient_flow` or `gradient_descent`.
        cert: Its certificate.
        ax: Axes to draw on; new ones if not given.
        **line: For the curve, such as ``color`` and ``label``.

    Returns:
        The Axes.
    """
    ax = figure(4.5)[1] if ax is None else ax
    t = to_numpy(run.t)
    (curve,) = ax.plot(t, to_numpy(run.rate), **line)
    if cert is not None and cert.best is not None:
        promised = [cert.rate_at(float(gap)) for gap in to_numpy(run.gap)]
        ax.plot(t, promised, "--", color=curve.get_color(), linewidth=1)
    ax.set(xlabel="time $t$", ylabel=r"instantaneous rate $-\dot L/(L-f^\ast)$", xlim=(0, t[-1]))
    return ax


def imbalance_spectrum(spectrum: ImbalanceSpectrum, n: int, m: int, ax: Any = None) -> Any:
    """Draw the n largest and m least eigenvalues of an imbalance with its gap and spreads.

    Args:
        spectrum: From `imbalance_spectrum`, of a layer wider than n + m.
        n: Rows of the product.
        m: Columns of the product.
        ax: Axes to draw on; new ones if not given.

    Returns:
        The Axes.
    """
    ax = figure(4.5)[1] if ax is None else ax
    values = to_numpy(spectrum.eigenvalues)
    top, bottom = values[:n], values[-m:]
    ax.axhspan(bottom[0], top[-1], color=COLOURS["sky"], alpha=0.25, linewidth=0)
    ax.plot(np.arange(1, n + 1), top, "o", color=COLOURS["blue"])
    ax.plot(np.arange(n + 1, n + m + 1), bottom, "s", color=COLOURS["vermillion"])
    middle = n + 0.5
    ax.annotate("", (middle, bottom[0]), (middle, top[-1]), arrowprops=_BOTH_WAYS)
    ax.text(middle + 1, (top[-1] + bottom[0]) / 2, rf"gap $\Delta$ = {spectrum.gap:.2f}", va="center")
    end = n + m + 1.2
    for ends, name, value in (
        ((top[0], top[-1]), r"$\Delta_+$", spectrum.positive_spread),
        ((bottom[0], bottom[-1]), r"$\Delta_-$", spectrum.negative_spread),
    ):
        ax.annotate("", (end, ends[0]), (end, ends[1]), arrowprops=_BOTH_WAYS, annotation_clip=False)
        ax.text(end + 0.5, sum(ends) / 2, f"{name} = {value:.2f}", va="center")
    ax.set(xlabel="index", ylabel="eigenvalue of $D$", xlim=(0, end + 8))
    ax.set_xticks([1, n, n + m])
    return ax
