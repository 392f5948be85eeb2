"""One figure of the guarantee before a run, the proof by a verified run, and the observed run."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow._support.arrays import spread, to_numpy
from linflow._support.words import kind_of
from linflow.certificates import Certificate
from linflow.certificates.checking import guaranteed_gaps
from linflow.dynamics import Trajectory
from linflow.model.optimizer import PLAIN, difference
from linflow.plots._canvas import DASHES, canvas, label_ends, log_ticks
from linflow.plots.runs import instants
from linflow.verified.checking import same_flow, same_steps
from linflow.verified.enclosed import EnclosedFlow
from linflow.verified.enclosed_steps import EnclosedSteps

FOR_EVER = (0, (1, 1.5))
"""The dash pattern of the bound that holds at all times after the end of a proof."""

POINTS = 160


def proof(
    enclosure: EnclosedFlow | EnclosedSteps,
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
        enclosure: A verified flow or descent. The time of a descent is the sum of its steps.
        cert: The certificate of its start, drawn dashed.
        run: A run from its start, drawn as circles.
        ax: Axes to draw on; new ones if not given.
        t_max: End of the time axis; 1.33 times the end of the enclosure if not given.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        TypeError: the enclosure is no proof.
        ValueError: the enclosure is empty, the certificate is of another start or algorithm, or the run has another
            optimizer.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
        >>> ax = lf.plots.proof(lf.enclose(f, net), lf.certify(f, net), lf.gradient_flow(f, net))
        >>> ax.get_yscale()
        'log'
    """
    if not isinstance(enclosure, EnclosedFlow | EnclosedSteps):
        raise TypeError(f"enclosure is {kind_of(enclosure)}; a proof of linflow.enclose is needed.")
    if not enclosure.steps:
        raise ValueError(f"nothing is enclosed, so there is nothing to draw: {enclosure.reason}.")
    flow = isinstance(enclosure, EnclosedFlow)
    if cert is not None:
        if flow:
            same_flow(cert, enclosure)
        else:
            same_steps(cert, enclosure)
    optimizer = PLAIN if flow else enclosure.optimizer
    if run is not None and (unlike := difference(optimizer, run.optimizer, "the proof", "the run")):
        raise ValueError(f"{unlike}; leave the run out.")
    c = canvas(ax, theme)
    c.ax.set_yscale("log")
    c.ax.margins(x=0)
    end = float(enclosure.t[-1])
    last = 1.33 * end if t_max is None else t_max
    t, low, high = _band(enclosure, min(end, last))
    first = float(low[0])
    low, high = np.maximum(low, 1e-3 * high) / first, high / first
    colour = c.colour("blue")
    c.ax.fill_between(t, low, high, color=colour, alpha=0.3, linewidth=0)
    c.ax.plot(t, high, color=colour, linewidth=c.line, label="proved")
    ends: list[Any] = [(float(t[-1]), float(high[-1]), "proved", colour)]
    after = enclosure.certificate if flow else None
    if after is not None and last > end:
        later = np.linspace(end, last, POINTS // 4)
        y = np.array([after.gap_at(float(x - end)) for x in later]) / first
        c.ax.plot(later, y, linestyle=FOR_EVER, color=colour, linewidth=c.line, label="for ever")
        ends = [(float(later[-1]), float(y[-1]), "proved", colour)]
    if cert is not None and cert.best is not None:
        every, promised = _promised(cert, enclosure, last)
        promised = promised / first
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


def _band(enclosure: EnclosedFlow | EnclosedSteps, last: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times up to `last`, and the lower and upper bounds of the gap there; those of a descent at its steps."""
    if isinstance(enclosure, EnclosedFlow):
        t = np.linspace(0, last, POINTS)
        return t, *enclosure.gap_bounds(t)
    k = spread(int(np.searchsorted(enclosure.t, last, side="right")), POINTS)
    return enclosure.t[k], *enclosure.gap_bounds(k)


def _promised(
    cert: Certificate, enclosure: EnclosedFlow | EnclosedSteps, last: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return times up to `last` and the guaranteed gaps; those of a descent by the number of steps done.

    A constant step goes on beyond the proof, the steps of a schedule are known as far as the proof goes.
    """
    if isinstance(enclosure, EnclosedFlow):
        every, done = np.linspace(0, last, POINTS), None
    else:
        eta, every = enclosure.step_size, enclosure.t
        if eta is not None:
            every = eta * np.arange(int(last / eta) + 1)
        done = spread(int(np.searchsorted(every, last, side="right")), POINTS)
        every = every[done]
    return every, np.min([guaranteed_gaps(g, every, done) for g in cert.guarantees if g.applies], axis=0)
