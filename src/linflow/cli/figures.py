"""`linflow reproduce`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linflow.cli._app import app
from linflow.cli._show import columns

if TYPE_CHECKING:
    from linflow.experiments.figures import PaperFigure
    from linflow.pages.reproduction import Report, Watcher


@app.command()
def reproduce(
    figures: Annotated[
        list[str] | None, typer.Argument(metavar="FIGURE", help="Figures to compute; all if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="The figures that take minutes, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, not a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the figures and exit.")] = False,
) -> None:
    """Compute the figures, check every claim made about them, and write one page to read.

    Exit code 0: every claim holds; 1: one fails; 2: bad input.
    """
    from linflow.experiments.figures import select

    chosen = select(figures, full=full or show_list)
    if show_list:
        _print_list(chosen, as_json)
        return

    from linflow.pages import reproduction as report

    with _watch(chosen) as watcher:
        found = report.reproduce(figures, out=out, seed=seed, full=full, progress=watcher)
    if as_json:
        typer.echo(found.json(), nl=False)
    else:
        _print_report(found)
    raise typer.Exit(0 if found.passed else 1)


def _print_list(experiments: "list[PaperFigure]", as_json: bool) -> None:
    if as_json:
        import json

        listed = [{"id": e.id, "title": e.title, "source": e.source} for e in experiments]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    width = max((len(e.id) for e in experiments), default=0)
    for e in experiments:
        typer.echo(f"{e.id:{width}}  {e.title}")


def _print_report(found: "Report") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Figure", no_wrap=True)
    table.add_column("Claim", ratio=3)
    table.add_column("Observed", ratio=2)
    table.add_column("Verdict", no_wrap=True)
    for figure in found.figures:
        name = figure.experiment.id
        for claim in figure.outcome.claims:
            verdict = Text("✓ holds", "green") if claim.passed else Text("✗ fails", "bold red")
            table.add_row(Text(name), Text(claim.text), Text(claim.observed), verdict)
            name = ""
    console.print(table)
    console.print(Text(f"{found.verdict}. The report is {found.index}"), soft_wrap=True)


@contextmanager
def _watch(experiments: "list[PaperFigure]") -> "Iterator[Watcher]":
    """One line on stderr for every figure done and, on a terminal, a bar above which they gather."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TextColumn
    from rich.table import Column

    console = Console(stderr=True, highlight=False)
    names = [experiment.id for experiment in experiments]
    width = max(map(len, names), default=0)
    note = TextColumn("[dim]{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True))  # what room is left
    with Progress(
        *columns(), note, expand=True, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("", total=len(names), note="")

        def watcher(name: str, fraction: float, note: str) -> None:
            done = names.index(name) + fraction
            bar.update(task, completed=done, description=escape(name), note=escape(note))
            if fraction == 1:
                console.print(f"{name:{width}}  {note}", markup=False, soft_wrap=True)

        yield watcher
