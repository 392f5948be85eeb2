"""`linflow sweep`: run a grid, see how far it is, draw it, report on it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from linflow.cli._app import app

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the sweep.")]


class _Runs(TyperGroup):
    """A group that runs a grid where no command of it is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweeps = typer.Typer(
    cls=_Runs,
    no_args_is_help=True,
    help="""Run all experiments of a grid, one row of a table each; nothing is lost and nothing computed twice.

Example: linflow sweep grid.toml --out results

The options are those of `linflow sweep run`.""",
)
app.add_typer(sweeps, name="sweep")


@sweeps.command()
def run(
    grid: Annotated[Path | None, typer.Argument(metavar="GRID.toml", help="What to run (docs/sweeps.md).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; what is there is not run again.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="Run on the Dask cluster of this scheduler.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds that a cell may take.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells that failed again.")] = False,
    status: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Say how far the sweep in this folder is, and run nothing.")
    ] = None,
) -> None:
    """Run a grid; the word `run` may be left out.

    Example: linflow sweep run grid.toml --out results --workers 8

    Exit code 0: every cell is good; 1: some failed; 2: bad input; 130: Ctrl-C, with what was done kept.
    """
    from linflow.sweeps import command

    if status is not None:
        if grid is not None or out is not None:
            raise ValueError("--status only looks at a folder; leave out the grid and --out.")
        raise typer.Exit(command.status(status))
    if grid is None or out is None:
        raise ValueError("a sweep needs a grid and a folder: linflow sweep grid.toml --out results")
    raise typer.Exit(command.run(grid, out, workers=workers, scheduler=scheduler, time_limit=time_limit, retry=retry))


@sweeps.command()
def status(folder: Folder) -> None:
    """Say how far a sweep is, from another terminal too.

    Example: linflow sweep status results
    """
    from linflow.sweeps import command

    raise typer.Exit(command.status(folder))


@sweeps.command()
def plot(
    folder: Folder,
    x: Annotated[str, typer.Option(help="Column along the axis.")] = "width",
    y: Annotated[str, typer.Option(help="Column upwards; its median, and a band over what else varies.")] = "rate",
    hue: Annotated[str | None, typer.Option(help="Column whose values have a curve each.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .pdf, .svg or .png; in the folder if not given.")] = None,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw one column over another, with a band from the 10th to the 90th percentile over the seeds.

    Example: linflow sweep plot results --x width --y rate --hue init
    """
    from linflow.sweeps import command

    command.plot(folder, x=x, y=y, hue=hue, out=out, theme=theme)


@sweeps.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder if not given.")] = None,
) -> None:
    """Write a page: bound against truth over all cells, the tightest and the loosest, and what failed.

    Example: linflow sweep report results
    """
    from linflow.sweeps import command

    command.report(folder, out=out)
