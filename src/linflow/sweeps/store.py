"""The folder of a sweep: part files, each written once and atomically, and one table made from all of them.

Nothing is ever changed in place, and several sweeps can use one folder at the same time. The name of a part is a hash
of its content. If two rows have the same id, a rule chooses one. Locks only show which sweeps are running.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linflow._support.paths import LIMIT, check_size, open_careful, quote, readable
from linflow._support.words import plural
from linflow.files import FileError, atomic, read_table, write_table
from linflow.sweeps.grid import ID_LENGTH
from linflow.sweeps.rows import SCHEMA, to_table

RESULTS, PARTS, LOCK = "results.parquet", "parts", ".running-{}"
MOST_ROWS, MOST_POINTS = 2000, 500_000
"""The most rows, and the most points of curves, that are held in memory before they are written."""
SOON, LATE, SHARE = 1.0, 30.0, 0.01
"""Seconds between two parts: this share of the time since the start, but at least SOON and at most LATE.

So long sweeps have few parts.
"""
OLD = 60.0
"""Age in seconds from which a temporary file is considered abandoned."""
CHUNK = 4096
"""Rows of the table that are assembled at once."""
MADE_OF = b"linflow.sweep"
"""The metadata key under which the table records the ids and parts that it is made from."""
KEPT = 16
"""The number of decoded parts in the cache."""
EVERY_ROW = ("id", "status", "failure", "reason", "versions", "finished")
GOOD_ROW = ("certified_rate", "least_rate", "certified_time", "time", "certificate")
"""Columns that have a value in every row, and in every row of a cell that did not fail."""
ID = f"S{ID_LENGTH}"


@dataclass(frozen=True)
class Chosen:
    """Rows of parts, in the order of the ids for which they were chosen.

    Attributes:
        names: the names of all parts.
        part, row: for each row, the index of its part in `names`, and its own index in that part.
        good, finished: for each row, whether the cell succeeded, and when it was finished.
        total: the number of ids, including those without a row.
    """

    names: list[str]
    part: np.ndarray
    row: np.ndarray
    good: np.ndarray
    finished: np.ndarray
    total: int


class Store:
    """The rows of a sweep on the disk.

    Args:
        folder: the folder of the sweep.
        make: whether to create the folder if necessary.

    Attributes:
        notes: sentences on parts that could not be used.
        known: names of the parts that have been read.
    """

    def __init__(self, folder: str | os.PathLike[str], *, make: bool = True):
        self.folder = Path(folder)
        self.parts = self.folder / PARTS
        if self.parts.is_symlink():
            raise OSError(
                f"{quote(self.parts)} is a symbolic link, and a sweep is kept in one folder; remove the link."
            )
        if make:
            self.parts.mkdir(parents=True, exist_ok=True)
        elif not self.parts.is_dir():
            raise FileNotFoundError(f"{str(folder)!r} is not the folder of a sweep: it has no folder {PARTS}.")
        self.notes: list[str] = []
        self.known: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._points = 0
        self._cache: OrderedDict[str, pa.Table] = OrderedDict()
        self._began = self._written = time.monotonic()
        self._locks: list[int] = []

    def claim(self) -> int:
        """Mark the folder as in use by a sweep, until `release` or the end of the process, however it ends.

        Returns:
            The number of places taken before: 0 for the first sweep in the folder, 1 for the second, and so on.
        """
        place = 0
        while not self._take(LOCK.format(place)):
            place += 1
        # Remove files left by a sweep that was killed while it wrote. A recent file may belong to another command.
        if self._locks and place == 0 and running(self.folder, 1) is False:
            for left in self.parts.glob(".linflow-*.tmp"):
                left.unlink(missing_ok=True)
            for left in self.folder.glob(".linflow-*.tmp"):
                with suppress(OSError):
                    if time.time() - left.stat().st_mtime > OLD:
                        left.unlink()
        return place

    def _take(self, name: str) -> bool:
        """Take a lock. Return False if another process has it, else True (also if locks are not supported)."""
        path = self.folder / name
        try:
            handle = _opened(path, os.O_CREAT | os.O_RDWR)
        except PermissionError:  # another user created it, but it can still be locked
            if not path.exists():
                raise
            handle = _opened(path, os.O_RDONLY)
        if handle is None:
            raise OSError(f"{quote(path)} is not a plain file, and a sweep marks the folder with it; remove it.")
        taken = _lock(handle)
        if taken:
            self._locks.append(handle)
        else:
            os.close(handle)
        return taken is not False

    def release(self) -> None:
        """Release the folder: this sweep no longer runs here."""
        while self._locks:
            os.close(self._locks.pop())

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows, and write the held rows if it is time or if there are many."""
        self._rows += rows
        self._points += sum(len(row.get("curve_t") or ()) for row in rows)
        self.write_in_time()

    def write_in_time(self) -> None:
        """Write the held rows if it is time or if there are many."""
        now = time.monotonic()
        wait = min(max(SHARE * (now - self._began), SOON), LATE)
        if now - self._written > wait or len(self._rows) >= MOST_ROWS or self._points >= MOST_POINTS:
            self.flush()

    @property
    def held(self) -> int:
        """The number of rows that are not written yet."""
        return len(self._rows)

    def flush(self) -> None:
        """Write the held rows as one part.

        Raises:
            OSError: there is no room, or the folder is gone. The rows are kept for another try.
        """
        self._written = time.monotonic()
        if not self._rows:
            return
        table = to_table(self._rows)
        name = _part_name(table)
        write_table(table, self.parts / name)
        self.known.add(name)
        self._rows, self._points = [], 0

    def names(self) -> list[str]:
        """Return the names of all parts, sorted."""
        return sorted(entry.name for entry in os.scandir(self.parts) if entry.name.endswith(".parquet"))

    def read(self, name: str) -> pa.Table | None:
        """Return a part, or None (with a note) if it is truncated, corrupt or from another version."""
        try:
            table = read_table(readable(self.parts / name, links=False))
            lack = _lack(table) if table.schema.equals(SCHEMA) else "it has other columns."
        except (FileError, OSError) as error:
            table, lack = None, str(error)
        if lack is None:
            return table
        self.notes.append(f"{name} is left out and its cells are computed again: {lack}")
        return None

    def _cached(self, name: str) -> pa.Table | None:
        """Return a part as `read` does, from the cache if it was used recently."""
        if name not in self._cache:
            table = self.read(name)
            if table is None:
                return None
            self._cache[name] = table
            while len(self._cache) > KEPT or (len(self._cache) > 1 and _bytes(self._cache.values()) > LIMIT):
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def news(self) -> Iterator[pa.Table]:
        """Yield the parts that have not been read before."""
        for name in self.names():
            if name not in self.known:
                self.known.add(name)
                table = self.read(name)
                if table is not None:
                    yield table

    def write_results(self, ids: np.ndarray) -> int:
        """Write the rows with these ids into one table, in this order; return the number of rows.

        The table is written piece by piece.

        Raises:
            FileError: rows are missing.
        """
        chosen = self.choose(ids)
        if lost := chosen.total - len(chosen.row):
            raise FileError(
                f"the rows of {plural(lost, 'cell')} are gone from {self.parts}: parts were removed or damaged while "
                "the sweep ran. Run it again; it computes what is missing."
            )
        schema = SCHEMA.with_metadata({MADE_OF: _made_of(ids, chosen.names)})
        with (
            atomic(self.folder / RESULTS) as temporary,
            pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
        ):
            for table in self._rows_of(chosen, SCHEMA.names):
                writer.write_table(table)
        return len(chosen.row)

    def results(self, ids: np.ndarray, columns: Sequence[str] | None = None, limit: int = LIMIT) -> pa.Table:
        """Return the rows with these ids, in this order.

        They come from the table if it is made from these ids and the current parts, and else from the parts.

        Raises:
            FileError: the rows would take more than `limit` bytes.
        """
        wanted, path = list(columns or SCHEMA.names), self.folder / RESULTS
        # No table yet, a damaged one, or no plain file: the parts have every row.
        with suppress(OSError, FileError, pa.ArrowException):
            schema = pq.read_schema(readable(path, links=False))
            if schema.equals(SCHEMA) and (schema.metadata or {}).get(MADE_OF) == _made_of(ids, self.names()):
                needed = list(dict.fromkeys([*wanted, *EVERY_ROW, *GOOD_ROW]))
                table = read_table(path, limit=limit, columns=needed)
                if _lack(table) is None:
                    return table.select(wanted).replace_schema_metadata()
        pieces = [SCHEMA.empty_table().select(wanted)]
        for table in self._rows_of(self.choose(ids), wanted):
            pieces.append(table)
            check_size(_bytes(pieces), limit, self.folder, "its rows")
        return pa.concat_tables(pieces)

    def _rows_of(self, chosen: Chosen, columns: Sequence[str]) -> Iterator[pa.Table]:
        for first in range(0, len(chosen.part), CHUNK):
            part, row = chosen.part[first : first + CHUNK], chosen.row[first : first + CHUNK]
            pieces, order = [], []
            for p in np.unique(part):
                table = self._cached(chosen.names[p])
                if table is None:
                    raise FileError(f"{chosen.names[p]} was changed while it was read; run the sweep again.")
                mine = np.flatnonzero(part == p)
                pieces.append(table.select(columns).take(row[mine]))
                order.append(mine)
            yield pa.concat_tables(pieces).take(np.argsort(np.concatenate(order)))

    def choose(self, ids: np.ndarray) -> Chosen:
        """Choose a row for each id that has one.

        A good row is preferred to a failed one, and a later failed row to an earlier one. In all other cases the row
        from the first part by name is taken.
        """
        sorted_ids, position = np.unique(ids, return_index=True)
        count = len(sorted_ids)
        part, at, rank = np.full(count, -1), np.zeros(count, dtype=np.int64), np.full(count, -1)
        finished = np.full(count, -np.inf)
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
            part[k], at[k], rank[k], finished[k] = p, row, good[better], late[better]
        found = np.flatnonzero(part >= 0)
        found = found[np.argsort(position[found])]
        return Chosen(names, part[found], at[found], rank[found] == 1, finished[found], count)


