"""Reads the NetCDF file of a run without trusting its content."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._support.arrays import first_bad
from linflow._support.paths import FileError, PathLike, check_size, decoding, import_for, quote, readable, suffix
from linflow._support.words import position
from linflow.dynamics.storage import schema as _schema

if TYPE_CHECKING:
    import h5py

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_FILTERS = {_DEFLATE, _SHUFFLE, _FLETCHER}
"""Allowed HDF5 filters: deflate, shuffle, Fletcher's checksum. HDF5 looks for others in plug-ins, which are code."""

_CHECKSUM = 4
"""Bytes of Fletcher's checksum."""
_BLOCK = 2**20
KINDS = {"run": _schema.RUN}
"""The kinds of runs that are read by default, keyed by the file attribute that names them."""


def read_run(path: PathLike, limit: int | None, kinds: Mapping[str, _schema.Kind] = KINDS) -> RunFile:
    """Return the content of a run's file; only its attributes if `limit`, in bytes, is None."""
    suffix(path, (".nc",), "a run is read from")
    found = readable(path)
    with open(found, "rb") as content:
        first = content.read(len(_SIGNATURE))
    if first.startswith(b"CDF"):
        raise FileError(f"{quote(path)} is NetCDF-3; save it as NetCDF-4: xarray's to_netcdf(…, engine='h5netcdf').")
    if first != _SIGNATURE:
        raise FileError(
            f"{quote(path)} is not a NetCDF-4 file: it begins with {first!r}; a file of save_run is needed."
        )
    _check_seal(found)
    h5py = import_for("h5py", path)
    run = RunFile(found)
    with decoding(path, "NetCDF"), h5py.File(found, "r") as file:
        run.read_attributes(file, kinds)
        run.check_version()
        if limit is not None:
            run.read_arrays(file, limit)
    if limit is not None:
        run.check_sum()
    return run


def _check_seal(path: Path) -> None:
    """Verify the digest at the end of the file, if any: a damaged file can make HDF5 run for ever."""
    size = path.stat().st_size - _schema.SEALED
    with open(path, "rb") as file:
        file.seek(max(size, 0))
        seal = file.read()
        if _schema.SEAL not in seal:
            return
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(min(_BLOCK, size - file.tell())):
            digest.update(block)
    if seal != _schema.seal(digest.hexdigest()):
        raise FileError(
            f"{quote(path)} is damaged: its bytes do not have the digest at its end. Save or fetch it again."
        )


def _inflated(packed: bytes, most: int) -> int:
    """Return the number of bytes that these decompress to, or one more than `most`. They are not kept."""
    stream, size = zlib.decompressobj(), 0
    try:
        while packed and not stream.eof and size <= most:
            size += len(stream.decompress(packed, _BLOCK))
            packed = stream.unconsumed_tail
    except zlib.error:
        return -1
    return min(size, most + 1)


