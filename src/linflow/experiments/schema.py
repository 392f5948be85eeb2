"""Experiment files: data, start and run in one TOML file, checked before anything is computed.

Every key is also a command-line option, and every option is a key. What a command did can therefore be written to a
file, and the file can be run again.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from linflow._support.provenance import provenance
from linflow._support.toml import line_of, read_toml, toml_value
from linflow._support.words import visible
from linflow.experiments.old_keys import OLD_KEYS, with_new_names
from linflow.experiments.unused import unused
from linflow.model.optimizer import Batches, Optimizer

Kind = Literal[
    "factorization",
    "completion",
    "regression",
    "sensing",
    "huber",
    "logistic",
    "exponential",
    "softmax",
    "powers",
    "diagonal",
    "circular",
]
Init = Literal[
    "gaussian", "ntk", "fan_in", "fan_out", "orthogonal", "balanced", "imbalanced", "spectral", "small", "identity"
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]


PATHS = ("data.x", "data.y", "data.target", "data.sample_weights", "start.weights")
"""The keys that name files to read."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """What is fitted: `x` and `y` of a regression or classification, or the `target` of a factorization.

    A regression may have `sample_weights`, one for each row, and a `ridge`. `p` is the power of `powers`, `delta` the
    threshold of `huber`, `shape` the rows and columns of the product of `sensing`, and `missing` what stands for a
    missing entry of a target, which makes it a `completion`. `mean` divides the loss of `softmax` by the number of
    samples.
    """

    x: Path | None = None
    y: Path | None = None
    target: Path | None = None
    objective: Kind | None = None
    p: Annotated[float, Field(ge=2, allow_inf_nan=False, strict=True)] | None = None
    shape: tuple[Count, Count] | None = None
    missing: Literal["nan", "empty"] | None = None
    sample_weights: Path | None = None
    delta: Positive | None = None
    mean: bool | None = None
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] | None = None


class StartSection(_Section):
    """The first weights: drawn (with hidden widths, a seed and a multiplier of each layer) or read from a file."""

    init: Init = "ntk"
    hidden: tuple[Count, ...] = ()
    size: Positive | None = None
    multiplier: Positive = 1.0
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    weights: Path | None = None
    layers: tuple[str, ...] = ()


class FlowSection(_Section):
    """The gradient flow, which runs to a fraction of the initial loss gap or to a time."""

    until: Fraction = 1e-6
    t_max: Positive | None = None
    rtol: Fraction = 1e-8
    max_steps: Count = 100_000
    record: tuple[
        Literal["least_eigenvalue", "imbalance_drift", "tangent_change", "law_error", "singular_values"], ...
    ] = ()

    def limits(self) -> dict[str, Any]:
        """Return the tolerance and the end of the flow, as arguments of `gradient_flow`."""
        return {"until": self.until, "t_max": self.t_max, "rtol": self.rtol, "max_steps": self.max_steps}


class ProofSection(_Section):
    """The verified run: a proof of where the exact flow, or descent, goes."""

    steps: Annotated[int, Field(ge=0, strict=True)] = 2000


class DescentSection(_Section):
    """Gradient descent, if asked for: its step ("safe" means that of `safe_step_size`) and how the step changes."""

    step_size: Positive | Literal["safe"] = "safe"
    schedule: Literal["constant", "backtracking", "local_smoothness", "xu2025"] = "constant"
    steps: Count = 10_000


class OptimizerSection(_Section):
    """What the run does besides following the gradient: the options of `gradient_flow` and `gradient_descent`."""

    layer_rates: tuple[Positive, ...] = ()
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0
    nesterov: bool = False
    friction: Positive | None = None
    batch_size: Count | None = None
    batch_seed: Annotated[int, Field(ge=0, strict=True)] = 0

    def optimizer(self, depth: int) -> Optimizer:
        """Return the optimizer of a network of this depth.

        Raises:
            ValueError: there is not one rate for each layer, or Nesterov's form has no momentum.
        """
        return Optimizer.of(
            depth,
            layer_rates=self.layer_rates or None,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            friction=self.friction,
            batches=Batches.of(None, self.batch_size, self.batch_seed if self.batch_size else None),
        )


class DesignSection(_Section):
    """The start to design: for a certified rate of the flow, or for few certified steps of a descent."""

    rate: Positive | None = None
    steps: Count | None = None
    confirm: bool = False


class OutputSection(_Section):
    """Files to write; their paths are relative to the folder in which the command runs."""

    save: Path | None = None
    table: Path | None = None
    plot: Path | None = None
    start: Path | None = None
    folder: Path = Path("analysis")


class Experiment(_Section):
    """All settings of a command. Paths of data and weights are relative to the file that names them."""

    algorithm: Literal["flow", "descent"] = "flow"
    data: DataSection = DataSection()
    start: StartSection = StartSection()
    flow: FlowSection = FlowSection()
    descent: DescentSection = DescentSection()
    optimizer: OptimizerSection = OptimizerSection()
    proof: ProofSection = ProofSection()
    design: DesignSection = DesignSection()
    output: OutputSection = OutputSection()

    def to_toml(self, folder: Path | None = None) -> str:
        """Return this experiment as TOML text that names every key; input paths are relative to `folder` if given."""
        lines = [f"algorithm = {toml_value(self.algorithm)}"]
        for name in SECTIONS:
            lines += ["", f"[{name}]"]
            for key, value in getattr(self, name):
                if isinstance(value, Path) and folder is not None and name != "output":
                    value = Path(os.path.relpath(value, folder))  # noqa: PLW2901
                if value is not None:
                    lines.append(f"{key} = {toml_value(value)}")
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as data that JSON can hold."""
        return self.model_dump(mode="json")

    def echo(self) -> dict[str, Any]:
        """Return what every output records: the settings, versions, seed, precision and machine."""
        return {"settings": self.to_dict(), **provenance(self.start.seed)}


