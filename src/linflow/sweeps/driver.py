"""The main loop of a sweep: it computes the missing cells in batches and writes rows as they arrive."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.kept import Kept
from linflow._support.paths import readable, write_whole
from linflow._support.words import plural, shown, verb_for
from linflow.sweeps.engine import AHEAD, DaskEngine, Engine, LocalEngine, cores
from linflow.sweeps.grid import Grid
from linflow.sweeps.grid_file import GRID, HEADER, read_grid, to_toml
from linflow.sweeps.interrupts import held_back
from linflow.sweeps.possible import refuse_hopeless
from linflow.sweeps.status import Status
from linflow.sweeps.store import RESULTS, Store
from linflow.sweeps.work import Work

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Watcher = Callable[[Status], None]


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep.

    Attributes:
        folder: the folder with the results.
        total, computed, failed: the number of cells in the grid, of those computed now, and of those that failed,
            now or before.
        reasons: the number of failed cells for each kind of failure.
        notes: problems found in the folder.
        seconds: wall time.
        ids: the ids of the cells of the grid.
    """

    folder: Path
    total: int
    computed: int
    failed: int
    reasons: dict[str, int]
    notes: tuple[str, ...]
    seconds: float
    ids: np.ndarray = field(repr=False)

    @shown
    def __str__(self) -> str:
        lines = [f"{plural(self.total, 'cell')}, {self.computed} of them computed now, in {self.seconds:.1f} s"]
        if self.failed:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.reasons.items())
            lines[0] += f"; {self.failed} failed ({kinds}), with their reasons in the column reason"
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), f"wrote {self.folder / RESULTS}"])


class Stopped(Kept):
    """Ctrl-C during a sweep. The finished cells are in the folder."""

    def __init__(self, done: int | None, total: int, folder: Path):
        what = "what was done before is"
        if done is not None:
            what = f"{done} of {plural(total, 'cell')} {verb_for(done, 'are')}"
        super().__init__(f"interrupted; {what} kept in {folder}. The same command continues the sweep.")


def sweep(
    grid: Grid | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit: float | None = None,
    retry: bool = False,
    progress: Watcher | None = None,
) -> Any:
    """Certify and run every experiment of a grid, and return one table with a row for each.

    Cells that already have a row in the folder are not computed again. The numbers do not depend on the engine, the
    number of workers or the order, except for the times in the columns `rows.TIMING`.

    Args:
        grid: the path of a TOML file (docs/sweeps.md), or a dict with the content of such a file.
        out: folder for the results; created if necessary. Without one, nothing is left on the disk.
        workers: the number of processes; by default one for each core.
        scheduler: address of a Dask scheduler, `tcp://…`, whose workers compute instead. They need linflow, and the
            data files under the same paths.
        time_limit: seconds that a cell may take before it fails; by default that of the grid.
        retry: compute failed cells again.
        progress: called with a `Status`, about once a second.

    Returns:
        A `pyarrow.Table` in the order of the grid; `.to_pandas()` converts it.

    Raises:
        ValueError: the grid is not valid, or none of its cells can begin. An error in a single cell is the reason in
            its row instead.
        OSError: files that cannot be read, no room left (finished cells are kept), a scheduler that is gone, or
            processes that die as they start.
        KeyboardInterrupt: Ctrl-C; finished cells are kept in the folder.

    Example:
        >>> import numpy as np, os, tempfile, linflow as lf
        >>> from linflow.sweeps import sweep
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(os.path.join(folder, "Y.npy"), np.eye(3))
        ...     grid = {"data": {"target": os.path.join(folder, "Y.npy")}, "grid": {"width": [8, 32], "seeds": 2}}
        ...     table = sweep(grid, workers=1)
        >>> table["width"].to_pylist(), table["result"].to_pylist()[0]
        ([8, 8, 32, 32], 'target reached')
    """
    given = read_grid(grid)
    for doubt in given.doubts:
        warnings.warn(doubt, UserWarning, stacklevel=2)
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory(prefix="linflow-sweep-") as folder:
        try:
            summary = run_sweep(given, folder, workers, scheduler, time_limit, retry, progress)
        except Stopped:
            if out is None:
                raise KeyboardInterrupt("interrupted; nothing is kept where no folder is given.") from None
            raise
        # The table in the folder may belong to another sweep by now, so the rows are chosen by id.
        return Store(folder, make=False).results(summary.ids)


