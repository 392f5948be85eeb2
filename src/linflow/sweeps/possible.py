"""Grids in which every cell would fail before its run. They are refused before any cell is started."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from linflow.sweeps.axes import Axis, invalid
from linflow.sweeps.cells import explained, prepared
from linflow.sweeps.grid import Grid

ALONE = ("start.seed", "flow.", "descent.steps")
"""Names of settings, or their beginnings, whose values are valid or not regardless of all other settings."""


def refuse_hopeless(grid: Grid) -> None:
    """Refuse a grid in which every cell fails before its run. The search ends at the first cell that does not.

    Cells that differ only in settings that are valid on their own, such as seeds, are judged together.

    Raises:
        ValueError: no cell can begin. The message has the most common reason and the number of cells that have it.

    Example:
        >>> from linflow.sweeps import read_grid
        >>> start = {"init": "ntk", "hidden": [2]}
        >>> refuse_hopeless(read_grid({"data": {"target": [[1.0]]}, "start": start, "grid": {"size": [0.1, 1.0]}}))
        Traceback (most recent call last):
        ValueError: none of the 2 cells can run: the start ntk has no size to set; leave it out, or use gaussian.
    """
    with tempfile.TemporaryDirectory() if grid.arrays else nullcontext("") as folder:
        few = _few(grid.placed(Path(folder)))
        reasons: Counter[str] = Counter()
        for index in _spread(len(few)):
            reason = _obstacle(few, index)
            if reason is None:
                return
            reasons[reason.replace(os.path.join(os.path.realpath(folder), "") if folder else "\0", "")] += 1
    (common, count), *others = reasons.most_common()
    count *= len(grid) // len(few)
    what = "the 1 cell of the grid cannot run" if len(grid) == 1 else f"none of the {len(grid)} cells can run"
    if others:
        raise ValueError(f"{what}. The most common reason, that of {count}: {common}")
    raise ValueError(f"{what}: {common}")


def _few(grid: Grid) -> Grid:
    """Return the grid with one value on each axis that is valid or not by itself: a valid value if there is one."""
    return replace(grid, axes=tuple(_first_good(axis) if _alone(axis) else axis for axis in grid.axes))


def _alone(axis: Axis) -> bool:
    return all(key.startswith(ALONE) for key in axis.keys)


def _first_good(axis: Axis) -> Axis:
    bad = {i for key, column in zip(axis.keys, axis.columns, strict=True) for i in invalid(key, column)}
    at = next((i for i in range(len(axis)) if i not in bad), 0)
    return Axis(axis.keys, tuple([column[at]] for column in axis.columns))


def _spread(count: int) -> Iterator[int]:
    """Yield all indices: 0 first, then the others in random order, because the valid cells may be in one corner."""
    yield 0
    yield from (int(i) for i in np.random.default_rng(0).permutation(count) if i)


def _obstacle(grid: Grid, index: int) -> str | None:
    """Return why a cell cannot begin, or None if it can or if that is not known beforehand."""
    settings = grid.settings(index)
    try:
        prepared(settings, grid.digests(settings))
    except (ValueError, TypeError, OSError) as error:
        return explained(error)
    except Exception:
        return None
    return None
