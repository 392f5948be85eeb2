"""`linflow sweep`: run a grid, show its progress, plot it and report on it."""

import copy
import difflib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from linflow.cli._app import App, Group, app, say
from linflow.cli._show import ready

if TYPE_CHECKING:
    from linflow.sweeps.status import Status

EVERY = 10.0
"""Seconds between two lines of progress if there is no terminal."""
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the sweep.")]


class _Runs(Group):
    """A group that runs a grid if none of its commands is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            close = difflib.get_close_matches(args[0], self.commands, 1)
            if close and not args[0].startswith("-") and not Path(args[0]).exists():
                raise ValueError(f"there is no file {args[0]}; did you mean linflow sweep {close[0]}?")
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the options of `run`, which can be used without naming the command."""
        shown = copy.copy(self)
        shown.params = self.commands["run"].params
        super(_Runs, shown).format_help(ctx, formatter)


sweeps = App(
    cls=_Runs,
    no_args_is_help=True,
    help="""Run all experiments of a grid and write a table with one row for each. A stopped sweep can be continued.

Example: linflow sweep grid.toml --out results""",
)
app.add_typer(sweeps, name="sweep")


@sweeps.command()
def run(
    grid: Annotated[Path | None, typer.Argument(metavar="GRID.toml", help="What to run (docs/sweeps.md).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; finished cells are not run again.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes; default one per core.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="Run on the Dask cluster of this scheduler.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds that a cell may take.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    status: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Show the progress of a sweep in this folder; run nothing.")
    ] = None,
) -> None:
    """Run a grid; the word `run` may be left out.

    Example: linflow sweep run grid.toml --out results --workers 8

    Exit code 0: every cell is good; 1: some failed; 2: bad input; 130: Ctrl-C, with what was done kept.
    """
    if status is not None:
        if retry or any(given is not None for given in (grid, out, workers, scheduler, time_limit)):
            raise ValueError("--status only looks at a folder; leave out the grid and all other options.")
        _tell(status)
    if grid is None or out is None:
        raise ValueError("a sweep needs a grid and a folder: linflow sweep grid.toml --out results")
    from linflow.sweeps.driver import run_sweep
    from linflow.sweeps.grid_file import read_grid

    given = read_grid(grid)
    for doubt in given.doubts:
        say(f"note: {doubt}", err=True)
    with _progress() as watch:
        summary = run_sweep(given, out, workers, scheduler, time_limit, retry, watch)
    say(str(summary))
    raise typer.Exit(1 if summary.failed else 0)


@sweeps.command()
def status(folder: Folder) -> None:
    """Show the progress of a sweep; this works from another terminal too.

    Example: linflow sweep status results
    """
    _tell(folder)


@sweeps.command()
def plot(
    folder: Folder,
    x: Annotated[str, typer.Option(help="Column along the axis.")] = "width",
    y: Annotated[str, typer.Option(help="Column of the y axis; its median, with a band for the rest.")] = "rate",
    hue: Annotated[str | None, typer.Option(help="Column with one curve for each of its values.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .pdf, .svg or .png; in the folder if not given.")] = None,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw one column over another, with a band from the 10th to the 90th percentile over the seeds.

    Example: linflow sweep plot results --x width --y rate --hue init
    """
    from linflow import plots
    from linflow.sweeps.reading import plot_sweep

    path = out or folder / f"{y}-over-{x}{f'-by-{hue}' if hue else ''}.pdf"
    ready(path, (".pdf", ".svg", ".png"))
    plots.save(plot_sweep(folder, x, y, hue, theme=theme), path)
    say(f"wrote {path}")


@sweeps.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder if not given.")] = None,
) -> None:
    """Write a page: bound against truth over all cells, the tightest and the loosest, and what failed.

    Example: linflow sweep report results
    """
    from linflow.sweeps.page import write_report

    say(f"wrote {write_report(folder, out)}")


def _tell(folder: Path) -> NoReturn:
    """Print the progress of a sweep, and exit with 1 if it is not done or cells failed, else with 0."""
    from linflow.sweeps.status import sweep_status

    found = sweep_status(folder)
    say(str(found))
    raise typer.Exit(0 if found.done == found.total and not found.failed else 1)


@contextmanager
def _progress() -> Iterator["Callable[[Status], None]"]:
    """Yield a watcher that shows a bar on a terminal, or else prints a line now and then."""
    if not sys.stderr.isatty():
        told = [time.monotonic()]

        def line(now: "Status") -> None:
            if time.monotonic() - told[0] > EVERY:
                told[0] = time.monotonic()
                print(now, file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda now: bar.update(task, total=now.total, completed=now.done, description=str(now))
