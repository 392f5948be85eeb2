"""The report on a sweep: bounds against the truth over all cells, the tightest and loosest cells, and failures."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support.own_files import refuse_foreign_files
from linflow._support.paths import write_whole
from linflow._support.toml import read_toml
from linflow._support.words import plural, verb_for
from linflow.pages.templating import environment, number, svg
from linflow.sweeps.reading import ALIASES, in_order
from linflow.sweeps.rows import SCHEMA

EXTREMES = 5
"""How many of the tightest and of the loosest cells are listed."""
MOST_REASONS = 20
MOST_LABELS = 7
READ = "weights"
"""The label of starts that were read from a file instead of drawn."""
NUMBERS = ("status", "failure", "reason", "certified_rate", "least_rate", "certified_time", "time", "tightness",
           "certificate", "holds", "versions", "init", "id")  # fmt: skip


def write_report(folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write a page on a sweep. If the sweep still runs, the page covers the finished cells.

    Args:
        folder: the folder of the sweep.
        path: the file to write; by default `report.html` in the folder.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        OSError: no sweep in the folder, no room, or a file at `path` that linflow has not written.
    """
    from linflow.sweeps.grid_file import GRID, recorded_grid  # noqa: PLC0415 - slow to import
    from linflow.sweeps.store import Store  # noqa: PLC0415

    store = Store(folder, make=False)
    target = store.folder / "report.html" if path is None else Path(path)
    refuse_foreign_files([target])
    grid = recorded_grid(folder)
    # Width and depth have columns of their own if the grid names them, and so do the steps that were taken.
    varied = [(name, ALIASES.get(name, name)) for name in grid.varied]
    varied = [(name.rpartition(".")[2], column) for name, column in varied if column in SCHEMA.names]
    names = list(dict.fromkeys([*NUMBERS, *(column for _, column in varied)]))
    rows = store.results(grid.ids, names).to_pylist()
    ended = [r for r in rows if r["status"] == "ok"]
    # A run that starts at a minimum shows only rounding, so it has no rates.
    seen = [r for r in ended if r["least_rate"] is not None and math.isfinite(r["least_rate"])]
    good = [r for r in seen if r["least_rate"] > 0]
    sure = sorted(
        (r for r in good if r["certified_rate"] > 0 and math.isfinite(r["tightness"] or math.nan)),
        key=lambda r: (-r["tightness"], r["id"]),
    )
    reasons = Counter((r["failure"], r["reason"]) for r in rows if r["status"] != "ok").most_common()
    above = sum(r["certified_rate"] > max(r["least_rate"] * (1 + 1e-9), 0.0) for r in seen)
    verdict, holds = _verdict(len(rows), len(ended), len(sure), above, sum(r["holds"] is False for r in rows))
    page = environment().get_template("sweep.html.j2").render(
        total=len(rows),
        verdict=verdict,
        holds=holds,
        lines=_lines(rows, ended, sure, len(np.unique(grid.ids))),
        varied=varied,
        drawing=_drawing(good, ended),
        tightest=sure[:EXTREMES],
        loosest=sure[::-1][:EXTREMES],
        failures=reasons[:MOST_REASONS],
        unlisted=max(0, len(reasons) - MOST_REASONS),
        toml=read_toml(store.folder / GRID, links=False)[1],
        versions="; ".join(sorted({r["versions"] for r in rows})),
        number=number,
        text=_text,
        many=plural,
    )  # fmt: skip
    write_whole(target, page)
    return target


def _verdict(total: int, ended: int, sure: int, above: int, broken: int) -> tuple[str, bool]:
    """Return the verdict on the bounds, and whether it is good."""
    if broken:
        return f"{plural(broken, 'run')} broke {'its' if broken == 1 else 'their'} certificate", False
    if above:
        return f"{plural(above, 'bound', 'lie')} above what was observed", False
    if not ended:
        return "every cell failed" if total else "no cell is done", False
    if not sure:
        return "no rate is certified that could be compared", False
    return "no bound exceeds what was observed", True


def _lines(rows: list[dict[str, Any]], ended: list[Any], sure: list[dict[str, Any]], total: int) -> list[str]:
    failed = sum(r["status"] != "ok" for r in rows)
    lines = []
    if len(rows) < total:
        lines.append(f"It is not done: {len(rows)} of {plural(total, 'cell')} {verb_for(len(rows), 'have')} a row.")
    promised = sum(r["certified_rate"] > 0 for r in ended)
    text = f"A rate is certified before the run for {promised} of the {plural(len(ended), 'cell')} that ran "
    text += f"to {'its' if len(ended) == 1 else 'their'} end."
    if sure:
        low, middle, high = np.percentile([r["tightness"] for r in sure], (0, 50, 100))
        text += (
            f" It is {middle:.3g} of the least observed rate in the median, {low:.3g} at least, {high:.3g} at most."
        )
    lines.append(text)
    checked = sum(r["holds"] is not None for r in rows)
    if checked:
        lines.append(f"{plural(checked, 'run', 'were')} compared with every guarantee at every recorded time.")
    lines.append(f"{plural(failed, 'cell')} failed." if failed else "No cell failed.")
    return lines


def _drawing(good: list[dict[str, Any]], ended: list[dict[str, Any]]) -> Any:
    """Draw the bounds of cells against the truth. Each start has the colour that `plot_sweep` gives it as hue."""
    from linflow import plots  # noqa: PLC0415 - matplotlib is slow to import
    from linflow.plots._canvas import LARGEST, label_text  # noqa: PLC0415

    good = [r for r in good if 1 / LARGEST <= r["least_rate"] <= LARGEST and abs(r["certified_rate"]) <= LARGEST]
    if not good:
        return None
    each = [label_text(r["init"] or READ) for r in good]
    labels = each if 1 < len(set(each)) <= MOST_LABELS else None
    starts = [label_text(one or READ) for one in in_order(r["init"] for r in ended)]
    promised, seen = ([r[name] for r in good] for name in ("certified_rate", "least_rate"))
    ax = plots.bound_against_truth(promised, seen, labels, order=starts if labels else None)
    ax.set(xlabel="Least observed rate", ylabel="Certified rate")
    plots.rasterize_large(ax.figure)
    return svg(ax, "b")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
