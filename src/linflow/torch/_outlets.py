"""Outputs of a monitor: a CSV file, and any writer of scalars, such as TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from csv import writer as writer_of
from os import PathLike, fspath
from typing import Any, TextIO

from linflow._support.own_files import refuse_foreign_files


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
        raise TypeError(
            f"writer is a {type(writer).__name__}; a SummaryWriter, or a folder to make one in, is needed."
        )
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "a folder as writer needs tensorboard, which is not installed: pip install tensorboard"
        ) from error
    return SummaryWriter(fspath(writer)), True
