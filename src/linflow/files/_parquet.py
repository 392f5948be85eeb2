"""Reading Parquet files within a limit. What a page decodes to is known from its header, before it is decoded.

The footer may lie about rows and sizes, and a dictionary can repeat one long text a million times. The decoder
believes the headers of the pages and the counts of the footer, so these are what counts here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from linflow._support.paths import FileError, check_size, import_for, quote

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
"""Bytes of a value, by its physical type. The other types are of bytes, each value of its own length."""
_DECIMAL = 32
"""The most bytes of a decimal, however few are stored."""
_OFFSET = 4
"""Bytes that say where a text begins."""
_DICTIONARY = 2
_LOOKED_UP, _ONTO_THE_LAST = (2, 8), 7
"""Encodings of texts in which a byte stands for many: places in the dictionary, or what follows a shared start."""
_HEADER = (2**12, 2**24)
"""Bytes of a page's header that are read at first, and that are read at most, as by the decoder."""
_BEYOND = 100
"""Bytes after the end of a column that the decoder reads, where it takes the writer for an old one."""


@dataclass
class _Column:
    """What a column decodes to in one row group.

    Attributes:
        size: the bytes of all its values, without those that several values share.
        page: the bytes of its largest page.
        shared: the most bytes that one value shares with others.
        values: the number of values.
        nested: whether a row can have many values.
    """

    size: int
    page: int
    shared: int
    values: int
    nested: bool

    def shared_by(self, rows: int) -> int:
        """Return the most bytes that the values of some rows share with others. Decoded, each has its own."""
        return self.shared * (self.values if self.nested else min(rows, self.values))


def read_parquet(path: Path, limit: int, columns: Sequence[str] | None = None) -> Any:
    """Return the table of a Parquet file, or some of its columns.

    Rows are decoded in parts that are known to fit. Besides the table, at most `limit` bytes are taken.

    Raises:
        FileError: the table would take more than `limit` bytes, or the file is damaged.
    """
    pa, pq = import_for("pyarrow", path), import_for("pyarrow.parquet", path)
    with pq.ParquetFile(path, page_checksum_verification=True) as file, open(path, "rb") as content:
        batches, total = [], 0
        for i, rows in enumerate(_rows_at_once(file, content, path, limit, columns)):
            for batch in file.iter_batches(batch_size=rows, row_groups=[i], columns=columns):
                total += batch.nbytes
                check_size(total, limit, path)
                batches.append(batch)
        if sum(map(len, batches)) != file.metadata.num_rows:
            raise _corrupt(path, "has other rows than it states")
        kept = file.schema_arrow
        if columns is not None:
            kept = pa.schema([kept.field(name) for name in columns], kept.metadata)
            batches = [batch.select(columns) for batch in batches]
        return pa.Table.from_batches(batches, kept)


def _rows_at_once(file: Any, content: IO[bytes], path: Path, limit: int, columns: Sequence[str] | None) -> list[int]:
    """Return for each row group how many of its rows are decoded at once. Nothing is decoded yet.

    Raises:
        FileError: the table, a page or a row would take more than `limit` bytes, or the counts do not agree.
    """
    metadata, schema = file.metadata, file.schema
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if metadata.num_rows < 0 or any(group.num_rows < 0 for group in groups):
        raise _corrupt(path, "states negative sizes")
    listed = [group.get(1) or [] for group in _footer(content).get(4) or []]
    if [len(chunks) for chunks in listed] != [metadata.num_columns] * len(groups):
        raise _corrupt(path, "has columns missing")
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise _corrupt(path, "has other rows than it states")
    wanted = [
        (j, *_kind(schema.column(j)))
        for j in range(metadata.num_columns)
        if columns is None or schema.column(j).path.partition(".")[0] in columns
    ]
    parts, total = [], 0
    for group, chunks in zip(groups, listed, strict=True):
        found = [
            _measured(_Chunk.of(chunks[j]), content, group.num_rows, width, nested) for j, width, nested in wanted
        ]
        total += sum(column.size for column in found)
        check_size(total, limit, path)
        check_size(max((column.page for column in found), default=0), limit, path, "a page of it")
        rows = max(1, group.num_rows)
        while (shared := sum(column.shared_by(rows) for column in found)) > limit and rows > 1:
            rows //= 2
        check_size(shared, limit, path, "a row of it")
        parts.append(rows)
    return parts


def _corrupt(path: Path, what: str) -> FileError:
    return FileError(f"{quote(path)} {what}: it is corrupt. Write or fetch it again.")


@dataclass
class _Chunk:
    """What the footer says of a column in one row group. Read by pyarrow, a damaged one would end the process."""

    num_values: int
    total_compressed_size: int
    data_page_offset: int
    dictionary_page_offset: int

    @classmethod
    def of(cls, told: dict[int, Any]) -> _Chunk:
        """Return it from the fields of the footer."""
        meta = told[3]
        return cls(meta[5], meta[7], meta[9], meta.get(11, 0))


