"""Files of compiled code. What is loaded is run, so each holds the hash of its content and is the user's alone."""

from __future__ import annotations

import os
import pickle
import stat
from contextlib import suppress
from hashlib import sha256
from typing import Any
from uuid import uuid4

from numba.core.caching import IndexDataCacheFile

from linflow._support.paths import open_careful

_LENGTH = sha256().digest_size


class CodeFiles(IndexDataCacheFile):
    """The index and the data files of one function, as numba names them.

    A file that is damaged, that another user could have written, or that cannot be read counts as absent. Then the
    code is compiled again. numba itself reads an emptied index as an error, and runs a damaged object file.
    """

    def load(self, key: Any) -> Any:
        """Return the compiled code of a signature, or None."""
        name = self._load_index().get(key)
        return None if name is None else self._load_data(name)

    def save(self, key: Any, data: Any) -> None:
        """Keep the compiled code of a signature; what cannot be written is compiled again next time."""
        with suppress(OSError):
            super().save(key, data)

    def _load_index(self) -> dict[Any, str]:
        told = _content(self._index_path)
        version, stamp, found = (None, None, {}) if told is None else told
        return found if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return _content(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, value: Any) -> None:
        content = self._dump(value)
        made = f"{path}.tmp.{uuid4().hex[:16]}"
        try:
            with os.fdopen(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(_digest(path, content) + content)
            os.replace(made, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(made)
            raise


def _content(path: str) -> Any:
    """Return what a file holds, or None if it is not whole, or not of this user."""
    try:
        with open(path, "rb", opener=open_careful) as file:
            content = file.read() if _own(os.fstat(file.fileno())) else b""
    except OSError:
        return None
    digest, content = content[:_LENGTH], content[_LENGTH:]
    # Only what has its hash and its owner is unpickled.
    return pickle.loads(content) if content and _digest(path, content) == digest else None


def _digest(path: str, content: bytes) -> bytes:
    """Return the hash of a file and its name: code of one function in the place of another is damage too."""
    return sha256(os.path.basename(path).encode() + b"\0" + content).digest()


def _own(found: os.stat_result) -> bool:
    """Tell whether only this user, or the administrator, can have written a regular file."""
    if not stat.S_ISREG(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows, where folders of a user are closed to others
        return True
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
