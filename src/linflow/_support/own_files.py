"""Recognising files that linflow wrote. It may replace them, and it leaves all others alone."""

from __future__ import annotations

import json
import mmap
import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from linflow._support.paths import PathLike, check_regular, quote

GENERATOR = '<meta name="generator" content="linflow">'
"""The mark in every page."""
MADE = "was made by: linflow"
"""The mark in a comment of an experiment file that was written beside results."""
MARKS = {
    ".html": GENERATOR.encode(),
    ".json": b'"linflow": "',  # among the versions
    ".nc": b"linflow-run-",
    ".parquet": b"linflow",  # a key of its schema
    ".toml": MADE.encode(),
    ".pdf": b"/Creator (linflow",
    ".svg": b"<dc:title>linflow",
    ".png": b"Software\0linflow",
}
"""The mark that a file of each kind contains if linflow wrote it. Drawings name the program that made them."""


def refuse_foreign_files(
    paths: Iterable[PathLike], way: str = "name another file", *, head: str | None = None
) -> None:
    """Refuse to overwrite a file that linflow has not written.

    Args:
        paths: the files to write. A CSV table cannot carry a mark, so the file beside it decides.
        way: what to do instead.
        head: the first line of files that linflow wrote, if that line is their mark.

    Raises:
        FileExistsError: there is such a file, and it is not empty; or there is a link, a pipe or a device.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = pathlib.Path(folder, "index.html")
        ...     refuse_foreign_files([page])
        ...     _ = page.write_text("<title>mine</title>")
        ...     try:
        ...         refuse_foreign_files([page])
        ...     except FileExistsError as error:
        ...         print(str(error).rpartition(" already ")[2])
        exists and was not written by linflow; name another file, or move it away.
    """
    for path in map(Path, paths):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISDIR(found.st_mode):
            continue
        check_regular(found, path, f"written; {way}, or remove it", f"; {way}, or remove it", FileExistsError)
        if found.st_size > 0 and not _own(path, head):
            raise FileExistsError(
                f"{quote(path)} already exists and was not written by linflow; {way}, or move it away."
            )


def _own(path: Path, head: str | None = None) -> bool:
    if head is not None:
        with open(path, "rb") as file:
            return file.readline(2 * len(head)).strip() == head.encode()
    kind = path.suffix.lower()
    if kind == ".csv":
        beside = path.with_name(path.name + ".toml")
        return beside.is_file() and _own(beside)
    if kind == ".npz":
        return _layers(_archived(path))
    if kind == ".safetensors":
        return _layers(_listed(path))
    if kind not in MARKS:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(MARKS[kind]) >= 0


def _layers(names: Iterable[str]) -> bool:
    """Tell whether these are the names of layers and the scale, as `save_weights` writes them."""
    found = set(names)
    return "scale" in found and found - {"scale"} == {f"W{l}" for l in range(1, len(found))}


def _archived(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception:  # damaged files end in errors of many kinds
        return []


def _listed(path: Path) -> list[str]:
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(size, 2**24)))
        except (ValueError, RecursionError):
            return []
    told = header.pop("__metadata__", None) if isinstance(header, dict) else None
    return [*header, "scale"] if isinstance(told, dict) and re.fullmatch(r"[-+.\de]+", str(told.get("scale"))) else []
