"""The folder of a sweep: parts that are written once and whole, what they hold, and one table of them all.

Nothing is ever changed in place and nothing is locked against another sweep in the same folder: a part has the name
of what is in it, and of two rows with one id, one is taken by a rule.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from linflow.files import FileError, atomic, read_table, write_table
from linflow.sweeps.grid import ID_LENGTH
from linflow.sweeps.rows import SCHEMA, to_table

RESULTS, GRID, PARTS, LOCK = "results.parquet", "grid.toml", "parts", ".running"
MOST_ROWS, MOST_POINTS = 2000, 500_000
"""Rows, and points of curves, that are held back at most."""
SOON, LATE, SHARE = 1.0, 30.0, 0.01
"""Seconds between two parts: a share of the time since the start, so that long sweeps have few, within these."""
CHUNK = 4096
"""Rows of the table that are put together at once."""
KEPT = 16
"""Parts that are kept decoded meanwhile."""
ID = f"S{ID_LENGTH}"


class Store:
    """Rows on the disk.

    Args:
        folder: where; made if need be.

    Attributes:
        notes: parts that could not be used, in words.
        known: names of the parts that have been looked at.
    """

    def __init__(self, folder: str | os.PathLike[str], *, make: bool = True):
        self.folder = Path(folder)
        self.parts = self.folder / PARTS
        if make:
            self.parts.mkdir(parents=True, exist_ok=True)
        elif not self.parts.is_dir():
            raise FileNotFoundError(f"{str(folder)!r} is no folder of a sweep: it holds no folder {PARTS}.")
        self.notes: list[str] = []
        self.known: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._points = 0
        self._cache: OrderedDict[str, pa.Table] = OrderedDict()
        self._began = self._written = time.monotonic()
        self._lock: int | None = None

    def claim(self) -> bool:
        """Say that a sweep runs here; False where another does. It ends with the process, however that ends."""
        try:
            import fcntl  # noqa: PLC0415 - not on Windows
        except ImportError:
            return True
        handle = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        if alone:
            for left in (*self.folder.glob(".linflow-*.tmp"), *self.parts.glob(".linflow-*.tmp")):
                left.unlink(missing_ok=True)  # of a sweep that was killed while it wrote
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        self._lock = handle
        return alone

    def release(self) -> None:
        """Say that no sweep runs here any more."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep rows, and write what has gathered when it is time."""
        self._rows += rows
        self._points += sum(len(row.get("curve_t") or ()) for row in rows)
        now = time.monotonic()
        wait = min(max(SHARE * (now - self._began), SOON), LATE)
        if now - self._written > wait or len(self._rows) >= MOST_ROWS or self._points >= MOST_POINTS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as one part.

        Raises:
            OSError: there is no room, or no folder any more; the rows are kept for another try.
        """
        self._written = time.monotonic()
        if not self._rows:
            return
        ids = sorted(row["id"] for row in self._rows)
        name = f"part-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:20]}.parquet"
        write_table(to_table(self._rows), self.parts / name)
        self.known.add(name)
        self._rows, self._points = [], 0

    def names(self) -> list[str]:
        """Return the names of all parts, sorted."""
        return sorted(entry.name for entry in os.scandir(self.parts) if entry.name.endswith(".parquet"))

    def read(self, name: str) -> pa.Table | None:
        """Return a part; None, with a note, where it is truncated, corrupt or of another version."""
        try:
            table = read_table(self.parts / name)
        except (FileError, OSError) as error:
            self.notes.append(f"{name} is left out and its cells are computed again: {error}")
            return None
        if not table.schema.equals(SCHEMA):
            self.notes.append(f"{name} is left out and its cells are computed again: it has other columns.")
            return None
        return table

    def _cached(self, name: str) -> pa.Table | None:
        """Return a part as `read` does, without reading it again where it is one of the last."""
        if name not in self._cache:
            table = self.read(name)
            if table is None:
                return None
            self._cache[name] = table
            if len(self._cache) > KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def news(self) -> Iterator[pa.Table]:
        """Yield the parts that have not been looked at."""
        for name in self.names():
            if name not in self.known:
                self.known.add(name)
                table = self.read(name)
                if table is not None:
                    yield table

    def write_results(self, ids: np.ndarray) -> int:
        """Put the rows of these ids into one table, in this order, a piece at a time; return how many there are."""
        names, where, at = self._index(ids)
        with (
            atomic(self.folder / RESULTS) as temporary,
            pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True) as writer,
        ):
            for first in range(0, len(where), CHUNK):
                part, row = where[first : first + CHUNK], at[first : first + CHUNK]
                pieces, order = [], []
                for p in np.unique(part):
                    table = self._cached(names[p])
                    if table is None:
                        raise FileError(f"{names[p]} was changed while the table was made; run the sweep again.")
                    mine = np.flatnonzero(part == p)
                    pieces.append(table.take(row[mine]))
                    order.append(mine)
                writer.write_table(pa.concat_tables(pieces).take(np.argsort(np.concatenate(order))))
        return len(where)

    def _index(self, ids: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the parts, and for each id that has a row the part and place of the one to take.

        A row that is good comes before one that failed, then the latest, then the one in the first part by name.
        """
        sorted_ids, position = np.unique(ids, return_index=True)
        where = np.full(len(sorted_ids), -1)
        at, rank, finished = (
            np.zeros(len(where), dtype=np.int64),
            np.full(len(where), -1),
            np.full(len(where), -np.inf),
        )
        names = self.names()
        for p, name in enumerate(names):
            table = self._cached(name)
            if table is None:
                continue
            k, row = match(sorted_ids, column_ids(table))
            good = np.asarray(table["status"].to_pylist(), dtype=object)[row] == "ok"
            late = table["finished"].to_numpy()[row]
            better = (good > rank[k]) | ((good == rank[k]) & (late > finished[k]) & ~good)
            k, row = k[better], row[better]
            where[k], at[k], rank[k], finished[k] = p, row, good[better], late[better]
        found = np.flatnonzero(where >= 0)
        found = found[np.argsort(position[found])]
        return names, where[found], at[found]


def column_ids(table: pa.Table) -> np.ndarray:
    """Return the ids in a table, as bytes."""
    return np.asarray(table["id"].to_pylist(), dtype=ID) if table.num_rows else np.empty(0, ID)


def match(sorted_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where ids stand in a sorted array, and which of them do."""
    if len(sorted_ids) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    k = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    row = np.flatnonzero(sorted_ids[k] == ids)
    return k[row], row