def _lack(table: pa.Table) -> str | None:
    """Return in a sentence what no sweep of this version has written in a row, or None."""
    good = table.filter(pc.field("status") == "ok")
    for rows, names in ((table, EVERY_ROW), (good, GOOD_ROW)):
        for name in names:
            if rows[name].null_count:
                return f"a row has no {name}."
    return None if all(name.isascii() for name in table["id"].to_pylist()) else "an id is not of its kind."


def _bytes(tables: Iterable[pa.Table]) -> int:
    return sum(table.nbytes for table in tables)


def _part_name(table: pa.Table) -> str:
    """Return the name of a part: a hash of every value in it, so parts with different rows have different names."""
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table)
    return f"part-{hashlib.sha256(content.getvalue()).hexdigest()[:20]}.parquet"


def _made_of(ids: np.ndarray, names: Sequence[str]) -> bytes:
    """Return a hash that identifies a table made from these ids and parts."""
    return hashlib.sha256(ids.tobytes() + "/".join(names).encode()).hexdigest().encode()


def column_ids(table: pa.Table) -> np.ndarray:
    """Return the ids in a table, as bytes."""
    return np.asarray(table["id"].to_pylist(), dtype=ID) if table.num_rows else np.empty(0, ID)


def running(folder: str | os.PathLike[str], first: int = 0) -> bool | None:
    """Tell whether a sweep runs in a folder, at place `first` or later; None if that cannot be determined."""
    for path in Path(folder).glob(LOCK.format("*")):
        number = path.name.removeprefix(LOCK.format(""))
        if not number.isdecimal() or int(number) < first:
            continue
        try:
            handle = _opened(path, os.O_RDONLY)
        except OSError:  # this user has no access
            return None
        if handle is None:  # no sweep makes such a thing
            continue
        free = _lock(handle)
        os.close(handle)
        if free is not True:
            return None if free is None else True
    return False


def _opened(path: Path, flags: int) -> int | None:
    """Open a plain file, or return None if something else is there: a link, a pipe, a device."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        return None
    handle = open_careful(path, flags)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def _lock(handle: int) -> bool | None:
    """Take the lock of an open file. Return False if another process has it, None if locks are not supported."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return None
    return True


def match(sorted_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions in a sorted array of the ids that are in it, and the indices of these ids."""
    if len(sorted_ids) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    k = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    row = np.flatnonzero(sorted_ids[k] == ids)
    return k[row], row
