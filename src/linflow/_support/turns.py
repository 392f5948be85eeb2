"""Turns between processes: what one of them has done, the next finds done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from linflow._support.paths import open_careful

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

EVERY = 0.05
"""Seconds between two tries."""


@contextmanager
def in_turn(path: Path, patience: float) -> Iterator[None]:
    """Enter a block when no other process or thread is in a block of the same file.

    Turns save work; nothing may rest on them. So the block is entered without a turn where the file cannot be made or
    locked, and when a turn has not come after `patience` seconds. A process that ends gives its turn back, however it
    ends.
    """
    handle = None
    if fcntl is not None:
        with suppress(OSError):
            handle = open_careful(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        if handle is not None:
            _wait(handle, time.monotonic() + patience)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _wait(handle: int, end: float) -> None:
    """Return when a file is locked by this handle, cannot be, or when the time has come."""
    assert fcntl is not None
    while time.monotonic() < end:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(EVERY)
        except OSError:  # some file systems have no locks
            return
        else:
            return
