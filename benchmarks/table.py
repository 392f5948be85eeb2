"""The table, and the file of results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Cell
from benchmarks.worker import LATE

HEADER = ("task", "solver", "time", "error", "evaluations", "ratio", "setup", "memory", "floor")
BASE = "linflow"


def duration(seconds: float | None) -> str:
    """Three digits and a unit."""
    if seconds is None:
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} µs"


def digits(x: float, count: int = 3) -> str:
    """A number of moderate size to three digits, without an exponent."""
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    return f"{x:.{max(0, count - 1 - math.floor(math.log10(abs(x))))}f}"


def ratio(cell: Cell, base: Cell | None) -> str:
    """Time over that of linflow; a bound where the budget ran out."""
    if base is None or base.seconds is None:
        return "–"
    if cell.seconds is not None:
        return digits(cell.seconds / base.seconds)
    stopped = [trial.seconds for trial in cell.trials if trial.stopped and trial.stopped.startswith(LATE)]
    # All looser tolerances are known to miss the error, or to exceed the budget too.
    return f"> {digits(stopped[0] / base.seconds)}" if stopped else "–"


def rows(cells: Iterable[Cell], titles: dict[str, str]) -> list[tuple[str, ...]]:
    cells = list(cells)
    bases = {cell.task: cell for cell in cells if cell.solver == BASE}
    out, before = [], None
    for cell in cells:
        about = "~" if cell.extrapolated else ""
        out.append(
            (
                cell.task if cell.task != before else "",
                titles.get(cell.solver, cell.solver),
                cell.note or about + duration(cell.seconds),
                "–" if cell.error is None else f"{cell.error:.0e}" if math.isfinite(cell.error) else "failed",
                "–" if cell.evaluations is None else about + str(cell.evaluations),
                ratio(cell, bases.get(cell.task)),
                duration(cell.setup),
                "–" if cell.peak is None else f"{cell.peak / 1e6:.0f} MB",
                "" if cell.floor is None else duration(cell.floor),
            )
        )
        before = cell.task
    return out


def aligned(table: Sequence[Sequence[str]], left: int = 2) -> str:
    """Columns under each other; the first `left` to the left, numbers to the right, a line where a group begins."""
    sizes = [max(len(row[j]) for row in table) for j in range(len(table[0]))]
    lines = []
    for i, row in enumerate(table):
        if i and row[0]:
            lines.append("─" * (sum(sizes) + 2 * (len(sizes) - 1)))
        cells = [x.ljust(n) if j < left else x.rjust(n) for j, (x, n) in enumerate(zip(row, sizes, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def render(cells: Iterable[Cell], titles: dict[str, str]) -> str:
    return aligned([HEADER, *rows(cells, titles)])


def plain(value: Any) -> Any:
    """Without numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(folder: Path, report: dict[str, Any], cells: Iterable[Cell]) -> Path:
    """Write everything to `folder/<date>.json` and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = report["environment"]["date"].replace(":", "").replace("+0000", "Z")
    path, count = folder / f"{stamp}.json", 1
    while path.exists():  # two that end in the same second
        count += 1
        path = folder / f"{stamp}-{count}.json"
    whole = plain({**report, "cells": [asdict(cell) for cell in cells]})
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path
