"""What the commands print: progress on a terminal, and JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Print JSON; numbers that it lacks become null."""
    from linflow.analysis_page import plain

    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def columns() -> tuple[Any, ...]:
    """Return the columns of a progress bar: what, how far, how fast, and the time that went by and is left."""
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """Percent in a second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None or not task.total else f"{100 * speed / task.total:.2g} %/s")

    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None] | None]:
    """Yield a callback for a bar, on a terminal; None elsewhere, where runs need not report and are faster."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1000)
        yield lambda fraction: bar.update(task, completed=1000 * fraction)
