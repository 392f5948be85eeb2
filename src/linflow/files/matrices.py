"""Matrices from CSV, NumPy and Parquet files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from linflow.files._layers import first_bad, where
from linflow.files._numpy import listed, read_npy, read_npz
from linflow.files._paths import LIMIT, FileError, PathLike, check_size, decoding, named, need, readable, suffix

READ = (".csv", ".tsv", ".npy", ".npz", ".parquet")

_DELIMITERS = ("\t", ";", ",")
_LOOKED_AT = 20
"""Lines from which the delimiter is told."""
_BLOCK = 2**20


def read_matrix(path: PathLike, key: str | None = None, *, limit: int = LIMIT) -> np.ndarray:
    r"""Read a matrix of finite numbers, by the suffix of the file.

    `.csv`, `.tsv`: the delimiter (tab, `;`, `,` or white space) is told from the first lines. A first line in which
    no cell is a number is a header; lines before it that begin with # are skipped, and so are empty ones.
    `.npy`; `.npz`, with `key` where it holds several arrays; `.parquet`, whose columns must be numbers.

    Args:
        path: the file.
        key: which array of an npz.
        limit: most bytes that the matrix may take in float64; looked at before anything is decoded.

    Returns:
        A float64 array of shape `(n, m)`; a vector becomes one column.

    Raises:
        FileError: a cell that is no finite number (the first is named), ragged, empty, damaged, hostile or too large.
        OSError: no such file, or one that may not be read.
        ImportError: a Parquet file without pyarrow.

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
    end = suffix(path, READ, "a matrix is read from")
    file = readable(path)
    if key is not None and end != ".npz":
        raise ValueError(f"key is {key!r}, and {named(path)} is no .npz; leave it out.")
    if end in (".csv", ".tsv"):
        return _finite(_read_text(file, limit), file)  # cells are checked on the way
    if end == ".npy":
        x = read_npy(file, limit)
    elif end == ".npz":
        x = _only(read_npz(file, limit, key), file)
    else:
        x = _read_parquet(file, limit)
    if x.ndim not in (1, 2):
        raise FileError(f"{named(path)} has {x.ndim} dimensions (shape {x.shape}); a matrix is needed. Reshape it.")
    return _finite(x.reshape(-1, 1) if x.ndim == 1 else x, file)


def _finite(x: np.ndarray, path: Path) -> np.ndarray:
    if x.size == 0:
        raise FileError(f"{named(path)} holds an empty matrix (shape {x.shape}); every side must be at least 1.")
    if not np.isfinite(x).all():
        place = first_bad(x)
        raise FileError(
            f"{named(path)} holds {x[tuple(place)]} at {where(place)}; finite numbers are needed. "
            "Remove or impute it."
        )
    with np.errstate(over="ignore"):  # a longdouble may not fit; looked for below
        y = np.array(x, dtype=np.float64, order="C")
    if not np.isfinite(y).all():
        raise FileError(f"{named(path)} holds a number past float64 at {where(first_bad(y))}. Rescale it.")
    return y


def _only(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    if len(arrays) > 1:
        raise FileError(f"{named(path)} holds {listed(arrays)}; say which: key={next(iter(arrays))!r}.")
    return next(iter(arrays.values()))


def _read_parquet(path: Path, limit: int) -> np.ndarray:
    pa, pq = need("pyarrow", path), need("pyarrow.parquet", path)
    with decoding(path, "Parquet"), pq.ParquetFile(path, page_checksum_verification=True) as file:
        # An index that pandas stored is no data.
        names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
        kinds = {name: file.schema_arrow.field(name).type for name in names}
        text = [
            f"{name!r} ({kind})"
            for name, kind in kinds.items()
            if not pa.types.is_integer(kind) and not pa.types.is_floating(kind)
        ]
        if text:
            raise FileError(f"{named(path)} has columns that are not numbers: {', '.join(text[:8])}. Leave them out.")
        check_size(8 * file.metadata.num_rows * max(len(names), 1), limit, path)
        table = file.read(columns=names)
        for j, name in enumerate(names):
            column = table.column(j)
            if column.null_count:
                row = column.is_null().index(True).as_py()
                raise FileError(
                    f"{named(path)} has no value at row {row + 1} of column {name!r}. Remove or impute it."
                )
        columns = [table.column(j).to_numpy().astype(np.float64) for j in range(len(names))]
    return np.stack(columns, axis=1) if columns else np.empty((0, 0))


def _read_text(path: Path, limit: int) -> np.ndarray:
    head = _head(path)
    if not head:
        raise FileError(f"{named(path)} holds no numbers; lines of numbers are needed.")
    delimiter = _delimiter([line for _, line in head], path.suffix.lower())
    first, line = head[0]
    cells = _cells(line, delimiter)
    skip = first if not any(_is_number(cell) for cell in cells) else first - 1
    _check_text_size(path, len(cells), limit)
    if skip == first and len(head) == 1:
        raise FileError(f"{named(path)} holds a header and no numbers below it; lines of numbers are needed.")
    try:
        return np.loadtxt(
            path, delimiter=delimiter, skiprows=skip, comments=None, ndmin=2, quotechar='"', encoding="utf-8-sig"
        )
    except ValueError:
        _find(path, delimiter, skip)
        # What NumPy does not read and Python does.
        with decoding(path, "lines of numbers"):
            raise


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise FileError(
                        f"{named(path)} is no text: line {number} holds a zero byte. Save it as UTF-8 text."
                    )
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise FileError(f"{named(path)} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def _head(path: Path) -> list[tuple[int, str]]:
    """Return the first lines after the comments at the top."""
    head = []
    for number, line in _lines(path):
        if head or not line.lstrip().startswith("#"):
            head.append((number, line))
        if len(head) == _LOOKED_AT:
            break
    return head


def _delimiter(lines: list[str], end: str) -> str | None:
    """Return what separates the cells of these lines, None for white space."""
    lines = [re.sub(r'"[^"]*"', "", line) for line in lines]
    order = _DELIMITERS if end == ".tsv" else (";", ",", "\t")
    counts = {mark: [line.count(mark) for line in lines] for mark in order}
    for mark in order:
        if counts[mark][0] and len(set(counts[mark])) == 1:
            return mark
    return next((mark for mark in order if any(counts[mark])), None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:  # a cell past the limit of the csv module, which is no number
        return line.split(delimiter)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _check_text_size(path: Path, columns: int, limit: int) -> None:
    check_size(path.stat().st_size, limit, path, "its text")
    with open(path, "rb") as file:
        rows = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    check_size(8 * rows * columns, limit, path)


def _find(path: Path, delimiter: str | None, skip: int) -> None:
    """Raise for the first cell that is no number, or the first line of another length."""
    columns = None
    for number, line in _lines(path):
        if number <= skip:
            continue
        if line.count('"') % 2:
            raise FileError(
                f"{named(path)}: line {number} has a quotation mark that is not closed. Close or remove it."
            )
        cells = _cells(line, delimiter)
        for j, cell in enumerate(cells, 1):
            if not _is_number(cell):
                raise FileError(f"{named(path)}: line {number}, column {j} {_complaint(cell)}")
        columns = columns or (number, len(cells))
        if len(cells) != columns[1]:
            raise FileError(
                f"{named(path)} is ragged: line {number} has {len(cells)} columns and line {columns[0]} has "
                f"{columns[1]}; all must have the same."
            )


def _complaint(cell: str) -> str:
    if not cell.strip():
        return "is empty; a number is needed. Remove or impute it."
    hint = " Write decimals with a point." if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell) else ""
    return f"is {cell[:40]!r}; a number is needed.{hint}"
