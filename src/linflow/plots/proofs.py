"""One figure of the guarantee before a run, the proof by a verified run, and the observed run."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow.certificates import Certificate
from linflow.dynamics import Trajectory
from linflow.plots._canvas import DASHES, canvas, label_ends, log_ticks
from linflow.plots.runs import instants
from linflow.verified import Enclosure

FOR_EVER = (0, (1, 1.5))
"""The dash pattern of the bound that holds at all times after the end of a proof."""

POINTS = 160


def proof(
    enclosure: Enclosure,
    cert: Certificate | None = None,
    run: Trajectory | None = None,
    ax: Any = None,
    *,
    t_max: float | None = None,
    theme: str | None = None,
) -> Any:
    """Draw the proved band of the loss gap, the guarantee before the run, and the observed run.

    All gaps are relative to the gap at the start. The band of a verified run is usually thinner than the line. The
    dotted line after its end is the bound that holds at all later times.

    Args:
        enclosure: A verified flow.
        cert: The certificate of its start, drawn dashed.
        run: A run from its start, drawn as circles.
        ax: Axes to draw on; new ones if not given.
        t_max: End of the time axis; 1.33 times the end of the enclosure if not given.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        ValueError: the enclosure is empty.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
        >>> ax = lf.plots.proof(lf.enclose(f, net), lf.certify(f, net), lf.gradient_flow(f, net))
        >>> ax.get_yscale()
        'log'
    """
    if not enclosure.steps:
        raise ValueError(f"nothing is enclosed, so there is nothing to draw: {enclosure.reason}.")
    c = canvas(ax, theme)
    c.ax.set_yscale("log")
    c.ax.margins(x=0)
    end = enclosure.end
    last = 1.33 * end if t_max is None else t_max
    t = np.linspace(0, min(end, last), POINTS)
    low, high = enclosure.gap_bounds(t)
    if run is not None and not run.optimizer.plain:
        raise ValueError(f"the proof is of the plain flow, and the run has {run.optimizer}; leave the run out.")
    first = enclosure.first[0]
    low, high = np.maximum(low, 1e-3 * high) / first, high / first
    colour = c.colour("blue")
    c.ax.fill_between(t, low, high, color=colour, alpha=0.3, linewidth=0)
    c.ax.plot(t, high, color=colour, linewidth=c.line, label="proved")
    ends: list[Any] = [(float(t[-1]), float(high[-1]), "proved", colour)]
    after = enclosure.certificate
    if after is not None and last > end:
        later = np.linspace(end, last, POINTS // 4)
        y = np.array([after.gap_at(float(x - end)) for x in later]) / first
        c.ax.plot(later, y, linestyle=FOR_EVER, color=colour, linewidth=c.line, label="for ever")
        ends = [(float(later[-1]), float(y[-1]), "proved", colour)]
    if cert is not None and cert.best is not None:
        every = np.linspace(0, last, POINTS)
        promised = np.array([cert.gap_at(float(x)) for x in every]) / first
        orange = c.colour("vermillion")
        c.ax.plot(every, promised, linestyle=DASHES, color=orange, linewidth=0.75 * c.line, label="guaranteed")
        ends.append((float(every[-1]), float(promised[-1]), "guaranteed", orange))
    if run is not None:
        seen = instants(run)
        seen = seen[seen <= last]
        some = seen[np.unique(np.linspace(0, len(seen) - 1, 16).astype(int))]
        gaps = to_numpy(run.gap_at(some)) / float(run.gap[0])
        c.ax.plot(
            some, gaps, "o", markerfacecolor="none", color=c.theme.ink, markersize=0.6 * c.size, label="observed"
        )
    c.ax.set_xlabel("time $t$")
    c.ax.set_ylabel(r"loss gap $\ell(t)/\ell(0)$")
    if c.own:
        log_ticks(c.ax.yaxis)
        label_ends(c, ends)
    return c.ax