def run_sweep(
    grid: Grid,
    out: str | os.PathLike[str],
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit: float | None = None,
    retry: bool = False,
    progress: Watcher | None = None,
) -> Summary:
    """Run a sweep as `sweep` does, and return its outcome. The table stays on the disk."""
    if workers is not None:
        workers = checks.count(workers, "workers")
        if scheduler is not None:
            raise ValueError(f"workers is {workers} and the scheduler {scheduler}, which has its own; leave one out.")
    limit = grid.time_limit if time_limit is None else checks.positive(time_limit, "time_limit")
    _own(Path(out) / GRID)
    refuse_hopeless(grid)
    began, store, work = time.monotonic(), Store(out), None
    try:
        place = store.claim()
        grid = grid.placed(store.folder)
        work = Work(grid, store, limit, retry, place)
        write_whole(store.folder / GRID, to_toml(grid, store.folder))
        work.look()
        if work.missing:
            _compute(work, lambda: _engine(scheduler, workers, work.missing), progress)
        count = store.write_results(grid.ids)
        if progress is not None:
            progress(work.status(running=False))
        notes = tuple(dict.fromkeys(store.notes))
        seconds = time.monotonic() - began
        return Summary(store.folder, count, work.computed, work.failed, work.reasons(), notes, seconds, grid.ids)
    except KeyboardInterrupt:
        if work is None:
            raise Stopped(None, len(grid), store.folder) from None
        raise Stopped(work.total - work.missing - store.held, work.total, store.folder) from None
    except OSError as error:
        if error.errno in FULL:
            raise OSError(
                f"there is no room left for {error.filename or store.folder} ({error.strerror}); what is written is "
                "kept. Free some space; the same command then continues the sweep."
            ) from error
        raise
    finally:
        store.release()


def _own(path: Path) -> None:
    """Refuse a folder in which the sweep would overwrite a file that is not its own."""
    results, begun = path.with_name(RESULTS), os.path.lexists(path)
    if os.path.lexists(results):
        if not begun:
            raise ValueError(f"{results} does not belong to a sweep and would be overwritten; choose another folder.")
        readable(results, links=False, empty=True)  # no link and no pipe
    if not begun:
        return
    with open(readable(path, links=False, empty=True), "rb") as file:
        if file.read(len(HEADER)) != HEADER.encode():
            raise ValueError(f"{path} is not the file of a sweep and would be overwritten; choose another folder.")


def _engine(scheduler: str | None, workers: int | None, cells: int) -> Engine:
    if scheduler is not None:
        return DaskEngine(scheduler)
    return LocalEngine(min(workers or cores(), cells))


def _compute(work: Work, start: Callable[[], Engine], progress: Watcher | None) -> None:
    engine = start()
    with held_back() as heed:
        try:
            _run(work, engine, progress, heed)
            work.store.flush()
        except BaseException:
            with suppress(OSError):  # report the error that ended the sweep, not one that follows from it
                work.store.flush()
            raise
        finally:
            work.store.notes += engine.notes
            engine.close()


def _run(work: Work, engine: Engine, progress: Watcher | None, heed: Callable[[], None]) -> None:
    under_way, told = 0, -np.inf
    while True:
        while under_way < AHEAD * engine.workers and (task := work.next(engine.workers)) is not None:
            engine.submit(task)
            under_way += 1
        if under_way == 0:
            return
        for task, found in engine.wait(0.5):
            under_way -= 1
            work.answer(task, found)
        heed()
        work.store.write_in_time()  # even if nothing has arrived: the next cell can take long
        work.look()
        if progress is not None and time.monotonic() - told > 1.0:
            told = time.monotonic()
            progress(work.status(waiting=engine.waiting))