class RunFile:
    """The content of a run's file, read without trusting it."""

    def __init__(self, path: Path):
        self.path = path
        self.kind, self.told = _schema.RUN, "run"
        self.attributes: dict[str, str | int | float] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def read_attributes(self, file: h5py.File, kinds: Mapping[str, _schema.Kind]) -> None:
        """Read the global attributes that describe the run."""
        if "kind" in file.attrs:
            told = self._plain("kind", file.attrs["kind"])
            if told not in kinds:
                raise FileError(f"{quote(self.path)} holds a {told}; linflow.load reads it, if this version can.")
            self.told, self.kind = str(told), kinds[str(told)]
        for name in (*self.kind.checked, *self.kind.also_read):
            if name in file.attrs:
                self.attributes[name] = self._plain(name, file.attrs[name])

    def _plain(self, name: str, value: Any) -> str | int | float:
        if isinstance(value, np.ndarray) and value.size == 1:  # how NetCDF stores a number
            value = value.item()
        value = value.item() if isinstance(value, np.generic) else value
        value = value.decode() if isinstance(value, bytes) else value
        if not isinstance(value, (str, int, float)):
            raise self.error(f"its attribute {name!r} is of type {type(value).__name__}; text or a number is needed")
        return value

    def check_version(self) -> None:
        """Raise unless this is a run in the format that this version reads."""
        version = self.attributes.get("format_version")
        if version is None:
            raise FileError(
                f"{quote(self.path)} is not a run of linflow (it has no format_version). Pass a file of "
                "save_run, or read it with xarray."
            )
        if version != _schema.FORMAT_VERSION:
            raise FileError(
                f"{quote(self.path)} is in format {version!r}, written by {self.attributes.get('source')!r}, and "
                f"this version of linflow reads format {_schema.FORMAT_VERSION}; update it: pip install -U linflow."
            )

    def json(self, name: str, kind: type, default: Any) -> Any:
        """Return an attribute stored as JSON, checked to be of the type `kind`."""
        text = self.attributes.get(name)
        if text is None:
            return default
        try:
            value = json.loads(str(text))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise self.error(f"its attribute {name!r} is not a {kind.__name__} in JSON")
        return value

    def read_arrays(self, file: h5py.File, limit: int) -> None:
        """Read all variables of a run, after checking every one of them."""
        names = [name for name in map(str, file) if self.kind.holds(name)]
        datasets = {name: self._dataset(file, name) for name in names}
        check_size(sum(8 * math.prod(data.shape) for data in datasets.values()), limit, self.path)
        for data in datasets.values():
            check_size(8 * math.prod(data.chunks or ()), limit, self.path, "one chunk of it")
        for name, data in datasets.items():
            self._check_chunks(data, name)
            kind = np.int64 if data.dtype.kind in "iu" else np.float64
            self.arrays[name] = np.array(data[()], dtype=kind)

    def _dataset(self, file: h5py.File, name: str) -> h5py.Dataset:
        import h5py  # noqa: PLC0415 - h5py is slow to import

        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise self.error(f"{name!r} is a link to elsewhere; do not trust this file")
        data = file[name]
        if not isinstance(data, h5py.Dataset) or data.shape is None or data.dtype.kind not in "fiu":
            raise self.error(f"{name!r} is not an array of real numbers")
        if data.is_virtual or data.external:
            raise self.error(f"{name!r} takes its data from another file; do not trust this file")
        made = data.id.get_create_plist()
        used = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
        if not {*used} <= _FILTERS:
            raise self.error(
                f"{name!r} is compressed by a filter (number {max({*used} - _FILTERS)}) that is not used here"
            )
        if len({*used}) < len(used):
            raise self.error(f"{name!r} is compressed more than once; do not trust this file")
        return data

    def _check_chunks(self, data: h5py.Dataset, name: str) -> None:
        """Decompress each chunk to nothing. HDF5 itself goes on as long as there is something to decompress."""
        made = data.id.get_create_plist()
        used = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
        if data.chunks is None or _DEFLATE not in used:
            return
        size = data.dtype.itemsize * math.prod(data.chunks)
        summed = _CHECKSUM * (_FLETCHER in used[: used.index(_DEFLATE)])
        after = _CHECKSUM * (_FLETCHER in used[used.index(_DEFLATE) :])
        whole = self.path.stat().st_size
        for i in range(data.id.get_num_chunks()):
            found = data.id.get_chunk_info(i)
            if found.size > whole or found.filter_mask:
                raise self.error(f"{name!r} has a chunk that is not stored as all others are; do not trust this file")
            packed = data.id.read_direct_chunk(found.chunk_offset)[1]
            got = _inflated(packed[: len(packed) - after], size + summed)
            if got != size + summed:
                raise self.error(
                    f"{name!r} has a chunk that does not decompress to its {size} bytes; do not trust this file"
                )

    def check_sum(self) -> None:
        """Verify the checksum, if there is one."""
        stated = self.attributes.get("checksum")
        if stated is not None and stated != _schema.checksum(self.arrays, self.attributes, self.kind.checked):
            raise FileError(
                f"{quote(self.path)} is damaged, or was changed after it was saved: its content does not have the "
                "checksum it states. Save or fetch it again; if you changed it on purpose, delete its attribute "
                "'checksum'."
            )

    def array(self, name: str, shape: Sequence[int | None], *, last_free: bool = False) -> np.ndarray:
        """Return a variable, checked for shape and finite values; `last_free` exempts its last row."""
        if name not in self.arrays:
            raise self.error(f"it has no variable {name!r}")
        x = self.arrays[name]
        if x.ndim != len(shape) or any(need not in (None, got) for need, got in zip(shape, x.shape, strict=True)):
            needed = "×".join("any" if side is None else str(side) for side in shape) or "a single number"
            found = "×".join(map(str, x.shape)) or "a single number"
            raise self.error(f"{name!r} has the shape {found}, and {needed} is needed")
        looked_at = x[:-1] if last_free and x.ndim else x
        if not np.isfinite(looked_at).all():
            place = first_bad(looked_at)
            at = (
                f" at index {', '.join(map(str, place))}"
                if len(place) == 1
                else f" at {position(place)}"
                if place
                else ""
            )
            raise self.error(f"{name!r} is {looked_at[tuple(place)]}{at}, and finite numbers are needed")
        return x.astype(np.float64)

    def optional(self, name: str, shape: Sequence[int | None], *, last_free: bool = False) -> np.ndarray | None:
        """Return a variable, or None if there is none."""
        return self.array(name, shape, last_free=last_free) if name in self.arrays else None

    def error(self, found: str) -> FileError:
        """Return the error that says what was found."""
        return FileError(
            f"{quote(self.path)} is not a {self.kind.noun} as linflow saves it: {found}. Save or fetch it again."
        )