SECTIONS: dict[str, type[_Section]] = {
    "data": DataSection,
    "start": StartSection,
    "flow": FlowSection,
    "descent": DescentSection,
    "optimizer": OptimizerSection,
    "proof": ProofSection,
    "design": DesignSection,
    "output": OutputSection,
}
"""The tables of an experiment file."""


def experiment(
    path: Path | None = None, options: Mapping[str, Any] | None = None, flags: Mapping[str, str] | None = None
) -> Experiment:
    """Return the experiment of a file; options such as `{"flow.until": 1e-4}` replace its keys.

    Args:
        path: the file; None to use the options alone.
        options: key → value.
        flags: key → name of its option, if that is not `--` and the key.

    Raises:
        ValueError: an unknown key or value, or one that the algorithm or the start does not use; the message
            names the file, the line, the key and a close match.
    """
    flags = flags or {}
    tree, text = ({}, "") if path is None else read_toml(path)
    tree, options = with_new_names(tree), {OLD_KEYS.get(key, key): value for key, value in (options or {}).items()}
    for section, key in (path.split(".") for path in PATHS):
        if path is not None and isinstance(tree.get(section), dict) and isinstance(tree[section].get(key), str):
            tree[section][key] = os.path.normpath(os.path.join(Path(path).parent, tree[section][key]))
    for dotted, value in options.items():
        *sections, key = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        if isinstance(place, dict):  # what is not a table is refused below
            place[key] = value
    made = _validated(tree, path, text, options, flags)
    start = made.start
    for dotted, why in unused(made.algorithm, weights=start.weights is not None, init=start.init).items():
        section, key = dotted.split(".")
        value, default = (getattr(getattr(x, section), key) for x in (made, Experiment()))
        # A complete file also names the defaults of keys that it does not use.
        if dotted in options or value != default:
            shown = list(value) if isinstance(value, tuple) else value
            where = _where(dotted, [section, key], path, text, options, flags)
            raise ValueError(f"{where} is {shown!r}, which is not used: {why}.")
    return made


def validated(tree: Mapping[str, Any]) -> Experiment:
    """Return the experiment of sections and their keys; a ValueError explains the first error in one line."""
    return _validated(with_new_names(tree), None, "", {}, {})


def _validated(
    tree: Mapping[str, Any], path: Path | None, text: str, options: Mapping[str, Any], flags: Mapping[str, str]
) -> Experiment:
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ValueError(visible(_explained(error, path, text, options, flags))) from None


def _where(
    dotted: str,
    names: list[str],
    path: Path | None,
    text: str,
    options: Mapping[str, Any],
    flags: Mapping[str, str],
) -> str:
    """Name a key as the user wrote it: an option, or a line of the file."""
    if dotted in options:
        return f"option {flags.get(dotted, '--' + dotted.rpartition('.')[2].replace('_', '-'))}"
    if path is not None:
        old = next((old.split(".") for old, new in OLD_KEYS.items() if new == dotted), names)
        line = max(line_of(text, keys) or 0 for keys in (names, old))  # if a key is not there, its section
        return f"{path}, line {line}: {dotted}" if line else f"{path}: {dotted}"
    return dotted


def _explained(
    error: ValidationError, path: Path | None, text: str, options: Mapping[str, Any], flags: Mapping[str, str]
) -> str:
    """Say in one line what is wrong with the first key, where it is and what is allowed."""
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    known = [part for part in names if part in _names()]
    dotted = ".".join(known[:2]) if first["type"] != "extra_forbidden" else ".".join(names)
    where = _where(dotted, names, path, text, options, flags)
    if first["type"] == "extra_forbidden":
        section = Experiment.model_fields.get(names[0])
        model = section.annotation if len(names) > 1 and section is not None else Experiment
        keys = list(getattr(model, "model_fields", {}))
        there = [f"{name}.{names[-1]}" for name, model in SECTIONS.items() if names[-1] in model.model_fields]
        close = (
            there
            or difflib.get_close_matches(names[-1], keys, 1)
            or difflib.get_close_matches(names[-1], _names(), 1)
        )
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(keys)}."
        return f"{where} is an unknown key; {hint}"
    needed = _needed(first, dotted)
    return f"{where} is {first.get('input')!r}: {needed}" + ("" if needed.endswith("?") else ".")


def _needed(error: Any, dotted: str) -> str:
    """Say what a value must be; for a word, also name the nearest allowed one."""
    if dotted in SECTIONS:
        return f"a table is needed, such as [{dotted}]"
    if error["type"] == "tuple_type":
        example = {"start.hidden": ", such as [64, 64]", "optimizer.layer_rates": ", such as [1.0, 16.0]"}
        return f"a list is needed{example.get(dotted, '')}"
    message = error["msg"][0].lower() + error["msg"][1:]
    if dotted == "data.shape":
        return "two whole numbers are needed, the rows and columns of the product, such as 3,2"
    if dotted == "descent.step_size":
        return "a positive number, or safe, is needed"
    if error["type"] == "literal_error":
        words = re.findall(r"'([^']+)'", message)
        close = difflib.get_close_matches(str(error.get("input")), words, 1)
        return message + (f". Did you mean {close[0]}?" if close else "")
    return message


def _names() -> list[str]:
    names = list(Experiment.model_fields)
    for model in SECTIONS.values():
        names += model.model_fields
    return names


def allowed(dotted: str) -> tuple[str, ...]:
    """Return the words that a key such as `start.init` allows; empty if it is not limited to words."""
    section, _, key = dotted.rpartition(".")
    model = SECTIONS[section] if section else Experiment
    return _words(model.model_fields[key].annotation)


def _words(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in _words(part))
