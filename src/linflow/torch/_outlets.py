"""Outputs of a monitor: a CSV file, and any writer of scalars, such as TensorBoard."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from csv import writer as writer_of
from os import PathLike, fspath
from typing import Any, TextIO

from linflow._support.own_files import refuse_foreign_files
from linflow._support.text_table import text_table
from linflow._support.words import kind_of

COLUMNS = {
    "step": "steps done",
    "lr": "learning rate of the last step",
    "loss": "the objective, or what `observe` was given",
    "gap": "loss over the minimum, ℓ",
    "drift": "max_l ‖D_l − D_l(0)‖_F",
    "change": "change of the imbalances since the start (exact), or in the last step",
    "law": "the change that the law of SGD makes in the same steps, η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ) without momentum",
    "law_error": "norm of the difference of the two",
    "rounding": "what rounding of the weights to their dtype may do to it",
    "lambda_min": "least eigenvalue of T; a Rayleigh quotient, and so not below it, where it was iterated",
    "lambda_min_error": "an eigenvalue is within this of it",
    "lambda_max": "greatest eigenvalue of T",
    "pl": "local PL constant (gradient dominance) γ λ_min(T), as exact as lambda_min",
    "rate": "‖∇L‖²/ℓ, never below pl",
    "smoothness": "K_t, smoothness along the gradient step, at the step 1/K_t",
    "local_step": "1/K_t",
    "safe_step": "largest step now for which no step up to it can raise the loss",
}
"""The logged columns and their meanings. NaN stands for an unknown value."""


class Outlets:
    """Where the rows of a monitor go: a CSV file and a writer of scalars, if they are asked for.

    Args:
        names: names of the columns, the step first.
        csv: path of the file, or None.
        writer: as for `scalars_into`.
        prefix: prefix of the names of the scalars.
        go_on: whether to keep existing rows of the file.
    """

    def __init__(
        self, names: Sequence[str], csv: str | PathLike[str] | None, writer: Any, prefix: str, *, go_on: bool
    ):
        self.names, self.prefix = names, prefix
        self._writer, self._own_writer = scalars_into(writer)
        self._file, self._rows = (None, None) if csv is None else rows_into(csv, names, go_on=go_on)

    def write(self, row: Mapping[str, float], *, repeated: bool = False) -> None:
        """Write a row; to the file only if it is not there already."""
        if self._file is not None and self._rows is not None and not repeated:
            self._rows.writerow([cell(row[name], name) for name in self.names])
            self._file.flush()
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    self._writer.add_scalar(f"{self.prefix}/{name}", value, int(row["step"]))

    def close(self) -> None:
        """Close what was opened here."""
        if self._file is not None:
            self._file.close()
            self._file = self._rows = None
        if self._own_writer:
            self._writer.close()


def cell(value: float, name: str, form: str = "") -> str:
    """Return a value as it is written; a step is a whole number."""
    if name == "step":
        return str(int(value))
    return format(value, form) if form else repr(float(value))


def table_of(names: Iterable[str], rows: Sequence[Mapping[str, float]], notes: Iterable[str]) -> str:
    """Return the columns with a known value as a table, and the notes below it."""
    known = [name for name in names if any(math.isfinite(row[name]) for row in rows)]
    lines = [known, *([cell(row[name], name, "#.4g") for name in known] for row in rows)]
    return "\n".join([*text_table(lines, ">"), *notes])


def rows_into(path: str | PathLike[str], columns: Sequence[str], *, go_on: bool) -> tuple[TextIO, Any]:
    """Return an open file and its row writer; raise FileExistsError if it is not a table of these columns.

    Args:
        path: path of the file.
        columns: names of the columns, which are the first line of the file.
        go_on: whether to keep existing rows.
    """
    refuse_foreign_files([path], head=",".join(columns))
    goes_on = go_on and os.path.exists(path) and os.path.getsize(path) > 0
    file = open(fspath(path), "a" if goes_on else "w", newline="", encoding="utf-8")  # noqa: SIM115 - caller closes
    rows = writer_of(file)
    if not goes_on:
        rows.writerow(columns)
    return file, rows


def scalars_into(writer: Any) -> tuple[Any, bool]:
    """Return an object with `add_scalar` (or None), and whether it was made here."""
    if writer is None or callable(getattr(writer, "add_scalar", None)):
        return writer, False
    if not isinstance(writer, (str, PathLike)):
        raise TypeError(f"writer is {kind_of(writer)}; a SummaryWriter, or a folder to make one in, is needed.")
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "a folder as writer needs tensorboard, which is not installed: pip install tensorboard"
        ) from error
    return SummaryWriter(fspath(writer)), True
