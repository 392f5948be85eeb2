"""Reading a sweep: its table, and plots of one column over another with bands over seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.paths import LIMIT
from linflow.sweeps.rows import SCHEMA, SETTINGS

ALIASES = {
    **SETTINGS,
    "start.scale": "multiplier",
    "scale": "multiplier",
    "factor": "output_scale",
    "descent.step_size": "step_size",
    "bound": "certified_rate",
    "truth": "least_rate",
}
"""Other names of columns: the names of settings in a grid, former names, and clearer names."""
BAND = (10.0, 90.0)
"""Percentiles that bound the band over seeds."""
MOST_GROUPS = 8
MOST_DOTS = 40
"""The most places on the x axis at which dots are drawn."""
MOST_WORDS = 500
ROOM = 50
"""The most characters of labels below a plot before they are rotated."""


def read_results(folder: str | os.PathLike[str], columns: Sequence[str] | None = None, *, limit: int = LIMIT) -> Any:
    """Return the table of a sweep, or some of its columns. While the sweep runs, it has the cells written so far.

    Args:
        folder: the folder of the sweep.
        columns: the names of the columns to read; all if not given.
        limit: the most bytes that the table may take.

    Raises:
        OSError: no such folder, or no sweep in it.
        ValueError: an unknown column, or a table that would be too large.
    """
    from linflow.sweeps.grid_file import recorded_grid  # noqa: PLC0415 - this module is useful without them
    from linflow.sweeps.store import Store  # noqa: PLC0415

    columns = [columns] if isinstance(columns, str) else columns
    for name in columns or ():
        checks.choice(name, "column", SCHEMA.names)
    store = Store(folder, make=False)
    return store.results(recorded_grid(folder).ids, columns, limit)


def plot_sweep(
    source: Any,
    x: str = "width",
    y: str = "rate",
    hue: str | None = None,
    ax: Any = None,
    *,
    theme: str | None = None,
) -> Any:
    """Draw the median of one column over another, with a band from the 10th to the 90th percentile.

    The band covers everything that varies besides x and hue, mainly the seeds. Failed cells and numbers that no axis
    can show, beyond 10^±150 or not finite, are left out. An axis is logarithmic if all its values are positive and
    span more than a factor of 20.

    Args:
        source: the folder of a sweep, or its table (of pyarrow or pandas).
        x: a column of numbers, or of words, which are then placed side by side.
        y: a column of numbers. "rate" is the observed rate; "bound" and "truth" stand for the certified and the least
            observed rate.
        hue: a column; each of its values gets a curve.
        ax: Axes to draw on; new ones if not given.
        theme: "light" or "dark".

    Returns:
        The Axes.

    Raises:
        ValueError: an unknown column, no cells, or more than eight values of hue.

    Example:
        >>> import pyarrow as pa
        >>> from linflow.sweeps import plot_sweep
        >>> rows = [(w, w * s, s) for w in (10, 100) for s in (1.0, 2.0)]
        >>> table = pa.table({"width": [r[0] for r in rows], "rate": [r[1] for r in rows], "status": ["ok"] * 4})
        >>> ax = plot_sweep(table, x="width", y="rate")
        >>> ax.lines[0].get_ydata().tolist()
        [15.0, 150.0]
    """
    from linflow.plots._canvas import canvas, drawable, label_text  # noqa: PLC0415 - matplotlib is slow to import

    names = {role: ALIASES.get(name, name) for role, name in (("x", x), ("y", y), ("hue", hue)) if name}
    columns = _columns(source, names)
    values = _numbers(columns["y"])
    if values is None:
        raise ValueError(f"y is {y!r}, whose values are not numbers; use rate, bound, truth, tightness or time.")
    at, words = _numbers(columns["x"]), []
    if at is None:
        words = in_order(columns["x"])
        if len(words) > MOST_WORDS:
            raise ValueError(f"{x} has {len(words)} values that are words; at most {MOST_WORDS} can be placed.")
        place = {word: i for i, word in enumerate(words)}
        at = np.array([place[word] for word in columns["x"]], dtype=np.float64)
    keep = drawable(values) & drawable(at)
    if not keep.any():
        raise ValueError(f"no cell has numbers for {x} and {y}; there is nothing to draw.")
    groups = columns["hue"] if hue else [""] * len(values)
    every = in_order(groups)  # each value has its colour, even if nothing is drawn for it
    drawn = {group for group, kept in zip(groups, keep, strict=True) if kept}
    known = [group for group in every if group in drawn]
    if len(known) > MOST_GROUPS:
        raise ValueError(f"{hue} has {len(known)} values; a hue with {MOST_GROUPS} at most is needed.")
    c = canvas(ax, theme)
    for group in known:
        mine = keep & np.array([one == group for one in groups])
        places, spread = _bands(at[mine], values[mine])
        colour = c.theme.cycle[every.index(group) % len(c.theme.cycle)]
        dot = {"marker": "o", "markersize": 3} if len(places) <= MOST_DOTS else {}
        c.ax.plot(places, spread[:, 1], color=colour, linewidth=c.line, label=label_text(group) or "_", **dot)
        c.ax.fill_between(places, spread[:, 0], spread[:, 2], color=colour, alpha=0.2, linewidth=0, label="_band")
    if words:
        c.ax.set_xticks(range(len(words)), texts := [label_text(word) for word in words])
        if len("  ".join(texts)) > ROOM:
            c.ax.tick_params(axis="x", labelrotation=90)
    elif _wide(at[keep]):
        c.ax.set_xscale("log")
    if _wide(values[keep]):
        c.ax.set_yscale("log")
    c.ax.set(xlabel=_label(names["x"]), ylabel=_label(names["y"]))
    if hue:
        c.legend(title=_label(hue))
    return c.ax


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, in the order in which they get their colours."""
    return sorted(set(values), key=_order)


def _columns(source: Any, names: dict[str, str]) -> dict[str, list[Any]]:
    """Return columns of the cells that did not fail, with lists as tuples and missing values as None."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    if isinstance(source, (str, os.PathLike)):
        table = read_results(source, list(dict.fromkeys([*names.values(), "status"])))
    else:
        table = source if isinstance(source, pa.Table) else pa.table(source)  # a DataFrame
        for name in names.values():
            checks.choice(name, "column", table.column_names)
    if "status" in table.column_names:
        table = table.filter(pa.array([status == "ok" for status in table["status"].to_pylist()], pa.bool_()))
    return {
        role: [
            tuple(v) if isinstance(v, list) else None if isinstance(v, float) and math.isnan(v) else v
            for v in table[name].to_pylist()
        ]
        for role, name in names.items()
    }


def _numbers(column: list[Any]) -> np.ndarray | None:
    """Return a column as numbers, with NaN for missing values; None if some values are not numbers."""
    if all(v is None or isinstance(v, (int, float)) for v in column):
        return np.array([math.nan if v is None else v for v in column], dtype=np.float64)
    return None


def _bands(at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct places, and the lower end, median and upper end of the values at each."""
    order = np.argsort(at, kind="stable")
    places, first = np.unique(at[order], return_index=True)
    pieces = np.split(values[order], first[1:])
    return places, np.array([np.percentile(piece, (BAND[0], 50.0, BAND[1])) for piece in pieces])


def _order(value: Any) -> tuple[int, Any]:
    """Return a key that sorts numbers first, then lists of numbers, then words, and missing values last."""
    if value is None:
        return 3, 0
    return (0 if isinstance(value, (int, float)) else 1 if isinstance(value, tuple) else 2), value


def _label(name: str) -> str:
    return name[0].upper() + name[1:].replace("_", " ")


def _wide(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > 20 * values.min())
