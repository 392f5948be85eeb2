"""The progress of a sweep, for the process that runs it and for another terminal."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import numpy as np

from linflow._support.words import plural

RECENT = 120.0
"""Seconds over which the rate is measured, if at least `FEW` cells finished in them."""
FEW = 10


@dataclass(frozen=True)
class Status:
    """The progress of a sweep.

    Attributes:
        total, done, failed: the number of cells in the grid, of those with a row, and of those that failed.
        rate: cells per second; 0 if unknown.
        running: whether the sweep is running; None if that cannot be determined.
        waiting: whether the sweep is waiting for a cluster without workers.
    """

    total: int
    done: int
    failed: int
    rate: float
    running: bool | None
    waiting: bool = False

    @property
    def remaining(self) -> float:
        """Seconds left at this rate; inf if the rate is 0 and cells remain."""
        left = self.total - self.done
        return 0.0 if left == 0 else left / self.rate if self.rate > 0 else math.inf

    def __str__(self) -> str:
        percent = 100 * self.done // self.total if self.total else 100  # 100 only when all are done
        text = f"{self.done} of {plural(self.total, 'cell')} ({percent}%), {self.failed} failed"
        if self.done < self.total:
            text += f"; {self.rate:.3g} a second, {_duration(self.remaining)} left" if self.rate > 0 else ""
            text += "; not running" if self.running is False else "; waiting for workers" if self.waiting else ""
        return text


def sweep_status(folder: str | os.PathLike[str]) -> Status:
    """Return the progress of the sweep in a folder, from the files there.

    Raises:
        OSError: no such folder, or no sweep in it.
    """
    from linflow.sweeps.grid_file import recorded_grid  # noqa: PLC0415 - `Status` needs none of it
    from linflow.sweeps.store import Store, running  # noqa: PLC0415

    store = Store(folder, make=False)
    chosen = store.choose(recorded_grid(folder).ids)
    failed = int(np.count_nonzero(~chosen.good))
    return Status(chosen.total, len(chosen.row), failed, _rate(chosen.finished, time.time()), running(store.folder))


def _rate(finished: np.ndarray, now: float) -> float:
    """Return cells per second over the last `RECENT` seconds, or over the last `FEW` cells if they take longer."""
    finished = np.sort(finished)
    recent = finished[finished > now - RECENT]
    some = recent if len(recent) >= FEW else finished[-FEW:]
    # The first cell only marks when the others began.
    return (len(some) - 1) / (now - float(some[0])) if len(some) > 1 and now > some[0] else 0.0


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
