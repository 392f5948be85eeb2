"""Matrices from lines of text: finding the delimiter, the header, and cells that are not numbers."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from linflow._support.paths import FileError, blocks, check_size, decoding, quote
from linflow.files._index import check_counting, check_unnamed

_DELIMITERS = ("\t", ";", ",")
_LOOKED_AT = 20
"""The number of lines that determine the delimiter."""
_TIMES = 32
"""How many times as much memory as on disk a line takes, cut into cells of one digit."""
_WHOLE = re.compile(r"\s*[-+]?\d+\s*")
_HALF = re.compile(r"(?:^|,)\s*(-?0\d+|-0|(?<=,)\d{10,})\s*(?=,|$)")
"""Cells that are hardly whole numbers, but halves of numbers with a decimal comma: 1,05, -0,5 or 0,6931471806."""


def read_text(path: Path, limit: int, *, empty: bool = False) -> np.ndarray:
    """Return the numbers in a text file, as an array of shape `(lines, columns)`.

    Args:
        path: the file.
        limit: the most bytes that the array may take.
        empty: whether an empty cell is a missing entry, and becomes NaN. The word nan is then refused.

    Raises:
        FileError: a cell that is not a number, a header that does not fit, an index, ragged lines, or too large.
    """
    check_size(path.stat().st_size, limit, path, "its text")
    lines = _count_lines(path, limit)
    head = _head(path)
    if not head:
        raise FileError(f"{quote(path)} holds no numbers; lines of numbers are needed.")
    delimiter = _delimiter([line for _, line in head], path.suffix.lower())
    first, line = head[0]
    cells = _cells(line, delimiter)
    rows = [_cells(line, delimiter) for _, line in head[1:]]
    if empty:
        _check_delimited(delimiter, len(cells), path)
    header = _is_header(cells) and not (empty and not any(map(str.strip, cells)))
    check_size(8 * lines * len(cells), limit, path)
    if header and not rows:
        raise FileError(f"{quote(path)} holds a header and no numbers below it; lines of numbers are needed.")
    if header:
        _check_header(cells, head[1][0], rows[0], delimiter, path)
    else:
        _check_first_line(cells, rows, delimiter, path)
    skip = first - (not header)
    try:
        found = np.loadtxt(
            path,
            delimiter=delimiter,
            skiprows=skip,
            comments=None,
            ndmin=2,
            quotechar='"',
            encoding="utf-8-sig",
            converters=_number_or_nothing if empty else None,
        )
    except ValueError:
        _find(path, delimiter, skip, empty=empty)
        # Still here: a number that Python reads and NumPy does not.
        with decoding(path, "lines of numbers"):
            raise
    if header:
        check_counting(cells[0], found[:, 0], path)
    return found


def _number_or_nothing(cell: str) -> float:
    """Return a cell as a number, NaN if it is empty."""
    if not cell.strip():
        return math.nan
    if not _is_number(cell) or math.isnan(float(cell)):
        raise ValueError(f"{cell:.40} is not a number")
    return float(cell)


def _check_delimited(delimiter: str | None, columns: int, path: Path) -> None:
    """Raise FileError unless empty cells can be told from white space and from empty lines."""
    if delimiter is None or not delimiter.strip() or columns < 2:
        raise FileError(
            f"{quote(path)} has no empty cells that can be told from white space and empty lines; separate two "
            "columns or more by commas or semicolons, or write nan, and say missing='nan'."
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines with their line numbers."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise FileError(
                        f"{quote(path)} is not text: line {number} holds a zero byte. Save it as UTF-8 text."
                    )
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise FileError(f"{quote(path)} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def _head(path: Path) -> list[tuple[int, str]]:
    """Return the first non-empty lines after the comments at the top, with their line numbers."""
    head = []
    for number, line in _lines(path):
        if head or not line.lstrip().startswith("#"):
            head.append((number, line))
        if len(head) == _LOOKED_AT:
            break
    return head


def _delimiter(lines: list[str], end: str) -> str | None:
    """Return the delimiter of these lines, or None for white space."""
    lines = [re.sub(r'"[^"]*"', "", line) for line in lines]
    order = _DELIMITERS if end == ".tsv" else (";", ",", "\t")
    counts = {mark: [line.count(mark) for line in lines] for mark in order}
    for mark in order:
        if counts[mark][0] and len(set(counts[mark])) == 1:
            return mark
    return next((mark for mark in order if any(counts[mark])), None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:  # a cell over the size limit of the csv module is not a number
        return line.split(delimiter)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _count_up(cells: Sequence[str]) -> bool:
    """Tell whether the cells are whole numbers, each greater by one than the cell before."""
    if not cells or not all(len(cell) <= 20 and _WHOLE.fullmatch(cell) for cell in cells):
        return False
    return all(int(b) == int(a) + 1 for a, b in itertools.pairwise(cells))


def _is_header(cells: Sequence[str]) -> bool:
    """Tell whether a first line names columns.

    It does if no cell is a number, or if the first cell is empty and the others count up from 0.
    """
    if not any(map(_is_number, cells)):
        return True
    return not cells[0].strip() and cells[1].strip() == "0" and _count_up(cells[1:])


def _check_header(names: Sequence[str], line: int, row: Sequence[str], delimiter: str | None, path: Path) -> None:
    """Raise FileError unless every column has a name and the first is not an index."""
    if len(names) != len(row):
        hint = ""
        if delimiter == "," and len(row) == 2 * len(names) and all(map(_WHOLE.fullmatch, row)):
            hint = " If they are numbers with decimal commas, write them with points."
        if len(row) == len(names) + 1:
            hint += (
                " If the first column numbers or names the rows, as R writes it, leave it out (row.names = FALSE)."
            )
        raise FileError(
            f"{quote(path)} has a header of {len(names)} and {len(row)} columns below it (line {line}); each column "
            f"needs its name, or leave the header out.{hint}"
        )
    check_unnamed(names[0], path)


def _check_first_line(cells: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str | None, path: Path) -> None:
    """Raise FileError if the first line looks like column names, or cells look like halves of decimals."""
    below = [cell for row in rows for cell in row if cell.strip()]
    given = [cell for cell in (*cells, *below) if cell.strip()]
    if below and _count_up(cells) and not any(map(_WHOLE.fullmatch, below)):
        many = len(cells) > 1
        shown = ", ".join(cells[:3]) + (", …" if len(cells) > 3 else "")
        if many or cells[0].strip() == "0":
            raise FileError(
                f"{quote(path)} begins with {shown}, which looks like the names that pandas gives to columns, not "
                "like the decimals below. Leave that line out (header=False), or write data as "
                f"{int(cells[0])}.0{', …' if many else ''}."
            )
    if delimiter == "," and len(cells) % 2 == 0 and all(map(_WHOLE.fullmatch, given)):
        for number, line in _lines(path):
            half = _HALF.search(line)
            if half and not line.lstrip().startswith("#"):
                raise FileError(
                    f"{quote(path)}: line {number} holds {half[1]!r}, half of a number with a decimal comma as it "
                    "looks. Write decimals with a point; a whole number without a zero before it, and with .0 behind "
                    "it where it is long."
                )


def _count_lines(path: Path, limit: int) -> int:
    """Return the number of lines, empty ones too.

    Raises:
        FileError: a line is so long that its cells, as Python text, would take more than `limit` bytes.
    """
    most, count, length = max(limit // _TIMES, 1), 1, 0
    for block in blocks(path):
        first, *rest = block.split(b"\n") if b"\n" in block else block.split(b"\r")
        longest = max([length + len(first), *map(len, rest)])
        if longest > most:
            check_size(_TIMES * longest, limit, path, f"a line of {longest} characters")
        count += line_ends(block)
        length = len(rest[-1]) if rest else length + len(first)
    return count


def line_ends(block: bytes) -> int:
    """Return how many lines end in some bytes, as each system ends them."""
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


def _find(path: Path, delimiter: str | None, skip: int, *, empty: bool = False) -> None:
    """Raise FileError for the first cell that is not a number, or the first line of another length."""
    columns = None
    for number, line in _lines(path):
        if number <= skip:
            continue
        if line.count('"') % 2:
            raise FileError(
                f"{quote(path)}: line {number} has a quotation mark that is not closed. Close or remove it."
            )
        cells = _cells(line, delimiter)
        for j, cell in enumerate(cells, 1):
            if empty and not cell.strip():
                continue
            if not _is_number(cell) or (empty and math.isnan(float(cell))):
                raise FileError(f"{quote(path)}: line {number}, column {j} {_complaint(cell)}")
        columns = columns or (number, len(cells))
        if len(cells) != columns[1]:
            raise FileError(
                f"{quote(path)} is ragged: line {number} has {len(cells)} columns and line {columns[0]} has "
                f"{columns[1]}; all must have the same."
            )


def _complaint(cell: str) -> str:
    if not cell.strip():
        return "is empty; a number is needed. Remove or impute it."
    hint = ""
    if cell.strip().lower().lstrip("+-") == "nan":
        hint = " Leave a missing cell empty, or say missing='nan'."
    elif re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell) or re.fullmatch(r"\d+\s+[-+]?\d+", cell):
        hint = " Write decimals with a point."
    elif cell.strip().lower() in ("true", "false"):
        hint = " Write 1 for true and 0 for false."
    return f"is {cell[:40]!r}; a number is needed.{hint}"
