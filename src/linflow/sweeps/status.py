"""How far a sweep is, for the one that runs it and for another terminal."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import numpy as np

RECENT = 120.0
"""Seconds over which a rate is taken."""


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
        total, done, failed: cells of the grid, those with a row, and those of them that failed.
        rate: cells a second; 0 where none is known.
        running: whether it goes on; None where that cannot be seen.
        waiting: whether it waits for workers of a cluster that has none.
    """

    total: int
    done: int
    failed: int
    rate: float
    running: bool | None
    waiting: bool = False

    @property
    def remaining(self) -> float:
        """Seconds left at this rate; inf at none."""
        left = self.total - self.done
        return 0.0 if left == 0 else left / self.rate if self.rate > 0 else math.inf

    def __str__(self) -> str:
        percent = 100 * self.done // self.total if self.total else 100  # 100 when all are done, and not before
        text = f"{self.done} of {self.total} cells ({percent}%), {self.failed} failed"
        if self.done < self.total:
            text += f"; {self.rate:.3g} a second, {_duration(self.remaining)} left" if self.rate > 0 else ""
            text += "; not running" if self.running is False else "; waiting for workers" if self.waiting else ""
        return text


def sweep_status(folder: str | os.PathLike[str]) -> Status:
    """Return how far the sweep in a folder is, from what is written there.

    Raises:
        OSError: no such folder, or no sweep in it.
    """
    from linflow.sweeps.grid_file import recorded_grid  # noqa: PLC0415 - `Status` needs none of it
    from linflow.sweeps.store import Store  # noqa: PLC0415

    store = Store(folder, make=False)
    chosen, now = store.choose(recorded_grid(folder).ids), time.time()
    recent = chosen.finished[chosen.finished > now - RECENT]
    span = now - recent.min() if recent.size else 0.0
    rate = recent.size / span if span > 0 else 0.0
    failed = int(np.count_nonzero(~chosen.good))
    return Status(chosen.total, len(chosen.row), failed, float(rate), _running(store.folder))


def _running(folder: os.PathLike[str]) -> bool | None:
    """Whether a process holds the lock of a folder."""
    from linflow.sweeps.store import LOCK  # noqa: PLC0415 - as above

    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    try:
        handle = os.open(os.path.join(folder, LOCK), os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
