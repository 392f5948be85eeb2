"""Scatter plots of bounds against true values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from linflow._support.arrays import is_array, to_numpy
from linflow._support.words import plural
from linflow.plots._canvas import LARGEST, MARKERS, canvas, drawable, log_ticks

ALLOWANCE = 1e-9
"""Largest relative excess of a bound over the true value that counts as rounding."""


def bound_against_truth(
    bounds: Any,
    truths: Any,
    labels: Sequence[str] | None = None,
    ax: Any = None,
    *,
    order: Sequence[str] | None = None,
    allowance: float = ALLOWANCE,
    theme: str | None = None,
) -> Any:
    """Draw lower bounds against the true values on logarithmic axes, with the diagonal that no bound may exceed.

    Points above the diagonal are crossed out and counted as violations. Bounds that are zero, and so say nothing, are
    drawn on the lower edge.

    Args:
        bounds: Lower bounds, shape `(N,)`; or a mapping from names to such bounds.
        truths: The true values, shape `(N,)`, positive.
        labels: The group name of each of the `N` points. Not allowed if `bounds` is a mapping.
        ax: Axes to draw on; new ones if not given.
        order: All group names in the order of the colours, including groups without points. If not given, the groups
            keep the order in which they first appear.
        allowance: Largest relative excess that counts as rounding.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        ValueError: the lengths differ, there are no points, the true values are not all positive, a number is not
            finite or beyond 10^±150, or a name is missing from `order`.

    Example:
        >>> import linflow as lf
        >>> ax = lf.plots.bound_against_truth([0.5, 1.0, 3.0], [1.0, 2.0, 2.0])
        >>> [text.get_text() for text in ax.texts]
        ['1 violation']
    """
    groups = _groups(bounds, truths, labels)
    c = canvas(ax, theme, aspect=0.8)
    positive = np.concatenate([b[b > 0] for b, _ in groups.values()])
    truth = np.concatenate([t for _, t in groups.values()])
    # Bounds below a millionth of the least true value would leave no room for the others.
    low = min(truth.min(), max(positive.min(initial=np.inf), 1e-6 * truth.min())) / 1.6
    high = 1.6 * max(truth.max(), positive.max(initial=0.0))
    line = np.array([low, high])
    c.ax.plot(line, line, color=c.theme.ink, linewidth=0.7, zorder=1, label="_diagonal")
    c.ax.fill_between(line, line, high, color=c.theme.ink, alpha=0.06, linewidth=0, zorder=0)
    crossed = 0
    colours = c.theme.cycle
    small = float(np.interp(np.log10(truth.size), [1, 4], [20, 5])) * (c.size / 7) ** 2
    names = list(groups) if order is None else list(order)
    if missing := [name for name in groups if name not in names]:
        raise ValueError(f"order is {names!r}, in which {missing[0]!r} is missing; name every group.")
    for name, (b, t) in sorted(groups.items(), key=lambda group: names.index(group[0])):
        i = names.index(name)
        colour, wrong = colours[i % len(colours)], b > t * (1 + allowance)
        crossed += int(wrong.sum())
        off = b < low
        shown = ~off & ~wrong
        c.ax.scatter(
            t[shown], b[shown], s=small, marker=MARKERS[i % len(MARKERS)], color=colour, linewidths=0, alpha=0.75,
            zorder=2, label=name or "_bounds",
        )  # fmt: skip
        if off.any():
            c.ax.scatter(
                t[off], np.full(int(off.sum()), low), s=1.3 * small, marker=7, color=colour, linewidths=0,
                clip_on=False, zorder=3, label="_below",
            )  # fmt: skip
        if wrong.any():
            red = c.colour("vermillion" if len(groups) == 1 else "black")
            c.ax.scatter(
                t[wrong], b[wrong], s=2.5 * small + 12, marker="x", color=red, linewidths=1.2, zorder=4,
                label="_violations",
            )  # fmt: skip
    c.ax.set(xscale="log", yscale="log", xlim=(truth.min() / 1.6, high), ylim=(low, high))
    c.ax.set(xlabel="true value", ylabel="lower bound")
    log_ticks(c.ax.xaxis)
    log_ticks(c.ax.yaxis)
    if crossed:
        c.text(
            0.03, 0.97, plural(crossed, "violation"), colour=c.colour("vermillion"),
            transform=c.ax.transAxes, va="top",
        )  # fmt: skip
    if c.own and any(groups):
        c.legend(markerscale=1.4)
    return c.ax


def _groups(bounds: Any, truths: Any, labels: Sequence[str] | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (bounds, truths) of each group by its name. A single group without a name has the name ""."""
    truth = _numbers(truths, "truths")
    if not ((truth > 0) & drawable(truth)).all():
        raise ValueError(
            f"truths holds values that are not positive, or below {1 / LARGEST:g}; a logarithmic axis has no place "
            "for them."
        )
    if isinstance(bounds, Mapping):
        if labels is not None:
            raise ValueError("labels is given, but the bounds have names already; leave it out.")
        found = {str(name): (_numbers(values, f"bounds[{name!r}]"), truth) for name, values in bounds.items()}
    else:
        values = _numbers(bounds, "bounds")
        found = {"": (values, truth)}
        if labels is not None and len(labels) == len(values) == len(truth):
            names = np.asarray([str(label) for label in labels])
            found = {name: (values[names == name], truth[names == name]) for name in dict.fromkeys(names.tolist())}
        elif labels is not None:
            raise ValueError(
                f"there are {len(labels)} labels for {plural(len(values), 'bound')}; one for each is needed."
            )
    for name, (b, t) in found.items():
        if b.shape != t.shape:
            raise ValueError(
                f"{plural(b.size, 'bound', 'are')} given{name and f' as {name!r}'} for {plural(t.size, 'truth')}; "
                "one each is needed."
            )
    if not found or truth.size == 0:
        raise ValueError("there are no bounds to draw.")
    return found


def _numbers(x: Any, name: str) -> np.ndarray:
    values = np.asarray(to_numpy(x) if is_array(x) else [float(v) for v in x], dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values; leave them out.")
    if (np.abs(values) > LARGEST).any():
        raise ValueError(f"{name} holds {values[np.abs(values).argmax()]:.3g}, which no axis can show; leave it out.")
    return values
