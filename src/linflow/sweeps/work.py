"""The work of a sweep: what is done, what is under way, and which batch comes next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from linflow.sweeps.cells import Answer, Cell, Task, failed
from linflow.sweeps.engine import AHEAD, Late, Lost
from linflow.sweeps.grid import Grid
from linflow.sweeps.rows import FAILURES
from linflow.sweeps.status import Status
from linflow.sweeps.store import Store, column_ids, match

AIM = 1.0
"""Seconds that a batch should take: long against handing it over, short against a sweep."""
MOST_CELLS = 1000
"""Cells in a batch at most."""
TRIES = 3
"""Deaths of its process, alone in it, after which a cell has failed."""
PASSING = ("died", "file")
"""Failures that came from outside, and are tried again by the next sweep."""
LOOK = 0.5
"""Seconds between two looks at what other sweeps have added to the folder."""


class Work:
    """What is done, what is under way, and what comes next."""

    def __init__(self, grid: Grid, store: Store, time_limit: float | None, retry: bool, place: int):
        self.grid, self.store, self.limit, self.retry = grid, store, time_limit, retry
        self._sorted, self._place = np.unique(grid.ids, return_index=True)
        self._done = np.ones(len(grid), dtype=bool)
        self._done[self._place] = False  # of cells that are the same, one is computed
        self.total, self.missing = len(self._sorted), len(self._sorted)
        self.computed = 0
        self._failure = np.zeros(len(grid), dtype=np.uint8)  # place in FAILURES; sweeps may be large
        self._given = self._done.copy()
        self._order = iter(_order(len(grid), place))
        self._again: deque[Task] = deque()
        self._back: deque[int] = deque()
        self._deaths: dict[str, int] = {}
        self._each: float | None = None
        self._looked = -np.inf
        self._began = time.monotonic()
        self._first_missing: int | None = None

    def look(self) -> None:
        """Learn what is in the folder."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        first = self._first_missing is None
        for table in self.store.news():
            k, row = match(self._sorted, column_ids(table))
            kinds, status = table["failure"].to_pylist(), table["status"].to_pylist()
            for place, r in zip(self._place[k].tolist(), row.tolist(), strict=True):
                if status[r] == "ok" or not (first and (self.retry or kinds[r] in PASSING)):
                    self._mark(place, "" if status[r] == "ok" else kinds[r])
        if first:
            self._first_missing = self.missing
            self._given |= self._done

    def _mark(self, place: int, failure: str) -> None:
        if not self._done[place]:
            self._done[place] = True
            self.missing -= 1
        elif failure:
            return
        self._failure[place] = FAILURES.index(failure if failure in FAILURES else "error")

    @property
    def failed(self) -> int:
        """How many cells failed, now or before."""
        return int(np.count_nonzero(self._failure))

    def reasons(self) -> dict[str, int]:
        """Return how many failed for each kind of failure."""
        counts = np.bincount(self._failure, minlength=len(FAILURES)).tolist()
        return {kind: count for kind, count in zip(FAILURES[1:], counts[1:], strict=True) if count}

    def next(self, workers: int) -> Task | None:
        """Return the next batch: about as long as `AIM`, and shorter towards the end, that all end together."""
        if self._again:
            return self._again.popleft()
        fair = max(1, self.missing // (2 * AHEAD * workers))
        size = 1 if self._each is None else int(min(AIM / max(self._each, 1e-6), MOST_CELLS))
        cells: list[Cell] = []
        for i in self._open():
            if not self._given[i] and not self._done[i]:
                self._given[i] = True
                cells.append(Cell.of(self.grid, i))
                if len(cells) >= max(1, min(size, fair)):
                    break
        return self._task(tuple(cells)) if cells else None

    def _open(self) -> Iterator[int]:
        """Yield places that may be given: first those that came back from a batch that took long."""
        while (i := self._back.popleft() if self._back else next(self._order, None)) is not None:
            yield i

    def _task(self, cells: tuple[Cell, ...]) -> Task:
        return Task(cells, self.grid.check, self.grid.verified, self.grid.curves, self.limit)

    def answer(self, task: Task, found: Answer | Exception) -> None:
        """Take what came of a task."""
        if isinstance(found, Answer):
            self.take(found.rows)
            for place in self._places(cell.id for cell in task.cells[len(found.rows) :]):
                self._given[place] = False
                self._back.append(place)
            each = found.seconds / len(found.rows)
            self._each = each if self._each is None else 0.5 * (self._each + each)
        elif isinstance(found, Lost):
            self._again.append(task)
        elif isinstance(found, Late) and len(task.cells) == 1:
            self.take(
                [failed(task.cells[0], "time limit", f"it took longer than the limit of {task.time_limit:g} s")]
            )
        elif len(task.cells) > 1:
            half = len(task.cells) // 2
            self._again += [self._task(task.cells[:half]), self._task(task.cells[half:])]
        else:
            cell = next(iter(task.cells))
            self._deaths[cell.id] = self._deaths.get(cell.id, 0) + 1
            if self._deaths[cell.id] < TRIES:
                self._again.append(task)
            else:
                reason = f"the process that ran it died, {TRIES} times; it may need more memory than there is"
                self.take([failed(cell, "died", reason)])

    def take(self, rows: list[dict[str, Any]]) -> None:
        """Count rows, and keep them."""
        self.computed += len(rows)
        for place, row in zip(self._places(row["id"] for row in rows), rows, strict=True):
            self._mark(place, row["failure"])
        self.store.add(rows)

    def _places(self, ids: Iterable[str]) -> Iterator[int]:
        for one in ids:
            yield int(self._place[np.searchsorted(self._sorted, one.encode())])

    def status(self, running: bool = True, waiting: bool = False) -> Status:
        """Say how far it is."""
        seconds = time.monotonic() - self._began
        done = self.total - self.missing
        now = (self._first_missing if self._first_missing is not None else self.total) - self.missing
        rate = now / seconds if seconds > 0 else 0.0
        return Status(self.total, done, self.failed, rate, running, waiting)


def _order(count: int, place: int) -> Iterable[int]:
    """Return the order for a sweep: two in one folder meet in the middle, and more begin where others are not."""
    if place == 0:
        return range(count)
    if place == 1:
        return range(count - 1, -1, -1)
    # 1/2, 1/4, 3/4, 1/8, …
    level = (place - 1).bit_length()
    first = count * (2 * (place - 2 ** (level - 1) - 1) + 1) // 2**level
    return chain(range(first, count), range(first))
