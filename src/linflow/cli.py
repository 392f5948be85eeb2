"""The command line. It only reads arguments and prints; imports wait until a command needs them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from linflow.experiments import Experiment
    from linflow.report import Report, Watcher


class _Group(TyperGroup):
    """Turns errors of any command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            report = getattr(stop, "report", None)
            _fail(_interrupted(report) if report else "interrupted.", 130)
        except BrokenPipeError:
            raise
        except OSError as error:
            _fail(f"cannot use {error.filename!r}: {error.strerror}." if error.filename else str(error), 2)
        except ValueError as error:
            _fail(str(error), 2)


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Convergence of gradient flow on multi-layer linear models: certified rates set against exact runs.",
)


def _fail(text: str, code: int) -> None:
    typer.echo("linflow: " + " ".join(text.split()), err=True)
    raise typer.Exit(code)


def _interrupted(report: "Report") -> str:
    done = [finding.experiment.id for finding in report.findings]
    if not done:
        return "interrupted before the first figure was done; nothing was written."
    return f"interrupted; done: {', '.join(done)} ({len(done)} of {len(report.names)}), in {report.index}."


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"linflow {version('linflow')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def reproduce(
    figures: Annotated[
        list[str] | None, typer.Argument(metavar="FIGURE", help="Figures to compute; all if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, not a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the figures and exit.")] = False,
) -> None:
    """Compute the figures, check every claim made about them, and write one page to read.

    Exit code 0: every claim holds; 1: one fails; 2: bad input.
    """
    from linflow.experiments import select

    chosen = select(figures)
    if show_list:
        _print_list(chosen, as_json)
        return

    from linflow import report

    with _watch(chosen) as watcher:
        found = report.reproduce(figures, out=out, seed=seed, progress=watcher)
    if as_json:
        typer.echo(found.json(), nl=False)
    else:
        _print_report(found)
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def cite(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="References to print; all if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not BibTeX or a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List keys and titles.")] = False,
) -> None:
    """Print the literature that results rest on, as BibTeX.

    Exit code 0, or 2: a key is unknown.
    """
    from linflow.references import REFERENCES, select

    chosen = select(keys or REFERENCES)
    if as_json:
        import json

        fields = ("key", "title") if show_list else ("key", "title", "bibtex")
        listed = [{name: getattr(reference, name) for name in fields} for reference in chosen]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    elif show_list:
        width = max(len(reference.key) for reference in chosen)
        for reference in chosen:
            typer.echo(f"{reference.key:{width}}  {reference.title}")
    else:
        typer.echo("\n\n".join(reference.bibtex for reference in chosen))


def _print_list(experiments: "list[Experiment]", as_json: bool) -> None:
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
    for finding in found.findings:
        name = finding.experiment.id
        for claim in finding.outcome.claims:
            verdict = Text("✓ holds", "green") if claim.passed else Text("✗ fails", "bold red")
            table.add_row(Text(name), Text(claim.text), Text(claim.observed), verdict)
            name = ""
    console.print(table)
    console.print(Text(f"{found.verdict}. The report is {found.index}"), soft_wrap=True)


@contextmanager
def _watch(experiments: "list[Experiment]") -> "Iterator[Watcher]":
    """One line on stderr for every figure done and, on a terminal, a bar above which they gather."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    names = [experiment.id for experiment in experiments]
    width = max(map(len, names), default=0)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=len(names), note="")

        def watcher(name: str, fraction: float, note: str) -> None:
            done = names.index(name) + fraction
            bar.update(task, completed=done, description=escape(name), note=escape(note))
            if fraction == 1:
                console.print(f"{name:{width}}  {note}", markup=False, soft_wrap=True)

        yield watcher


def main() -> None:
    """Entry point of the ``linflow`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # ✓ and σ pass through pipes on every system
    app(prog_name="linflow")
