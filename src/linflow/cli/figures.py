"""`linflow reproduce`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linflow._support.kept import Kept
from linflow._support.words import visible
from linflow.cli._app import app, say
from linflow.cli._show import columns

if TYPE_CHECKING:
    from linflow.experiments.figures import PaperFigure
    from linflow.pages.reproduction import Report, Watcher

OWN = "This library"
"""The heading of figures that reproduce no paper. They are listed last."""


@app.command()
def reproduce(
    figures: Annotated[
        list[str] | None, typer.Argument(metavar="FIGURE", help="Figures to compute; all if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of draws, if a figure has several.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting, such as h=30,100; --list names them."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Include the figures that take minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, not a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the figures and exit.")] = False,
) -> None:
    """Compute the figures, check every claim made about them, and write one page to read.

    Exit code 0: every claim holds; 1: one fails; 2: bad input.
    """
    from linflow.experiments.figures import assigned, select

    chosen = select(figures, full=full or show_list)
    given = _given(settings or [], seeds)
    assigned({one.id: one.settings for one in chosen}, given)  # a mistake is reported before anything else
    if show_list:
        _print_list(chosen, as_json, in_full=bool(figures))
        return

    from linflow.pages import reproduction as report

    try:
        with _watch(chosen) as watcher:
            found = report.reproduce(figures, out=out, seed=seed, full=full, given=given, progress=watcher)
    except report.ReportInterrupted as stop:
        raise Kept(_kept(stop.report)) from stop
    if as_json:
        say(found.json(), nl=False)
    else:
        _print_report(found)
    raise typer.Exit(0 if found.passed else 1)


def _given(texts: list[str], seeds: int | None) -> dict[str, str]:
    """Return the settings by name; ValueError if one is not NAME=VALUE or is given twice."""
    given = {} if seeds is None else {"seeds": str(seeds)}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise ValueError(f"--set is {text!r}; it must be NAME=VALUE, such as h=30,100.")
        if name in given:
            raise ValueError(f"--set gives {name} twice; give it once.")
        given[name] = value
    return given


def _print_list(experiments: "list[PaperFigure]", as_json: bool, *, in_full: bool) -> None:
    """Print the figures by paper, with their settings if `in_full`."""
    if as_json:
        import json

        listed = [
            {"id": e.id, "title": e.title, "paper": e.paper, "source": e.source, "settings": e.settings().texts()}
            for e in experiments
        ]
        say(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    width = max((len(e.id) for e in experiments), default=0)
    papers = sorted({e.paper for e in experiments}, key=lambda paper: (paper == OWN, _year(paper), paper))
    for i, paper in enumerate(papers):
        say(("\n" if i else "") + paper)
        for e in experiments:
            if e.paper == paper:
                say(f"  {e.id:{width}}  {e.title}" + (" (takes minutes; --full)" if e.full else ""))
                if in_full:
                    _print_settings(e)


def _print_settings(experiment: "PaperFigure") -> None:
    values, meanings = experiment.settings().texts(), experiment.settings.meanings()
    width = max((len(f"{name}={value}") for name, value in values.items()), default=0)
    for name, value in values.items():
        say(f"    {f'{name}={value}':{width}}  {meanings[name]}")


def _year(paper: str) -> str:
    return paper.rpartition(" ")[2]


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
        for one in figure.outcome.left_out:
            table.add_row(Text(name), Text(one.text), Text(one.reason), Text("left out", "dim"))
            name = ""
    console.print(table)
    console.print(Text(visible(f"{found.verdict}. The report is {found.index}")), soft_wrap=True)


def _kept(report: "Report") -> str:
    done = [figure.experiment.id for figure in report.figures]
    if not done:
        return "interrupted before the first figure was done; nothing was written."
    return f"interrupted; done: {', '.join(done)} ({len(done)} of {len(report.names)}), in {report.index}."


@contextmanager
def _watch(experiments: "list[PaperFigure]") -> "Iterator[Watcher]":
    """Yield a watcher that prints a line on stderr for each finished figure and, on a terminal, a bar below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TextColumn
    from rich.table import Column

    console = Console(stderr=True, highlight=False)
    names = [experiment.id for experiment in experiments]
    width = max(map(len, names), default=0)
    note = TextColumn("[dim]{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True))  # the rest of the row
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
