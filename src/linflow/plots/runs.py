"""Plots of the loss gaps and rates of runs, observed and guaranteed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.ticker import ScalarFormatter

from linflow._support.arrays import to_numpy
from linflow._support.words import kind_of, plural
from linflow.certificates import Certificate
from linflow.dynamics import Failure, Trajectory
from linflow.model.optimizer import difference
from linflow.plots._canvas import DASHES, MARKERS, Canvas, canvas, from_zero, label_ends, legend, log_ticks

FEW = 6
"""Largest number of runs with a colour, marker and name of their own."""

WIDE = 30.0
"""Ratio of rates above which the smaller ones would look like zero on a linear axis."""

Curve = tuple[np.ndarray, np.ndarray]


def convergence(
    run: Trajectory | Sequence[Trajectory],
    cert: Certificate | Sequence[Certificate | None] | None = None,
    ax: Any = None,
    *,
    labels: Sequence[str] | None = None,
    named: bool | None = None,
    shade: bool | None = None,
    theme: str | None = None,
    **line: Any,
) -> Any:
    """Draw the loss gap of runs relative to the start, and the guarantees of their certificates, dashed.

    At each time, the best guarantee is drawn. Up to six runs differ in colour and marker; markers are filled for
    observed gaps and hollow for guarantees. More than six runs are thin lines with their median. If curves are not
    named, the lines carry `labels` for a legend.

    Args:
        run: A run of `gradient_flow` or `gradient_descent`, or several.
        cert: The certificate of the run, or one per run (None for a run without), or one for all runs if they start
            at the same weights.
        ax: Axes to draw on; new ones if not given.
        labels: Names of the runs.
        named: Whether to name curves at their ends, or in a legend if there is no room. If not given, they are named
            on new axes only.
        shade: Whether to tint the area between run and guarantee. If not given, it is tinted for a single named run.
        theme: "light" or "dark"; that of the axes if not given.
        **line: Options for the curves, such as ``color``, or ``label`` for a single run.

    Returns:
        The Axes.

    Raises:
        TypeError: `run` holds no runs, or `cert` holds no certificates.
        ValueError: the numbers of runs, certificates and labels differ, or a certificate is of another start.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
        >>> ax = lf.plots.convergence(lf.gradient_flow(f, net), lf.certify(f, net))
        >>> ax.get_yscale()
        'log'
    """
    runs, certs = checked(run, cert)
    c = canvas(ax, theme, named=named)
    c.ax.set_yscale("log")

    def observed(run: Trajectory) -> Curve:
        t = instants(run)
        return t, to_numpy(run.gap_at(t)) / float(run.gap[0])

    _draw(c, runs, certs, observed, _promised, labels, shade, line)
    c.ax.set_ylabel(r"loss gap $\ell(t)/\ell(0)$")
    return c.ax


def rate(
    run: Trajectory | Sequence[Trajectory],
    cert: Certificate | Sequence[Certificate | None] | None = None,
    ax: Any = None,
    *,
    labels: Sequence[str] | None = None,
    named: bool | None = None,
    shade: bool | None = None,
    theme: str | None = None,
    **line: Any,
) -> Any:
    """Draw the instantaneous rate of runs, and the rate that their certificates guarantee at each gap, dashed.

    The rate of a flow is `−ℓ̇/ℓ`. The rate of a descent is the mean `−Δ(log ℓ)/Δt` from each record to the next, as
    in its guarantees. If a flow recorded λ_min(T) and has a certificate, the lower limit `γ λ_min(T)` of its rate is
    dotted. On axes made here, or if names are requested, rates that differ 30-fold get a logarithmic axis. The time
    axis is then logarithmic too if most of this change happens at the beginning.

    Args:
        run: A run of `gradient_flow` or `gradient_descent`, or several.
        cert: The certificates, as for `convergence`.
        ax: Axes to draw on; new ones if not given.
        labels: Names of the runs.
        named: Whether to name curves at their ends, or in a legend if there is no room. If not given, they are named
            on new axes only.
        shade: Whether to tint the area between run and guarantee. If not given, it is tinted for a single named run.
        theme: "light" or "dark"; that of the axes if not given.
        **line: Options for the curves, such as ``color``, or ``label`` for a single run.

    Returns:
        The Axes.

    Raises:
        TypeError: `run` holds no runs, or `cert` holds no certificates.
        ValueError: the numbers of runs, certificates and labels differ, or a certificate is of another start.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
        >>> observed, promised = lf.plots.rate(lf.gradient_flow(f, net), lf.certify(f, net)).lines
        >>> bool((promised.get_ydata() <= observed.get_ydata()).all())
        True
    """
    runs, certs = checked(run, cert)
    c = canvas(ax, theme, named=named)

    def guaranteed(cert: Certificate, run: Trajectory, t: np.ndarray) -> np.ndarray:
        return np.array([cert.rate_at(float(gap)) for gap in to_numpy(run.gap_at(t))])

    _draw(c, runs, certs, rates, guaranteed, labels, shade, line, operator=True)
    c.ax.set_ylabel(r"instantaneous rate $-\dot\ell/\ell$")
    return c.ax


def checked(run: Any, cert: Any) -> tuple[list[Trajectory], list[Certificate | None]]:
    """Return the runs, and a certificate or None for each. A single certificate for all goes to the first run.

    Raises:
        TypeError: something is not a run or not a certificate.
        ValueError: there are no runs, the numbers differ, or a certificate is of another start.
    """
    if not isinstance(run, Trajectory | Sequence):
        raise TypeError(f"run is {kind_of(run)}; a Trajectory of gradient_flow or gradient_descent is needed.")
    runs = [run] if isinstance(run, Trajectory) else list(run)
    for i, one in enumerate(runs):
        if isinstance(one, Failure):
            raise TypeError(f"run {i} failed ({one.error}: {one.reason}); leave it out.")
        if not isinstance(one, Trajectory):
            raise TypeError(f"run {i} is {kind_of(one)}; a Trajectory is needed.")
    if not runs:
        raise ValueError("there are no runs to draw.")
    if cert is None or isinstance(cert, Certificate):
        certs = [cert] + [None] * (len(runs) - 1)
    elif isinstance(cert, Sequence):
        certs = list(cert)
    else:
        raise TypeError(f"cert is {kind_of(cert)}; a Certificate of linflow.certify is needed.")
    if len(certs) != len(runs):
        raise ValueError(
            f"there are {len(certs)} certificates for {plural(len(runs), 'run')}; one for each is needed, or None."
        )
    for i, (one, its) in enumerate(zip(runs, certs, strict=True)):
        if its is not None:
            _belongs(its, one, i)
    return runs, certs


def _belongs(cert: Any, run: Trajectory, i: int) -> None:
    """Raise unless the certificate is for the start and the algorithm of its run."""
    if not isinstance(cert, Certificate):
        raise TypeError(f"cert {i} is {kind_of(cert)}; a Certificate of linflow.certify is needed.")
    # The same sum of squares can round differently in the memory layout of the run.
    if not math.isclose(cert.gap, float(run.gap[0]), rel_tol=1e-6):
        raise ValueError(
            f"run {i} began at the loss gap {float(run.gap[0]):.4g}, but its certificate is of a start at "
            f"{cert.gap:.4g}; certify the start of the run."
        )
    if cert.algorithm != run.algorithm:
        raise ValueError(f"run {i} is a {run.algorithm}, but its certificate is for a {cert.algorithm}.")
    if unlike := difference(cert.optimizer, run.optimizer, "its certificate", f"run {i}"):
        raise ValueError(f"{unlike}.")
    eta, taken = cert.step_size, run.step_size
    if eta is not None and not (taken is not None and math.isclose(taken, eta, rel_tol=1e-12)):
        steps = "the steps of a schedule" if taken is None else f"the step {taken:g}"
        raise ValueError(f"run {i} took {steps}, but its certificate is for the constant step {eta:g}.")


def sound(run: Trajectory) -> int:
    """Return the number of records, at least one, before the first gap that is not finite and positive.

    If the run ended well, these are all records.
    """
    gap = to_numpy(run.gap)
    bad = np.flatnonzero(~(np.isfinite(gap) & (gap > 0)))
    return max(int(bad[0]), 1) if bad.size else len(gap)


def instants(run: Trajectory, count: int = 300) -> np.ndarray:
    """Return instants that are dense enough for a smooth curve, on a linear or a logarithmic time axis.

    The instants of a flow can lie anywhere. Those of a descent are records, and keep the extremes of its gap.
    """
    t = to_numpy(run.t)[: sound(run)]
    if len(t) < 2:
        return t[:1]
    end = float(t[-1])
    # A flow whose rate falls by orders of magnitude begins with steps far shorter than the run.
    first = max(min(1e-4 * end, float(t[1])), 1e-12 * end)
    wanted = np.union1d(np.linspace(0, end, count), np.geomspace(first, end, count))
    if run.algorithm == "flow":
        # The integrator's steps are dense where the gap bends.
        return np.minimum(np.union1d(wanted, t[np.unique(np.linspace(0, len(t) - 1, count).astype(int))]), end)
    if len(t) <= 2 * count:
        return t
    # A descent can oscillate from step to step, so each bin keeps its least and its greatest gap.
    gap = to_numpy(run.gap)[: len(t)]
    edges = np.unique(np.searchsorted(t, wanted))
    kept = {0, len(t) - 1}
    for first, last in pairwise(edges):
        part = gap[first:last]
        kept |= {int(first), int(first + part.argmin()), int(first + part.argmax())}
    return t[sorted(kept)]


def rates(run: Trajectory) -> Curve:
    """Return instants and the rates there.

    The rate of a flow is the slope of the interpolated log gap. The rate of a descent is the mean until the next
    instant.
    """
    t = instants(run)
    if len(t) < 2:
        return t, to_numpy(run.rate)[:1]
    if run.algorithm != "flow":
        return t[:-1], -np.diff(np.log(to_numpy(run.gap_at(t)))) / np.diff(t)
    # A difference quotient over a thousandth of the way to the next instant, but at least 10⁻¹⁰ of the run, which
    # avoids rounding.
    step = np.maximum(1e-3 * np.gradient(t), 1e-10 * t[-1])
    low, high = np.maximum(t - step, 0), np.minimum(t + step, t[-1])
    fall = np.log(to_numpy(run.gap_at(low))) - np.log(to_numpy(run.gap_at(high)))
    y, recorded = fall / (high - low), to_numpy(run.t)
    at = np.minimum(np.searchsorted(recorded, t), len(recorded) - 1)
    return t, np.where(recorded[at] == t, to_numpy(run.rate)[at], y)


def _check_drawable(runs: list[Trajectory], labels: Sequence[str] | None) -> None:
    """Raise ValueError if a run starts with no loss gap, or if there is not one label per run."""
    if labels is not None and len(labels) != len(runs):
        raise ValueError(f"there are {len(labels)} labels for {plural(len(runs), 'run')}; one for each is needed.")
    for i, run in enumerate(runs):
        if not float(run.gap[0]) > 0:
            raise ValueError(f"run {i} began at the minimum; there is no loss gap to draw.")


def _promised(cert: Certificate, run: Trajectory, t: np.ndarray) -> np.ndarray:
    """Return the guaranteed gaps relative to the first. If step sizes change, they follow from the steps done."""
    if cert.schedule is None or run.step_sizes is None:
        return np.array([cert.gap_at(float(x)) for x in t]) / float(run.gap[0])
    times = np.cumsum(np.concatenate([[0.0], to_numpy(run.step_sizes)]))
    done = np.searchsorted(times, t).tolist()
    return np.array([min([cert.gap, *(g.gap_after(k) for g in cert.guarantees)]) for k in done]) / cert.gap


def _floor(cert: Certificate, run: Trajectory) -> Curve | None:
    """Return `γ λ_min(T)` along a flow that recorded it, or None if there is no such record or `γ = 0`."""
    gamma = cert.setting.gamma
    if run.algorithm != "flow" or run.least_eigenvalue is None or gamma == 0:
        return None
    return to_numpy(run.t)[: sound(run)], gamma * to_numpy(run.least_eigenvalue)[: sound(run)]


def _draw(
    c: Canvas,
    runs: list[Trajectory],
    certs: list[Certificate | None],
    observed: Callable[[Trajectory], Curve],
    guaranteed: Callable[[Certificate, Trajectory, np.ndarray], np.ndarray],
    labels: Sequence[str] | None,
    shade: bool | None,
    line: dict[str, Any],
    *,
    operator: bool = False,
) -> None:
    """Draw every run as a solid line and every guarantee as a dashed line, and name them."""
    _check_drawable(runs, labels)
    ax, few = c.ax, len(runs) <= FEW
    ax.margins(x=0)  # a margin instead of limits, so that a logarithmic time axis begins after 0
    between = (c.own and len(runs) == 1) if shade is None else shade
    look = {"linewidth": c.line if few else 0.5 * c.line, **line}
    if not few:
        look = {"color": c.colour("blue"), "alpha": 0.4, **look}
    ends, inner, used = [], [], None
    for i, (run, cert) in enumerate(zip(runs, certs, strict=True)):
        t, y = observed(run)
        name = labels[i] if labels is not None else look.get("label", f"_run {i}")
        mark = {"marker": MARKERS[i], "markevery": (0.06 + 0.03 * i, 0.24)} if 1 < len(runs) <= FEW else {}
        (curve,) = ax.plot(t, y, **{**mark, "markersize": 0.5 * c.size, **look, "label": name})
        colour = curve.get_color()
        ends.append((float(t[-1]), float(y[-1]), name, colour))
        if cert is None or cert.best is None:
            continue
        promised = guaranteed(cert, run, t)
        hollow = {"markerfacecolor": c.theme.paper, "markeredgewidth": 0.8} if mark else {}
        shared = len(runs) > 1 and sum(its is not None for its in certs) == 1
        used = c.theme.ink if shared else colour
        ax.plot(
            t, promised, linestyle=DASHES, color=used, linewidth=0.75 * look["linewidth"], alpha=look.get("alpha"),
            label=f"_guaranteed {i}", **({} if shared else mark), markersize=0.45 * c.size, **hollow,
        )  # fmt: skip
        if between:
            ax.fill_between(t, promised, y, color=colour, alpha=0.12, linewidth=0, zorder=0)
        if operator and (floor := _floor(cert, run)) is not None:
            ax.plot(*floor, ":", color=colour, linewidth=0.9 * look["linewidth"], label=f"_operator {i}")
            inner.append((float(t[-1]), float(floor[1][-1]), r"$\gamma\lambda_{\min}(T)$", colour))
        if len(runs) == 1:
            inner.append((float(t[-1]), float(promised[-1]), "guaranteed", colour))
    if not few:
        _median(c, runs, observed)
    constant = all(run.algorithm == "descent" and run.step_size for run in runs)
    ax.set_xlabel(r"time $t=\eta k$" if constant else "time $t$")
    if c.own:
        if operator:
            _rate_axes(c)
        else:
            log_ticks(ax.yaxis)
        _few_digits(ax.xaxis)
        _name(c, ends, inner, labelled=labels is not None, certified=used is not None)


def _rate_axes(c: Canvas) -> None:
    """Choose scales on which every rate can be read: linear from 0, or logarithmic if the rates differ too much."""
    curves = [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in c.ax.lines]
    seen = [y for line, (_, y) in zip(c.ax.lines, curves, strict=True) if line.get_linestyle() == "-"]
    drawn = np.concatenate([y for _, y in curves])
    positive = drawn[drawn > 0]
    # A guarantee of 0 can lie below a logarithmic axis. An observed rate of 0 must be on the axis.
    if any((y <= 0).any() for y in seen) or positive.max() < WIDE * positive.min():
        from_zero(c, c.ax.lines[-1])
        _few_digits(c.ax.yaxis)
        return
    c.ax.set_yscale("log")
    log_ticks(c.ax.yaxis)
    if any(_early(t, y) for (t, y), line in zip(curves, c.ax.lines, strict=True) if line.get_linestyle() == "-"):
        c.ax.set_xscale("log")
        log_ticks(c.ax.xaxis)


def _few_digits(axis: Any) -> None:
    """Put a power of ten at the end of a linear axis instead of many zeros at each tick."""
    form = axis.get_major_formatter()
    if isinstance(form, ScalarFormatter):
        form.set_powerlimits((-3, 4))


def _early(t: np.ndarray, y: np.ndarray) -> bool:
    """Return whether y changes over 30-fold, with over half of the change in log y in the first 2 % of the time."""
    level = np.log(y)
    late = level[t >= 0.02 * t[-1]]
    return bool(np.ptp(level) > np.log(WIDE) and np.ptp(late) < 0.5 * np.ptp(level))


def _median(c: Canvas, runs: list[Trajectory], observed: Callable[[Trajectory], Curve]) -> None:
    """Draw the median of many runs over the time interval that all of them cover."""
    curves = [observed(run) for run in runs]
    end = min(float(t[-1]) for t, _ in curves)
    shared = np.union1d(np.linspace(0, end, 200), np.geomspace(1e-4 * end, end, 200)) if end > 0 else np.zeros(1)
    middle = np.median([np.interp(shared, t, y) for t, y in curves], axis=0)
    c.ax.plot(shared, middle, color=c.theme.ink, linewidth=1.3 * c.line, label="_median")


def _name(c: Canvas, ends: list[Any], inner: list[Any], *, labelled: bool, certified: bool) -> None:
    """Name the curves at their ends, or in a legend if there is no room, and explain the line styles."""
    kinds = [("observed", "-"), ("guaranteed", DASHES)] if certified else []
    if len(ends) == 1:
        if inner:
            x, y, name, colour = ends[0]
            label_ends(c, [(x, y, name if labelled else "observed", colour), *inner])
        return
    kinds += [(inner[0][2], ":")] if inner else []
    if len(ends) > FEW:
        forms = [*legend(c, *kinds, colour=c.colour("blue")), *legend(c, ("median", "-"))]
    else:
        forms = legend(c, *kinds)
        if labelled and not label_ends(c, ends):
            forms = [handle for handle in c.ax.lines if not str(handle.get_label()).startswith("_")] + forms
    if forms:
        c.legend(forms)
