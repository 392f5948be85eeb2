"""Matrices from CSV, NumPy and Parquet files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import first_bad
from linflow._support.paths import (
    LIMIT,
    FileError,
    PathLike,
    check_size,
    decoding,
    import_for,
    quote,
    readable,
    suffix,
)
from linflow._support.words import listed, position
from linflow.files._index import check_counting, check_unnamed
from linflow.files._numpy import read_npy, read_npz
from linflow.files._parquet import read_parquet
from linflow.files._text import read_text

MISSING = ("nan", "empty")
"""What a missing entry can be."""

READ = (".csv", ".tsv", ".txt", ".npy", ".npz", ".parquet")


def read_matrix(
    path: PathLike,
    key: str | None = None,
    *,
    limit: int = LIMIT,
    notes: list[str] | None = None,
    missing: str | None = None,
) -> np.ndarray:
    r"""Read a matrix of finite numbers. The suffix of the file determines the format.

    In `.csv`, `.tsv` and `.txt` files, the first lines determine the delimiter (tab, `;`, `,` or white space). A
    first line in which no cell is a number is a header. Lines before it that begin with # are skipped, and so are
    empty lines. An `.npz` file with several arrays needs `key`, or the path `data.npz:key`. The columns of a
    `.parquet` file must be numbers. `.npy` files are read as well.

    An index is not data. An index that pandas marks in a Parquet file is left out. A first column is refused if it
    has no name, or if it has the name of an index and counts the rows.

    Args:
        path: the file.
        key: the name of the array in an npz.
        limit: the most bytes that the matrix may take in float64; checked before anything is decoded.
        notes: a list that receives a sentence if something was left out.
        missing: what a missing entry is, which becomes NaN: "nan" (a NaN in any format), or "empty" (an empty cell of
            a text file with delimiters and two columns or more). None if all entries are needed.

    Returns:
        A float64 array of shape `(n, m)`; a vector becomes one column.

    Raises:
        FileError: a cell that is not a finite number (the first is named), or a file that is ragged, empty, damaged,
            hostile or too large.
        OSError: no such file, or no permission to read it.
        ImportError: a Parquet file, and pyarrow is not installed.

    Example:
        >>> import os, tempfile, pathlib
        >>> from linflow.files import read_matrix
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "data.csv")
        ...     _ = path.write_text("height;weight\n1.5;60\n1.75;70\n")
        ...     read_matrix(path)
        array([[ 1.5 , 60.  ],
               [ 1.75, 70.  ]])
    """
    if key is None:
        path, key = member(path)
    if missing is not None:
        checks.choice(missing, "missing", MISSING)
    end = suffix(path, READ, "a matrix is read from")
    file = readable(path)
    if missing == "empty" and end not in (".csv", ".tsv", ".txt"):
        raise ValueError(
            f"missing is 'empty', but {quote(path)} has no empty cells; write NaN, and say missing='nan'."
        )
    if key is not None and end != ".npz":
        raise ValueError(f"key is {key!r}, and {quote(path)} is not an .npz; leave it out.")
    if end in (".csv", ".tsv", ".txt"):
        return _finite(
            read_text(file, limit, empty=missing == "empty"), file, missing
        )  # cells are checked on the way
    if end == ".npy":
        x = read_npy(file, limit)
    elif end == ".npz":
        x = _only(read_npz(file, limit, key), file)
    else:
        x = _read_parquet(file, limit, [] if notes is None else notes)
    if x.ndim not in (1, 2):
        raise FileError(f"{quote(path)} has {x.ndim} dimensions (shape {x.shape}); a matrix is needed. Reshape it.")
    return _finite(x.reshape(-1, 1) if x.ndim == 1 else x, file, missing)


def member(path: Any) -> tuple[Any, str | None]:
    """Split a path such as `data.npz:X` into the file and the name of the array (None for any other path).

    Example:
        >>> from linflow.files.matrices import member
        >>> member("data.npz:X"), member("data.csv")
        (('data.npz', 'X'), ('data.csv', None))
    """
    found = re.fullmatch(r"(.*\.npz):([^/\\]+)", str(path), re.IGNORECASE)
    return (found[1], found[2]) if found else (path, None)


def _finite(x: np.ndarray, path: Path, missing: str | None) -> np.ndarray:
    if x.size == 0:
        raise FileError(f"{quote(path)} holds an empty matrix (shape {x.shape}); every side must be at least 1.")
    given = np.where(np.isnan(x), 0.0, x) if missing else x
    if not np.isfinite(given).all():
        place = first_bad(given)
        raise FileError(
            f"{quote(path)} holds {x[tuple(place)]} at {position(place)}; finite numbers are needed. "
            "Remove or impute it."
        )
    with np.errstate(over="ignore"):  # a longdouble can be too large; checked below
        y = np.array(x, dtype=np.float64, order="C")
    large = np.isinf(y)
    if large.any():
        raise FileError(
            f"{quote(path)} holds a number too large for float64 at {position(first_bad(np.where(large, y, 0.0)))}. "
            "Rescale it."
        )
    return y


def _only(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    if len(arrays) > 1:
        one = next(iter(arrays))
        raise FileError(
            f"{quote(path)} holds {listed(arrays)}; say which: key={one!r}, or {path.name}:{one} as its path."
        )
    return next(iter(arrays.values()))


def _read_parquet(path: Path, limit: int, notes: list[str]) -> np.ndarray:
    pa, pq = import_for("pyarrow", path), import_for("pyarrow.parquet", path)
    with decoding(path, "Parquet"), pq.ParquetFile(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    names = schema.names
    index = _index_of(schema)
    places = [j for j, name in enumerate(names) if name not in index]
    if index and not places:
        raise FileError(f"{quote(path)} holds an index of pandas, {listed(index)}, and no other column.")
    kinds = schema.types
    text = [
        f"{names[j]!r} ({kinds[j]})"
        for j in places
        if not pa.types.is_integer(kinds[j]) and not pa.types.is_floating(kinds[j])
    ]
    if text:
        raise FileError(
            f"{quote(path)} has columns that are not numbers: {', '.join(text[:8])}. Leave them out, or write "
            "them as numbers, truth values as 1 and 0: astype(float)."
        )
    if places:
        check_unnamed(names[places[0]], path)
    check_size(8 * count * max(len(places), 1), limit, path)
    with decoding(path, "Parquet"):
        table = read_parquet(path, limit)
    if index:
        notes.append(f"the index {listed(index)} of pandas in {quote(path)} was left out")
    found = np.empty((len(table), len(places)))
    for k, (j, column) in enumerate(zip(places, map(table.column, places), strict=True)):
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise FileError(
                f"{quote(path)} has no value at row {row + 1} of column {names[j]!r}. Remove or impute it."
            )
        found[:, k] = column.to_numpy()
    if places:
        check_counting(names[places[0]], found[:, 0], path)
    return found


def _index_of(schema: Any) -> list[str]:
    """Return the columns that pandas marked as the index. A range index has no column."""
    marked = (schema.pandas_metadata or {}).get("index_columns", [])
    marked = {name for name in marked if isinstance(name, str)}
    return [name for name in schema.names if name in marked or name.startswith("__index_level_")]
