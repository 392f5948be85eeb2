"""Tables as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support.paths import (
    LIMIT,
    PathLike,
    blocks,
    check_size,
    decoding,
    import_for,
    one_line,
    readable,
    suffix,
    write_bytes,
)
from linflow._support.words import kind_of
from linflow.files._parquet import read_parquet
from linflow.files._text import line_ends

KINDS = (".parquet", ".csv")


def write_table(table: Any, path: PathLike) -> None:
    """Write a table as `.parquet` or `.csv`; the suffix decides.

    Floats read back to the last bit, from CSV too. CSV has no types and no missing values: an empty cell stands for a
    missing value.

    Args:
        table: a list of rows (dicts; a key that a row lacks is a missing value), a dict of columns (sequences or
            1-D arrays of one length), or a `pyarrow.Table`.
        path: the file to write. An existing file is replaced atomically (`atomic`).

    Raises:
        FileError: another suffix.
        ValueError, TypeError: columns of different lengths or mixed kinds, or no columns.
        OSError: the file cannot be written.
        ImportError: pyarrow is not installed.

    Example:
        >>> import os, tempfile
        >>> from linflow.files import read_table, write_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "results.parquet")
        ...     write_table([{"bound": "deep", "rate": 0.5}, {"bound": "two_layer", "rate": 0.75}], path)
        ...     read_table(path).to_pylist()
        [{'bound': 'deep', 'rate': 0.5}, {'bound': 'two_layer', 'rate': 0.75}]
    """
    end = suffix(path, KINDS, "a table is written as")
    pa = import_for("pyarrow", path)
    made = table if isinstance(table, pa.Table) else _table(table, pa)
    if made.num_columns == 0:
        raise ValueError("table has no columns; at least one is needed.")
    if end == ".parquet":
        parquet = import_for("pyarrow.parquet", path)
        write_bytes(path, lambda file: parquet.write_table(made, file, write_page_checksum=True))
        return
    nested = [field.name for field in made.schema if pa.types.is_nested(field.type)]
    if nested:
        raise TypeError(
            f"table has lists or dicts in the column {nested[0]!r}, which CSV cannot hold; write .parquet."
        )
    text = import_for("pyarrow.csv", path)
    write_bytes(path, lambda file: text.write_csv(made, file))


def _table(table: Any, pa: Any) -> Any:
    if isinstance(table, Mapping):
        columns = {str(name): values for name, values in table.items()}
    elif (
        isinstance(table, Sequence) and not isinstance(table, str) and all(isinstance(row, Mapping) for row in table)
    ):
        names = dict.fromkeys(name for row in table for name in row)
        columns = {str(name): [row.get(name) for row in table] for name in names}
    else:
        raise TypeError(
            f"table is {kind_of(table)}; a list of rows (dicts), a dict of columns or a pyarrow.Table is needed."
        )
    arrays = {}
    for name, values in columns.items():
        plain = values.tolist() if isinstance(values, np.ndarray) and values.ndim != 1 else values
        try:
            arrays[name] = pa.array(
                plain if isinstance(values, (np.ndarray, pa.Array)) else [_plain(x) for x in plain]
            )
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise TypeError(
                f"the column {name!r} cannot be stored ({one_line(error)}); its entries must be alike."
            ) from error
    lengths = {name: len(x) for name, x in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the columns have different lengths: {', '.join(f'{k!r} {n}' for k, n in lengths.items())}."
        )
    return pa.table(arrays)


def _plain(x: Any) -> Any:
    return x.item() if isinstance(x, np.generic) else x


def _cells(path: Path) -> int:
    """Return the most cells that a CSV file can have. Decoded, an empty one takes as much as any number."""
    return 1 + sum(block.count(b",") + line_ends(block) for block in blocks(path))


def read_table(path: PathLike, *, limit: int = LIMIT, columns: Sequence[str] | None = None) -> Any:
    """Read a table from `.parquet` or `.csv`.

    Args:
        path: the file.
        limit: the most bytes that the table may take; checked before anything is decoded. For a CSV, the size of the
            file and eight bytes for each cell count.
        columns: the names of the columns to read; all if not given.

    Returns:
        A `pyarrow.Table`. Convert it with `.to_pandas()`, `.to_pylist()` or `.column(name).to_numpy()`.

    Raises:
        FileError: a file that is damaged, ragged, hostile or too large.
        OSError: no such file, or no permission to read it.
        ImportError: pyarrow is not installed.

    Example:
        >>> import os, tempfile
        >>> from linflow.files import read_table, write_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "results.csv")
        ...     write_table({"width": [10, 100], "rate": [0.1, 0.30000000000000004]}, path)
        ...     read_table(path).column("rate").to_pylist()
        [0.1, 0.30000000000000004]
    """
    end = suffix(path, KINDS, "a table is read from")
    file = readable(path)
    if end == ".csv":
        check_size(file.stat().st_size, limit, file, "its text")
        check_size(8 * _cells(file), limit, file)
        text = import_for("pyarrow.csv", path)
        with decoding(file, "CSV"):
            return text.read_csv(file, convert_options=text.ConvertOptions(include_columns=columns or []))
    with decoding(file, "Parquet"):
        return read_parquet(file, limit, columns)
