"""What `linflow sweep` does: thin, for the command line to call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from linflow.sweeps.status import Status, sweep_status

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def run(
    grid: Path,
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit: float | None = None,
    retry: bool = False,
    echo: Callable[[str], None] = print,
) -> int:
    """Run a sweep with progress on stderr, and print its summary; return 0, or 1 where cells failed."""
    from linflow.sweeps.driver import run_sweep  # noqa: PLC0415 - slow to import
    from linflow.sweeps.grid_file import read_grid  # noqa: PLC0415

    with _progress() as watch:
        summary = run_sweep(read_grid(grid), out, workers, scheduler, time_limit, retry, watch)
    echo(str(summary))
    return 1 if summary.failed else 0


def status(folder: Path, *, echo: Callable[[str], None] = print) -> int:
    """Print how far a sweep is; return 0, or 1 where it is not done or cells failed."""
    found = sweep_status(folder)
    echo(str(found))
    return 0 if found.done == found.total and not found.failed else 1


def plot(
    folder: Path,
    *,
    x: str = "width",
    y: str = "rate",
    hue: str | None = None,
    out: Path | None = None,
    theme: str = "light",
    echo: Callable[[str], None] = print,
) -> None:
    """Draw one column over another into a file, `Y-over-X.pdf` in the folder if none is named."""
    from linflow import plots  # noqa: PLC0415 - slow to import
    from linflow.sweeps.looking import plot_sweep  # noqa: PLC0415

    path = out or folder / f"{y}-over-{x}.pdf"
    plots.save(plot_sweep(folder, x, y, hue, theme=theme), path)
    echo(f"wrote {path}")


def report(folder: Path, *, out: Path | None = None, echo: Callable[[str], None] = print) -> None:
    """Write the page on a sweep."""
    from linflow.sweeps.page import write_report  # noqa: PLC0415 - slow to import

    echo(f"wrote {write_report(folder, out)}")


@contextmanager
def _progress() -> Iterator[Callable[[Status], None]]:
    """Yield a watcher: a bar on a terminal, elsewhere a line now and then."""
    if not sys.stderr.isatty():
        told = [time.monotonic()]

        def line(now: Status) -> None:
            if time.monotonic() - told[0] > EVERY:
                told[0] = time.monotonic()
                print(now, file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda now: bar.update(task, total=now.total, completed=now.done, description=str(now))
