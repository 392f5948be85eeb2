"""Options for the keys of an experiment file, shared by the commands that take such a file."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from linflow.cli._app import Command

OPTIONS: dict[str, tuple[str, type, str, str]] = {
    "x": (
        "data.x",
        Path,
        "Data",
        "Inputs, one row for each sample: .csv, .txt, .npy, .npz (data.npz:X) or .parquet.",
    ),
    "y": ("data.y", Path, "Data", "Outputs or labels, one row for each sample."),
    "target": ("data.target", Path, "Data", "Target of a factorization, instead of x and y."),
    "objective": (
        "data.objective",
        str,
        "Data",
        "factorization, completion, regression, sensing, huber, logistic, exponential, softmax, powers, diagonal or "
        "circular; default factorization with a target, else regression.",
    ),
    "p": ("data.p", float, "Data", "Power of the residuals for the objective powers, 2 or more; default 4."),
    "shape": ("data.shape", str, "Data", "Rows and columns of the product of the objective sensing, such as 3,2."),
    "missing": (
        "data.missing",
        str,
        "Data",
        "What a missing entry of the target is: nan, or empty for an empty cell. It makes a completion.",
    ),
    "sample_weights": ("data.sample_weights", Path, "Data", "Weight of each sample of a regression, one a row."),
    "ridge": ("data.ridge", float, "Data", "Ridge ρ of a regression: ½ρ‖W‖² is added to the loss."),
    "delta": ("data.delta", float, "Data", "Residual from which the objective huber is linear; default 1."),
    "mean": ("data.mean", bool, "Data", "Divide the softmax loss by the number of samples, as PyTorch does."),
    "init": (
        "start.init",
        str,
        "Start",
        "gaussian, ntk, fan_in, fan_out, orthogonal, balanced, imbalanced, spectral, small or identity.",
    ),
    "hidden": ("start.hidden", str, "Start", "Hidden widths, such as 64 or 64,64; needed by a drawn start."),
    "size": (
        "start.size",
        float,
        "Start",
        "Standard deviation, gain, imbalance or size of the start, if it has one; default 1, or 0.001 for small.",
    ),
    "multiplier": ("start.multiplier", float, "Start", "Factor on every drawn layer."),
    "seed": ("start.seed", int, "Start", "Seed of the start."),
    "weights": (
        "start.weights",
        Path,
        "Start",
        "Weights from .npz, .safetensors, .pt or .ckpt, instead of a drawn start.",
    ),
    "layers": (
        "start.layers",
        str,
        "Start",
        "Names of the layers in the file of weights, first applied first: up,down.",
    ),
    "algorithm": ("algorithm", str, "Run", "flow or descent."),
    "until": ("flow.until", float, "Run", "Fraction of the initial loss gap at which the run ends."),
    "t_max": ("flow.t_max", float, "Run", "Latest time of a flow; no limit by default."),
    "rtol": ("flow.rtol", float, "Run", "Relative tolerance of one step of the flow."),
    "max_steps": ("flow.max_steps", int, "Run", "Maximum number of steps of the integration."),
    "record": (
        "flow.record",
        str,
        "Run",
        "Recorded along the run: least_eigenvalue, imbalance_drift, tangent_change, law_error, singular_values.",
    ),
    "step_size": ("descent.step_size", str, "Run", "Step size of a descent (the first, if it changes), or safe."),
    "schedule": (
        "descent.schedule",
        str,
        "Run",
        "constant, backtracking, local_smoothness or xu2025: how the step of a descent changes.",
    ),
    "steps": ("descent.steps", int, "Run", "Maximum number of steps of a descent."),
    "layer_rates": ("optimizer.layer_rates", str, "Optimizer", "Rate of each layer, such as 1,16."),
    "weight_decay": ("optimizer.weight_decay", float, "Optimizer", "Weight decay, as in torch.optim.SGD."),
    "momentum": ("optimizer.momentum", float, "Optimizer", "Momentum of a descent, as in torch.optim.SGD."),
    "nesterov": ("optimizer.nesterov", bool, "Optimizer", "Nesterov's form of the momentum."),
    "friction": ("optimizer.friction", float, "Optimizer", "Friction of the heavy-ball flow."),
    "batch_size": (
        "optimizer.batch_size",
        int,
        "Optimizer",
        "Samples of each mini-batch of a descent; all by default.",
    ),
    "batch_seed": ("optimizer.batch_seed", int, "Optimizer", "Seed of the mini-batches."),
    "proof_steps": ("proof.steps", int, "Proof", "Maximum number of steps of a flow's proof; 0 for no proof."),
    "rate": ("design.rate", float, "Design", "Rate of the flow to certify."),
    "within": (
        "design.steps",
        int,
        "Design",
        "Maximum number of certified steps of a descent; by default as few as possible.",
    ),
    "confirm": ("design.confirm", bool, "Design", "Run from the start and check the certificate."),
    "save": ("output.save", Path, "Output", "Keep the run as NetCDF, in a file that ends in .nc."),
    "table": ("output.table", Path, "Output", "Write time, loss and rate to a .csv or .parquet file."),
    "plot": ("output.plot", Path, "Output", "Draw the loss into a .pdf, .svg or .png file."),
    "out": ("output.start", Path, "Output", "Write the weights to a .npz or .safetensors file."),
    "folder": ("output.folder", Path, "Output", "Folder for the report."),
}
"""For each option: the key in the file, the type, the panel in the help, and the help text."""
OLD_FLAGS = {"multiplier": "--scale"}
"""Old names of options. They still work."""
FLAGS = {"folder": "--out", "confirm": "--confirm", "nesterov": "--nesterov", "mean": "--mean"}
"""Options that are not named after their parameter, or that take no value."""


def flag(name: str) -> str:
    """Return the flag of an option as it is typed, such as `--max-steps`."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


File = Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="Experiment file; options override its keys.")]


class ExperimentCommand(Command):
    """A command with the options above. Its help shows their defaults, which are those of the keys."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the defaults added."""
        for option in self.params:
            if option.name in OPTIONS and getattr(option, "rich_help_panel", None):
                key, _, _, text = OPTIONS[option.name]
                option.help = text + _default(key)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _default(key: str) -> str:
    from linflow.experiments.schema import SECTIONS, Experiment

    section, _, name = key.rpartition(".")
    value = (SECTIONS[section] if section else Experiment).model_fields[name].default
    if value is None or value is False or value == ():
        return ""
    return rf" [dim]\[default: {f'{value:g}' if isinstance(value, float) else value}][/dim]"


def _words(key: str) -> Callable[[str], list[str]]:
    """Return a function that completes a value in a shell with the words that the key allows."""

    def complete(incomplete: str) -> list[str]:
        from linflow.experiments.schema import allowed

        return [word for word in allowed(key) if word.startswith(incomplete)]

    return complete


def takes_experiment(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the file argument and the named options to a command.

    The command itself is called with an `experiment` made from them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "experiment"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(
                name,
                keyword,
                default=None,
                annotation=Annotated[
                    kind | None,
                    typer.Option(
                        *(flag(name), *([OLD_FLAGS[name]] if name in OLD_FLAGS else [])),
                        help=text,
                        rich_help_panel=panel,
                        autocompletion=_words(key) if kind is str else None,
                    ),
                ],  # type: ignore[valid-type]
            )
            for name, (key, kind, panel, text) in OPTIONS.items()
            if name in names
        ]
        first = inspect.Parameter("file", keyword, default=None, annotation=File)

        def wrapped(**given: Any) -> None:
            from linflow.experiments.schema import experiment

            path = given.pop("file")
            options = {
                OPTIONS[name][0]: _value(name, given.pop(name)) for name in names if given.get(name) is not None
            }
            for name in names:
                given.pop(name, None)
            flags = {key: flag(name) for name, (key, *_) in OPTIONS.items()}
            command(experiment=experiment(path, options, flags), **given)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = inspect.Signature([first, *shared, *(p.replace(kind=keyword) for p in own)])  # type: ignore[attr-defined]
        return wrapped

    return decorate


def widths(text: str, name: str) -> list[int]:
    """Parse widths such as `64,64`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"option --{name} is {text!r}; whole numbers separated by commas are needed, such as 64,64."
        ) from None


def _value(name: str, given: Any) -> Any:
    if name in ("hidden", "shape"):
        return widths(given, name)
    if name == "layer_rates":
        try:
            return [float(part) for part in given.split(",")]
        except ValueError:
            raise ValueError(f"option --layer-rates is {given!r}; numbers are needed, such as 1,16.") from None
    if name in ("record", "layers"):
        return given.split(",")
    if name == "step_size" and given != "safe":
        try:
            return float(given)
        except ValueError:
            raise ValueError(f"option --step-size is {given!r}; a number, or safe, is needed.") from None
    return given
