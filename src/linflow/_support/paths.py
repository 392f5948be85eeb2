"""Paths: checks before reading, and atomic writing."""

from __future__ import annotations

import importlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linflow._support.digits import in_bytes
from linflow._support.extras import install
from linflow._support.words import kind_of, visible

LIMIT = 2 * 2**30
"""The most bytes that a file may decode to, unless a caller allows more."""

PathLike = str | os.PathLike[str]

_WAYS = {
    "Save it as CSV": (".xls", ".xlsx", ".xlsm", ".ods", ".numbers"),
    "Unpack it first": (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"),
    "It can contain code: load it only if you trust it, and save the arrays as .npy or .npz": (
        ".pkl",
        ".pickle",
        ".joblib",
    ),
    "Load it in Python (scipy.io.loadmat, h5py) and save the arrays as .npy or .npz": (".mat", ".h5", ".hdf5"),
    "Write it as Parquet": (".feather", ".arrow", ".orc"),
    "Rename it to .txt if it holds lines of numbers": (".dat", ".asc", ".data"),
}
"""Advice for files of other kinds, by their suffixes."""

_NO_LINK = "here; put the file itself in its place, or remove the link"


class FileError(ValueError):
    """A file that cannot be used. The text is one line: what was found, what is needed and how to fix it.

    Example:
        >>> from linflow.files import read_matrix
        >>> read_matrix("data.xls")
        Traceback (most recent call last):
        linflow._support.paths.FileError: 'data.xls' ends in '.xls'; a matrix is read from .csv, ... Save it as CSV.
    """


def quote(path: PathLike) -> str:
    """Return a path as errors show it: quoted, on one line."""
    return repr(os.fspath(path))


def one_line(error: BaseException) -> str:
    """Return the text of another library's error on one line of bounded length."""
    text = visible(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "…"


def suffix(path: PathLike, known: Sequence[str], what: str) -> str:
    """Return the lower-case suffix of a path, one of `known`.

    Raises:
        FileError: another suffix. The sentence on what is needed begins with `what`.
        TypeError: `path` is not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is {kind_of(path)}; the name of a file is needed, a str or a pathlib.Path.")
    end = Path(path).suffix.lower()
    if end not in known:
        found = f"ends in {end!r}" if end else "has no suffix"
        way = next((way for way, ends in _WAYS.items() if end in ends), "Convert it") if end else "Add it to its name"
        if not what.endswith(" from"):  # it is to be written
            way = "Give it another name"
        raise FileError(f"{quote(path)} {found}; {what} {', '.join(known)}. {way}.")
    return end


def readable(path: PathLike, *, links: bool = True, empty: bool = False) -> Path:
    """Return the path of a regular file that may be read.

    Args:
        path: the file.
        links: whether the path may be a symbolic link. In a folder of results it may not: whoever made the folder
            could have linked to any file of its reader.
        empty: whether the file may be empty.

    Raises:
        OSError: no such file, a directory, no permission, or not a regular file (reading a pipe could wait forever).
        FileError: an empty file.
    """
    try:
        found = os.stat(path, follow_symlinks=links)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{quote(path)} does not exist; check the name and the folder.") from error
    except PermissionError as error:
        raise PermissionError(
            f"{quote(path)} lies in a folder that may not be read; check its permissions."
        ) from error
    except OSError as error:
        raise type(error)(f"{quote(path)} cannot be reached ({error.strerror}); check the name.") from error
    check_regular(found, path, f"read {_NO_LINK}", "; copy its content to one first")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{quote(path)} may not be read; check its permissions.")
    if found.st_size == 0 and not empty:
        raise FileError(f"{quote(path)} is empty (0 bytes); write it again.")
    return Path(path)


def check_regular(
    found: os.stat_result, path: PathLike, link: str, other: str, error: type[OSError] = OSError
) -> None:
    """Raise an error unless a regular file was found at a path. Nothing is opened: a pipe could wait forever.

    Args:
        found: what `os.stat` or `os.lstat` found.
        path: the path, for the message.
        link: how the message about a symbolic link ends, after "links are not".
        other: how the message about anything else ends, such as a pipe.
        error: the class of both errors.

    Raises:
        IsADirectoryError: a directory.
    """
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{quote(path)} is a directory; name a file in it.")
    if stat.S_ISLNK(found.st_mode):
        raise error(f"{quote(path)} is a symbolic link, and links are not {link}.")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{quote(path)} is not a regular file{other}.")


def open_careful(path: PathLike, flags: int, mode: int = 0o666) -> int:
    """Open a file, but not through a link, and without waiting for the other end of a pipe. Return its handle."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), mode)


def check_size(size: int, limit: int, path: PathLike, what: str = "it") -> None:
    """Raise a `FileError` if `size` bytes, decoded, are more than `limit`."""
    if size > limit:
        raise FileError(
            f"{quote(path)} is too large: {what} would take {in_bytes(size)}, and {in_bytes(limit)} are allowed. "
            f"If you trust it and have the memory, pass limit={size}."
        )


def blocks(path: PathLike) -> Iterator[bytes]:
    """Yield the bytes of a file piece by piece, so that it may be larger than the memory."""
    with open(path, "rb") as file:
        while block := file.read(2**20):
            yield block


@contextmanager
def decoding(path: PathLike, what: str) -> Iterator[None]:
    """Turn any error of a decoder into a `FileError` that names the file and `what` it was read as."""
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as error:
        raise FileError(
            f"{quote(path)} cannot be read as {what}: it is truncated, corrupt or something else "
            f"({one_line(error)}). Write or fetch it again."
        ) from error


def import_for(module: str, path: PathLike) -> Any:
    """Import a package that a file needs.

    Raises:
        ImportError: the package is not installed. The text says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{quote(path)} needs the package {package}, which cannot be imported ({one_line(error)}): "
            f"{install(package)}"
        ) from error


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path in the same folder, and rename it to `path` at the end.

    The content is on the disk before the file gets its name. If anything is raised inside, including a keyboard
    interrupt, the temporary file is removed and `path` stays as it was. An existing file is replaced and its
    permissions are kept. A symbolic link is refused: it may lead to a file that was not meant.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: the folder does not exist, `path` is a directory, a link or another thing that is not a regular file,
            no permission, or no room.

    Example:
        >>> import tempfile, pathlib
        >>> from linflow.files import atomic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = pathlib.Path(folder, "note.txt")
        ...     with atomic(target) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     target.read_text(), len(list(pathlib.Path(folder).iterdir()))
        ('whole', 1)
    """
    target, mode = _target(path)
    temporary = target.with_name(f".linflow-{secrets.token_hex(8)}.tmp")
    try:
        # A new file usually gets 0o666 less the umask. O_EXCL never follows a link that someone else put there.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except PermissionError as error:
        raise PermissionError(
            f"{quote(path)} cannot be written: no files may be made in {quote(target.parent)}."
        ) from error
    try:
        os.close(handle)
        yield temporary
        if mode is not None:
            os.chmod(temporary, mode)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # other systems cannot open a folder
        _sync(target.parent, os.O_RDONLY)


def write_bytes(path: PathLike, write: Callable[[Any], Any]) -> None:
    """Write a file atomically by calling `write(file)`, with `file` open for bytes."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_whole(path: PathLike, content: str | bytes) -> None:
    """Write content to a file atomically; text is encoded as UTF-8."""
    write_bytes(path, lambda file: file.write(content.encode() if isinstance(content, str) else content))


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: PathLike) -> tuple[Path, int | None]:
    """Return the path, and the permissions of the file there (None if there is no file)."""
    target = Path(path)
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        _check_parent(path, target.parent)
        return target, None
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{quote(path)} cannot be written: a part of its path is a file.") from error
    check_regular(found, path, f"written {_NO_LINK}", ", so it was not replaced; choose another name")
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{quote(path)} may not be written; change its permissions or name another.")
    return target, stat.S_IMODE(found.st_mode)


def _check_parent(path: PathLike, parent: Path) -> None:
    if not parent.exists():
        raise FileNotFoundError(
            f"{quote(path)} cannot be written: the folder {quote(parent)} does not exist; make it first."
        )
    if not parent.is_dir():
        raise NotADirectoryError(f"{quote(path)} cannot be written: {quote(parent)} is not a folder.")
