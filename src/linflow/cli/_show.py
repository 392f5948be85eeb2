"""The output of the commands: progress on a terminal, analyses, tables and JSON."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linflow._support.digits import number
from linflow._support.fractions import FRACTIONS, spelled
from linflow._support.words import plural, visible
from linflow.cli._app import say
from linflow.cli._ctrl_c import raise_if_asked

if TYPE_CHECKING:
    from linflow.experiments.analysis import Analysis
    from linflow.experiments.schema import Experiment


_NEEDS = {
    ".nc": ("xarray", "h5netcdf"), ".parquet": ("pyarrow",), ".csv": ("pyarrow",), ".safetensors": ("safetensors",),
}  # fmt: skip
"""The packages that write a file, by its suffix."""


def load_writers() -> None:
    """Import the packages that save a run, and write a first file to memory. After Ctrl-C it would be too late."""
    try:
        import scipy.optimize  # noqa: F401 - it finds when a run reached a gap
        import xarray

        xarray.Dataset({"t": ("t", [0.0])}).to_netcdf(None, engine="h5netcdf")
    except (ImportError, ValueError):  # reported when it is needed, with what to install
        return


def ready(path: Path, kinds: Sequence[str] = (), *, made: bool = False) -> None:
    """Check that a file can be written, so that the error comes now and not after minutes of work.

    Nothing is written yet.

    Args:
        path: the path of the file.
        kinds: the allowed suffixes; any suffix if none is given.
        made: whether missing folders will be created.

    Raises:
        ValueError: another suffix.
        FileNotFoundError, PermissionError: the file cannot be written.
        FileExistsError: the file exists and linflow has not written it.
        ImportError: a package that writes such a file is not installed.
    """
    if kinds and path.suffix.lower() not in kinds:
        raise ValueError(
            f"{str(path)!r} ends in {path.suffix!r}; a name that ends in {' or '.join(kinds)} is needed."
        )
    folder = path.parent
    while made and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        way = "name another" if folder.exists() else "make it first"
        raise FileNotFoundError(f"{str(path)!r} cannot be written: {str(folder)!r} is not a folder; {way}.")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(
            f"{str(path)!r} cannot be written; name another file, or a folder that you can write to."
        )
    from linflow._support.own_files import refuse_foreign_files
    from linflow._support.paths import import_for

    for package in _NEEDS.get(path.suffix.lower(), ()):
        import_for(package, path)
    written = [beside_table(path), path] if path.suffix.lower() == ".csv" else [path]
    refuse_foreign_files(written, f"name another {'folder' if made else 'file'}")


def beside_table(table: Path) -> Path:
    """Return the path of the file beside a CSV table that records what made it."""
    return table.with_name(table.name + ".toml")


def write_run(run: Any, experiment: "Experiment", table: Path) -> list[Path]:
    """Write time, loss and rate as a table, with a record of what made them; return the paths of the files.

    Parquet keeps the record in its schema. A program that reads a CSV would take a comment for data, so an experiment
    file beside the CSV holds the record, and makes the table again.
    """
    import pyarrow

    from linflow._support.own_files import MADE
    from linflow._support.paths import write_whole
    from linflow.files import write_table

    told = experiment.echo()
    columns = pyarrow.table({"t": run.t, "loss": run.loss, "gap": run.gap, "rate": run.rate})
    write_table(columns.replace_schema_metadata({"linflow": json.dumps(told)}), table)
    if table.suffix.lower() != ".csv":
        return [table]
    del told["settings"]
    name = " ".join(table.name.split())  # a comment must be one line
    head = f"# {name} {MADE} simulate {name}.toml --table {name}\n# {json.dumps(told)}\n"
    beside = beside_table(table)
    write_whole(beside, head + experiment.to_toml(table.parent))
    return [table, beside]


def print_analysis(found: "Analysis", index: Path) -> None:
    """Print an analysis: sentences, and tables that fit 80 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from linflow.certificates.checking import steps_taken

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if i else "left", overflow="fold")
        return made

    console, cert, run = Console(highlight=False), found.certificate, found.run
    style = "green" if found.passed else "bold red"
    console.print(Text(visible(f"{found.network}: {found.verdict}"), style))
    points = Table.grid(padding=(0, 1))
    for finding in found.findings:
        points.add_row("•", Text(visible(finding.text)))
    console.print(points)

    applying = [g for g in cert.guarantees if g.applies]
    if applying:
        flow = cert.algorithm == "flow"
        by = "time to 1e-6" if flow else "steps to 1e-6"
        rows = table("Guarantee", "rate", by)
        for g in applying:
            rows.add_row(Text(g.name), number(g.rate), number(cert.arrival(g, 1e-6)))
        console.print(rows)
        times = table("Gap reached", *(("guaranteed", "actual") if flow else ("steps guaranteed", "taken")))
        for fraction in FRACTIONS:
            pair = (cert.time_to(fraction), run.time_to(fraction))
            if not flow:
                pair = (cert.steps_to(fraction), steps_taken(run, fraction))
            times.add_row(spelled(fraction), *map(number, pair))
        console.print(times)
    others = len(cert.guarantees) - len(applying)
    console.print(
        Text(f"{plural(others, 'other guarantee', 'do')} not apply; linflow certify and the report say why.")
    )
    console.print(
        Text(visible(f"Run: {run.result.value}; {plural(run.stats.steps, 'step')}. The report is {index}")),
        soft_wrap=True,
    )


def print_json(value: Any) -> None:
    """Print a value as JSON. Numbers that are not finite become null."""
    from linflow._support.plain import plain

    say(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def columns() -> tuple[Any, ...]:
    """Return the columns of a progress bar: the task, its progress and speed, and the time elapsed and left."""
    from rich.progress import BarColumn, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Pace(ProgressColumn):
        """The part that is done, the speed, the time elapsed and the time left."""

        def render(self, task: Any) -> Text:
            elapsed = f"{_clock(task.elapsed)} elapsed"
            if not task.total:
                return Text(elapsed)
            done = task.completed / task.total
            # The recent rate, or the overall rate if there is no recent progress.
            rate = (task.speed or 0) / task.total or (done / task.elapsed if task.elapsed else 0.0)
            left = f"{_clock((1 - done) / rate if rate else None)} left"
            return Text(
                ", ".join(filter(None, (f"{math.floor(100 * done + 1e-9):3d}%", _speed(rate), elapsed, left)))
            )

    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(20),
        Pace(Column(no_wrap=True)),
    )


def _speed(rate: float) -> str:
    """Return a rate (fraction of the whole per second) as percent in a unit that makes it at least 1.

    The text is empty if the rate is too low for any unit, or if all is done within a second.
    """
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if 100 * rate * seconds >= 1:
            return f"{100 * rate * seconds:.0f}%/{unit}" if rate < 1 else ""
    return ""


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@contextmanager
def progress(what: str, *, known: bool = True) -> Iterator[Callable[[float], None]]:
    """Yield a callback that raises a pending Ctrl-C and, on a terminal, moves a progress bar.

    Args:
        what: the name of the task.
        known: whether the amount of work is known. If not, the bar moves by itself.
    """
    if not sys.stderr.isatty():
        yield raise_if_asked
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1000 if known else None)

        def tick(fraction: float) -> None:
            raise_if_asked()
            bar.update(task, completed=1000 * fraction)

        yield tick
