"""Index columns, which number the rows. pandas, Polars and R write them beside the data; they are not data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from linflow._support.paths import FileError, quote

_UNNAMED = re.compile(r"\s*|Unnamed: \d+|__index_level_\d+__")
_NUMBERING = {"id", "index", "level_0", "row", "row.names", "row_nr", "row_number", "rowid", "rowname", "rownames"}
_WAY = "Leave it out (index=False, row.names = FALSE), or {} it if it is data."


def check_unnamed(name: str, path: Path) -> None:
    """Raise FileError if the first column has no name, as an index column does."""
    if _UNNAMED.fullmatch(name):
        shown = f"is named {name!r}" if name.strip() else "has no name"
        raise FileError(
            f"{quote(path)}: its first column {shown}, as an index of pandas or R has, which numbers the rows and is "
            f"no data. {_WAY.format('name')}"
        )


def check_counting(name: str, column: np.ndarray, path: Path) -> None:
    """Raise FileError if the first column has the name of an index and counts the rows from 0 or 1."""
    n = len(column)
    if name.strip().lower() not in _NUMBERING or n < 2 or column[0] not in (0, 1):
        return
    if np.array_equal(column, np.arange(n) + column[0]):
        raise FileError(
            f"{quote(path)}: its first column, {name!r}, counts the rows from {column[0]:g} to {column[-1]:g}: an "
            f"index, which is not data. {_WAY.format('rename')}"
        )