def _footer(content: IO[bytes]) -> dict[int, Any]:
    """Return the footer by the numbers of its fields."""
    end = content.seek(-8, io.SEEK_END)
    size = int.from_bytes(content.read(4), "little")
    content.seek(max(end - size, 0))
    return _struct(io.BytesIO(content.read(size)))


def _kind(column: Any) -> tuple[int | None, bool]:
    """Return the bytes of a value of a column (None for texts), and whether a row can have many values."""
    width = column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(column.physical_type)
    if width is not None and "DECIMAL" in str(column.logical_type).upper():
        width = max(width, _DECIMAL)
    return width, column.max_repetition_level > 0


def _measured(chunk: _Chunk, content: IO[bytes], rows: int, width: int | None, nested: bool) -> _Column:
    """Return what a column decodes to in one row group, from the headers of its pages."""
    found = _Column(0, 0, 0, 0, nested)
    stored = words = 0
    for page, encoding, values in _pages(chunk, content):
        found.page = max(found.page, page)
        if encoding is None:
            words = max(words, page)
            continue
        found.values += values
        if encoding in _LOOKED_UP:
            found.shared = max(found.shared, words)
        else:
            stored += page
            found.shared = max(found.shared, page if encoding == _ONTO_THE_LAST else 0)
    # The decoder takes these counts for granted, and may read beyond its memory if they differ.
    if found.values != chunk.num_values or (not nested and found.values != rows) or found.values < rows:
        raise ValueError("a column has other values than it states")
    if width is None:
        found.size = stored + _OFFSET * found.values
    else:
        found.size, found.shared = width * found.values, 0
    return found


def _pages(chunk: _Chunk, content: IO[bytes]) -> Iterator[tuple[int, int | None, int]]:
    """Yield for each page its decompressed size, its encoding (None for a dictionary), and its number of values."""
    place, seen = chunk.data_page_offset, 0
    if chunk.dictionary_page_offset:
        place = min(place, chunk.dictionary_page_offset)
    end = place + chunk.total_compressed_size
    if place < 0 or chunk.num_values < 0:
        raise ValueError("a column begins before the file")
    while place < end + _BEYOND and seen < chunk.num_values:
        header, length = _header(content, place)
        size, packed = header.get(2, 0), header.get(3, 0)
        if size < 0 or packed < 0:
            raise ValueError("a page has a negative size")
        if header.get(1) == _DICTIONARY:
            yield size, None, 0
        else:
            told = header.get(5) or header.get(8) or {}
            values = max(0, told.get(1, 0))
            seen += values
            yield size, told.get(2 if 5 in header else 4, 0), values
        place += length + packed


def _header(content: IO[bytes], place: int) -> tuple[dict[int, Any], int]:
    """Return the header of the page at a place, by the numbers of its fields, and its length."""
    for most in _HEADER:
        content.seek(place)
        source = io.BytesIO(content.read(most))
        try:
            return _struct(source), source.tell()
        except EOFError:
            continue
    raise ValueError("the header of a page is cut off")


def _struct(source: io.BytesIO, depth: int = 0) -> dict[int, Any]:
    """Read a struct in Thrift's compact protocol. Texts and lists are skipped."""
    found: dict[int, Any] = {}
    field = 0
    while first := _byte(source):
        field = field + (first >> 4) if first >> 4 else _signed(source)
        found[field] = _value(source, first & 15, depth)
    return found


def _value(source: io.BytesIO, kind: int, depth: int) -> Any:
    if kind in (1, 2):  # true or false, without a byte of its own
        return 2 - kind
    if kind == 3:
        return _byte(source)
    if kind in (4, 5, 6):
        return _signed(source)
    if kind in (7, 8):
        length = 8 if kind == 7 else _unsigned(source)
        if len(source.read(length)) < length:
            raise EOFError
        return None
    if kind in (9, 10) and depth < 8:
        first = _byte(source)
        count = _unsigned(source) if first >> 4 == 15 else first >> 4
        return [_value(source, 3 if first & 15 in (1, 2) else first & 15, depth + 1) for _ in range(count)]
    if kind == 12 and depth < 8:
        return _struct(source, depth + 1)
    raise ValueError(f"the header of a page has a field of kind {kind}")


def _byte(source: io.BytesIO) -> int:
    byte = source.read(1)
    if not byte:
        raise EOFError
    return byte[0]


def _unsigned(source: io.BytesIO) -> int:
    number = shift = 0
    while True:
        byte = _byte(source)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        if (shift := shift + 7) > 63:
            raise ValueError("the header of a page has a number of more than ten bytes")


def _signed(source: io.BytesIO) -> int:
    number = _unsigned(source)
    return (number >> 1) ^ -(number & 1)
