"""The command itself: errors of any part of it become one line and an exit code."""

import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _Group(TyperGroup):
    """Turns errors of any command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            fail(interrupted(stop), 130)
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(f"cannot use {error.filename!r}: {error.strerror}." if error.filename else str(error), 2)
        except (ValueError, ImportError) as error:
            fail(str(error), 2)
        except MemoryError as error:
            fail(f"there is not enough memory ({error}); ask for narrower layers or fewer data.", 2)


app = typer.Typer(
    cls=_Group,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Convergence of gradient flow on multi-layer linear models: certified rates set against exact runs.",
)


def fail(text: str, code: int) -> None:
    typer.echo("linflow: " + " ".join(text.split()), err=True)
    raise typer.Exit(code)


def interrupted(stop: KeyboardInterrupt) -> str:
    """Say what is left of the work that Ctrl-C ended: a command attaches it as `kept`."""
    report = getattr(stop, "report", None)
    if report is None:
        return getattr(stop, "kept", "interrupted; nothing was written.")
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


def main() -> None:
    """Entry point of the ``linflow`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # ✓ and σ pass through pipes on every system
    app(prog_name="linflow")
