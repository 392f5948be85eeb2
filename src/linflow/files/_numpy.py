"""Reading `.npy` and `.npz`, headers first. Sizes are known before anything is decoded, and pickles are refused."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from linflow._support.paths import FileError, check_size, decoding, quote
from linflow._support.words import listed

MEMBERS = 10_000
"""The most members that an archive can have."""

_WAYS = {
    "b": ": write truth values as 1 and 0, x.astype(float)",
    "V": ": write the columns that are data as one matrix",
}

_DEFLATE = 1032
"""Deflate never shrinks its content by more than this factor."""


def read_npy(path: Path, limit: int) -> np.ndarray:
    """Return the array of an `.npy` file."""
    with open(path, "rb") as file, decoding(path, ".npy"):
        return _array(file, path.stat().st_size, path, "the array", limit)


def read_npz(path: Path, limit: int, key: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, or only the one named `key`. `limit` applies to all that are read."""
    arrays = {}
    with decoding(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = check_archive(archive, path)
        for info in members:
            if not info.filename.endswith(".npy"):
                raise FileError(
                    f"{quote(path)} holds {info.filename!r}, not a NumPy array; write it with numpy.savez."
                )
        names = [info.filename.removesuffix(".npy") for info in members]
        if {"format.npy", "shape.npy", "data.npy"} <= {info.filename for info in members}:
            raise FileError(
                f"{quote(path)} holds a sparse matrix of SciPy; a dense one is needed: "
                "numpy.save(path, scipy.sparse.load_npz(path).toarray())."
            )
        if key is not None and key not in names:
            raise FileError(f"{quote(path)} has no {key!r}; it holds {listed(names)}.")
        wanted = [(name, info) for name, info in zip(names, members, strict=True) if key in (None, name)]
        check_size(sum(info.file_size for _, info in wanted), limit, path)
        for name, info in wanted:
            with archive.open(info) as file:
                arrays[name] = _array(file, info.file_size, path, repr(name), limit)
                file.read(1)  # reading to the end compares the checksum
    return arrays


def check_archive(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive after checking that their names and sizes are plausible.

    Raises:
        FileError: no members or too many, names that lead out of the folder or occur twice, encryption, another
            compression than NumPy's, or a size that the compressed data cannot have.
    """
    members = archive.infolist()
    if not 0 < len(members) <= MEMBERS:
        raise FileError(f"{quote(path)} is an archive of {len(members)} members; 1 to {MEMBERS} are needed.")
    names = [info.filename for info in members]
    for info in members:
        name = info.filename
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]:
            raise FileError(
                f"{quote(path)} holds {name!r}, a name that leads out of its folder; do not trust this file."
            )
        if info.flag_bits & 1:
            raise FileError(f"{quote(path)} holds {name!r}, which is encrypted; write it without a password.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(
                f"{quote(path)} holds {name!r}, compressed by another method than NumPy's; write it again."
            )
        if info.file_size > _DEFLATE * info.compress_size + 64:
            raise FileError(
                f"{quote(path)} holds {name!r}, which claims {info.file_size} bytes from {info.compress_size}; no "
                "compression does that: do not trust this file."
            )
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise FileError(f"{quote(path)} holds {listed(sorted(twice))} more than once; write it again.")
    return members


def _array(file: IO[bytes], size: int, path: Path, what: str, limit: int) -> np.ndarray:
    """Read one array from a stream of `size` bytes."""
    try:
        version = np.lib.format.read_magic(file)
        header: Any = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
    except ValueError as error:
        raise FileError(
            f"{quote(path)}: {what} is no NumPy array: its header is missing, cut off or damaged. Write it again."
        ) from error
    if dtype.hasobject:
        raise FileError(
            f"{quote(path)}: {what} holds Python objects, which only a pickle can store, and unpickling runs code; "
            "it is not read. Save plain numbers: numpy.save(path, numpy.asarray(x, dtype=float))."
        )
    if dtype.kind not in "fiu":
        way = _WAYS.get(dtype.kind, "")
        raise FileError(f"{quote(path)}: {what} has dtype {dtype}; real numbers are needed{way}.")
    if any(side < 0 for side in shape):
        raise FileError(f"{quote(path)}: {what} has the shape {shape}; write it again.")
    need = math.prod(shape) * dtype.itemsize
    check_size(math.prod(shape) * max(dtype.itemsize, 8), limit, path, what)
    have = size - file.tell()
    if need != have:
        raise FileError(
            f"{quote(path)}: {what} of shape {shape} and dtype {dtype} takes {need} bytes, and {have} follow its "
            "header: truncated or corrupt. Write or fetch it again."
        )
    return np.frombuffer(file.read(need), dtype).reshape(shape, order="F" if fortran else "C")
