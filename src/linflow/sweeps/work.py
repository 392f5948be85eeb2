"""The work of a sweep: which cells are done, which are being computed, and which batch comes next."""

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
"""Seconds that a batch should take: long compared with sending it to a worker, short compared with a sweep."""
MOST_CELLS = 1000
"""The most cells in a batch."""
TRIES = 3
"""How often the process of a cell must die, with the cell alone in its batch, before the cell has failed."""
PASSING = ("died", "file")
"""Failures with an outside cause. The next sweep tries these cells again."""
LOOK = 0.5
"""Seconds between two checks for rows that other sweeps have added to the folder."""


class Work:
    """The state of a sweep: which cells are done, which are being computed, and which come next."""

    def __init__(self, grid: Grid, store: Store, time_limit: float | None, retry: bool, place: int):
        self.grid, self.store, self.limit, self.retry = grid, store, time_limit, retry
        self._sorted, self._place = np.unique(grid.ids, return_index=True)
        self._done = np.ones(len(grid), dtype=bool)
        self._done[self._place] = False  # of identical cells, only one is computed
        self.total, self.missing = len(self._sorted), len(self._sorted)
        self.computed = 0
        self._failure = np.zeros(len(grid), dtype=np.uint8)  # index in FAILURES; one byte, as sweeps can be large
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
        """Read the new rows in the folder and mark their cells, if the last check was long enough ago."""
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
        """The number of cells that failed, now or before."""
        return int(np.count_nonzero(self._failure))

    def reasons(self) -> dict[str, int]:
        """Return the number of failed cells for each kind of failure."""
        counts = np.bincount(self._failure, minlength=len(FAILURES)).tolist()
        return {kind: count for kind, count in zip(FAILURES[1:], counts[1:], strict=True) if count}

    def next(self, workers: int) -> Task | None:
        """Return the next batch, or None if no cell is left to give.

        A batch takes about `AIM` seconds. Batches get shorter towards the end, so that all workers end together.
        """
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
        """Yield indices of candidate cells, beginning with those returned from a batch that took too long."""
        while (i := self._back.popleft() if self._back else next(self._order, None)) is not None:
            yield i

    def _task(self, cells: tuple[Cell, ...]) -> Task:
        grid = self.grid
        return Task(cells, grid.check, grid.verified, grid.rigorous, grid.curves, self.limit)

    def answer(self, task: Task, found: Answer | Exception) -> None:
        """Process the outcome of a task: keep its rows, and queue again what was not computed."""
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
        """Count rows and store them."""
        self.computed += len(rows)
        for place, row in zip(self._places(row["id"] for row in rows), rows, strict=True):
            self._mark(place, row["failure"])
        self.store.add(rows)

    def _places(self, ids: Iterable[str]) -> Iterator[int]:
        for one in ids:
            yield int(self._place[np.searchsorted(self._sorted, one.encode())])

    def status(self, running: bool = True, waiting: bool = False) -> Status:
        """Return the progress of the sweep."""
        seconds = time.monotonic() - self._began
        done = self.total - self.missing
        now = (self._first_missing if self._first_missing is not None else self.total) - self.missing
        rate = now / seconds if seconds > 0 else 0.0
        return Status(self.total, done, self.failed, rate, running, waiting)


def _order(count: int, place: int) -> Iterable[int]:
    """Return the order in which a sweep computes the cells.

    Two sweeps in one folder work towards each other and meet in the middle. Further ones begin far from the others.
    """
    if place == 0:
        return range(count)
    if place == 1:
        return range(count - 1, -1, -1)
    # 1/2, 1/4, 3/4, 1/8, …
    level = (place - 1).bit_length()
    first = count * (2 * (place - 2 ** (level - 1) - 1) + 1) // 2**level
    return chain(range(first, count), range(first))
