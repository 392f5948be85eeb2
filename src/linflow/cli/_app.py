"""The `linflow` command. An error in any part of it becomes one line and an exit code."""

import difflib
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from linflow._support.extras import explained
from linflow._support.kept import Kept
from linflow._support.version import __version__
from linflow._support.words import visible
from linflow.cli._ctrl_c import remember_ctrl_c

_Usage: Any = typer.BadParameter.__bases__[0]
"""The exception for a command line that cannot be parsed, in every release of Typer."""


class _Help:
    """The help of a command or group. Flags show no type, because they take no value, and lines are joined."""

    help: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.help = re.sub(r"(?<=\S)\n(?=\S)", " ", self.help or "")
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> Any:
        found = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return found


class Command(_Help, TyperCommand):
    """A command."""


class Group(_Help, TyperGroup):
    """A command with subcommands."""


class App(typer.Typer):
    """A Typer application whose commands have the classes above."""

    def command(self, name: str | None = None, *, cls: Any = Command, **options: Any) -> Any:
        """Return a decorator that turns a function into a command."""
        return super().command(name, cls=cls, **options)


class _Group(Group):
    """The top-level group. It turns errors of any command into one line and an exit code."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent=parent, **extra)
        except _Usage as error:
            if not given:  # not a mistake: the help is shown
                raise
            fail(_misread(error, self, given, "linflow"), 2)

    def invoke(self, ctx: Any) -> Any:
        given = list(ctx.args)  # the arguments of the command; parsing empties the list
        try:
            return super().invoke(ctx)
        except _Usage as error:
            if not error.message and getattr(error, "param", None) is None:  # not a mistake: the help was shown
                raise
            name = ctx.invoked_subcommand
            command = self.commands.get(name, self)
            shown = "linflow" if command is self else f"linflow {name}"
            inner = getattr(command, "commands", {}) if command is not self else {}
            if given and given[0] in inner:
                command, shown = inner[given[0]], f"{shown} {given[0]}"
            elif inner:  # the name `run` can be left out
                command = inner["run"]
            fail(_misread(error, command, given, shown), 2)
        except KeyboardInterrupt as stop:
            fail(interrupted(stop), 130)
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(f"cannot use {error.filename!r}: {error.strerror}." if error.filename else str(error), 2)
        except ImportError as error:
            fail(explained(error), 2)
        except ValueError as error:
            fail(str(error), 2)
        except MemoryError as error:
            fail(f"there is not enough memory ({error}); use narrower layers or less data.", 2)


app = App(
    cls=_Group,
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Convergence of gradient flow on multi-layer linear models: certified rates set against exact runs.",
)


def _misread(error: Any, command: Any, given: Sequence[str], name: str) -> str:
    """Return a sentence on the word that cannot be parsed, with a near option and the command that lists them all."""
    see = f"see {name} --help."
    option = getattr(error, "option_name", None)
    parameter = getattr(error, "param", None)
    if option is not None and hasattr(error, "possibilities"):
        known = [flag for known in command.params for flag in known.opts if flag.startswith("--")] + ["--help"]
        close = difflib.get_close_matches(option, known, 1)
        hint = f"did you mean {close[0]}? S" if close else "s"
        return f"option {option} is not known; {hint}{see[1:]}"
    if option is not None:
        takes_none = any(option in p.opts and getattr(p, "is_flag", False) for p in command.params)
        return f"option {option} {'takes no value' if takes_none else 'needs a value after it'}; {see}"
    text = (error.message or _missing(parameter, name) or error.format_message()).strip().rstrip(".")
    text = text[:1].lower() + text[1:]
    if parameter is not None and parameter.opts[0].startswith("-"):
        value = _after(parameter.opts[0], given)
        for words, needed in _NEEDED.items():
            text = needed if words in text else text
        return f"option {parameter.opts[0]} {f'is {value!r}' if value is not None else 'is missing'}: {text}; {see}"
    if "unexpected extra argument" in text:
        words = text.rpartition("(")[2].rstrip(")")
        return (
            f"{name} got {words!r}, which it does not take; leave it out, or write an option's name before it; {see}"
        )
    if text.startswith("no such command"):
        names = ", ".join(getattr(command, "commands", ()))
        return f"{text}{' Commands' if text.endswith('?') else '; commands'} are {names}."
    return f"{text}; {see}"


def _missing(parameter: Any, name: str) -> str:
    """Return a sentence on a missing argument, or an empty text for an option."""
    if parameter is None or parameter.opts[0].startswith("-"):
        return ""
    what = parameter.help[:1].lower() + parameter.help[1:]
    return f"{name} needs {parameter.metavar or parameter.name.upper()} after it: {what}"


_NEEDED = {"valid integer": "a whole number is needed", "valid number": "a number is needed"}
"""The words with which Typer refuses a kind of value, and the text shown instead."""


def _after(flag: str, given: Sequence[str]) -> str | None:
    """Return the value of an option as it was typed; the last one if there are several."""
    found = None
    for word, following in zip(given, [*given[1:], None], strict=True):
        if word == flag:
            found = following
        elif word.startswith(flag + "="):
            found = word[len(flag) + 1 :]
    return found


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text. Names from files and options cannot act on the terminal."""
    typer.echo(visible(text), err=err, nl=nl)


def fail(text: str, code: int) -> None:
    """Print one line on what went wrong, and exit with a code."""
    say("linflow: " + " ".join(text.split()), err=True)
    raise typer.Exit(code)


def interrupted(stop: KeyboardInterrupt) -> str:
    """Return a sentence on what is kept of the work that Ctrl-C ended."""
    return stop.kept if isinstance(stop, Kept) else "interrupted; nothing was written."


def _version(wanted: bool) -> None:
    if wanted:
        say(f"linflow {__version__}")
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
            stream.reconfigure(encoding="utf-8")  # so that ✓ and σ pass through pipes on every system
    remember_ctrl_c()
    app(prog_name="linflow")
