"""Grids: the experiments that a sweep consists of, and their ids."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support.arrays import unmasked
from linflow._support.paths import readable, write_whole
from linflow.experiments.old_keys import OLD_KEYS
from linflow.experiments.schema import PATHS
from linflow.experiments.unused import SIZES, unused
from linflow.files.matrices import member
from linflow.sweeps.axes import SHAPE, Axis, defaults

UNREADABLE = "unreadable: {}"
"""The text used as the hash of a file that cannot be read."""
BLANK = "\0 to be filled in"
"""A value that no setting can have."""
ID_LENGTH = 20
"""Hexadecimal digits of an id. With 80 bits, two of a million cells share an id with a probability of 10⁻¹²."""


@dataclass(frozen=True)
class Grid:
    """A set of experiments: the base experiment with every combination of the values on the axes.

    Attributes:
        base: the settings that all experiments share, by dotted name.
        axes: the settings that change; the last axis changes fastest.
        check: whether each run is compared with its certificate at every recorded time.
        verified: whether each cell gets a verified run as well.
        rigorous: whether each cell is also certified with the rounding proved.
        curves: the most points of each run to keep, 0 for none.
        time_limit: seconds that a cell may take, None for no limit. It is not part of the id of a cell.
        arrays: data that were given as arrays, by the names of the files that will hold them.
        source: the content of the grid file as a tree, with absolute paths except for arrays; `grid_file.to_toml`
            writes it.
        doubts: sentences on values that no experiment can have. Cells with such a value will fail.
        recorded: whether the hashes of files are those that were recorded. Then no file is read.
    """

    base: dict[str, Any]
    axes: tuple[Axis, ...]
    check: bool = False
    verified: bool = False
    rigorous: bool = False
    curves: int = 0
    time_limit: float | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    recorded: bool = False
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return math.prod(map(len, self.axes))

    @property
    def varied(self) -> tuple[str, ...]:
        """The names of the settings that change."""
        return tuple(key for axis in self.axes for key in axis.keys)

    def settings(self, index: int) -> dict[str, Any]:
        """Return the settings of a cell by dotted name. Those left out have their defaults or are not used."""
        found = dict(self.base)
        for axis in reversed(self.axes):
            index, at = divmod(index, len(axis))
            found |= axis.at(at)
        for name in unused(found.get("algorithm", "flow")):  # so that cells with the same numbers are the same cell
            found.pop(name, None)
        width, depth = (found.pop(name, None) for name in SHAPE)
        if width is not None or depth is not None:
            hidden = found.get("start.hidden") or ()
            count = depth - 1 if depth is not None else max(len(hidden), 1)
            each = width if width is not None else next(iter(hidden), None)
            found["start.hidden"] = [each] * count if each is not None else []
        return found

    def identity(self, index: int) -> str:
        """Return the id of a cell: a hash of everything that its numbers depend on.

        Files count by content, not by path.
        """
        return hashlib.sha256(self._text(self.settings(index)).encode()).hexdigest()[:ID_LENGTH]

    def _text(self, settings: Mapping[str, Any]) -> str:
        """Return the text whose hash is the id."""
        # Settings with their default values are left out, so a setting added later changes no id.
        size = SIZES.get(str(settings.get("start.init", defaults()["start.init"])), ("", None))[1]
        kind = "regression" if settings.get("data.x") is not None else "factorization"
        usual = {**defaults(), "start.size": size, "data.objective": kind}
        told = {k: v for k, v in settings.items() if _json(v) != _json(usual.get(k))}
        for name in PATHS:
            if told.get(name) is not None:  # by content and suffix; the suffix determines how it is read
                told[name] = self.digest(told[name]) + Path(told[name]).suffix.lower()
        if self.verified:  # left out otherwise, as in versions without proofs
            told["sweep.verified"] = True
        if self.rigorous:
            told["sweep.rigorous"] = True
        old = {new: key for key, new in OLD_KEYS.items()}  # a new name changes no id
        told = {old.get(name, name): value for name, value in told.items()}
        return _json({**told, "sweep.check": self.check, "sweep.curves": self.curves})

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of all cells, shape `(len,)`, as bytes."""
        # Along the longest axis only one value in the text changes, so the text has a placeholder for it.
        lengths = [len(axis) if _alone(axis) else 0 for axis in self.axes]
        if max(lengths, default=0) < 2:
            return np.array([self.identity(i) for i in range(len(self))], f"S{ID_LENGTH}")
        which = int(np.argmax(lengths))
        axis, after = self.axes[which], math.prod(map(len, self.axes[which + 1 :]))
        (name,), (values,) = axis.keys, axis.columns
        usual, texts = _json(defaults().get(name)), [_json(value) for value in values]
        ids = np.empty((len(self) // len(axis) // after, len(axis), after), f"S{ID_LENGTH}")
        for before, later in np.ndindex(ids.shape[0], after):
            first = before * len(axis) * after + later
            settings = self.settings(first)
            head, *tail = self._text({**settings, name: BLANK} if name in settings else settings).split(_json(BLANK))
            begun = hashlib.sha256(head.encode())
            for i, text in enumerate(texts):
                if text == usual:  # a default is left out of the text
                    ids[before, i, later] = self.identity(first + i * after)
                    continue
                whole = begun.copy()
                for rest in tail:
                    whole.update((text + rest).encode())
                ids[before, i, later] = whole.hexdigest()[:ID_LENGTH]
        return ids.reshape(-1)

    @property
    def files(self) -> dict[str, str]:
        """The hashes of all files that cells read, by path."""
        paths = [self.base.get(name) for name in PATHS]
        for axis in self.axes:
            for name, column in zip(axis.keys, axis.columns, strict=True):
                paths += column if name in PATHS else ()
        return {str(path): self.digest(path) for path in paths if path is not None and path not in self.arrays}

    def placed(self, folder: Path) -> Grid:
        """Write the arrays into a folder, and return a grid that reads them there.

        The hashes of all files are taken anew.
        """
        if not self.arrays:
            return replace(self, _digests={})
        there = {name: str(folder.resolve() / name) for name in self.arrays}
        for name, array in self.arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            if not _holds(folder / name, content.getvalue()):
                write_whole(folder / name, content.getvalue())

        def moved(name: str, column: Sequence[Any]) -> Sequence[Any]:
            return [there.get(path, path) for path in column] if name in PATHS else column

        base = {name: moved(name, [value])[0] for name, value in self.base.items()}
        axes = tuple(Axis(axis.keys, tuple(map(moved, axis.keys, axis.columns))) for axis in self.axes)
        # The grid file names the arrays relative to itself, so the folder can be moved.
        return replace(self, base=base, axes=axes, arrays={}, _digests={})

    def digest(self, path: Any) -> str:
        """Return the hash of a file as it was at the first call, or as it was recorded."""
        path = str(path)
        if path not in self._digests:
            self._digests[path] = UNREADABLE.format(path) if self.recorded else file_digest(path)
        return self._digests[path]

    def digests(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the hashes of the files that a cell reads, by path."""
        return {str(settings[name]): self.digest(settings[name]) for name in PATHS if settings.get(name) is not None}


def stored(value: Any, name: str) -> tuple[str, np.ndarray]:
    """Return the name of the file of the sweep that will hold an array, and the array as float64."""
    value = unmasked(value, name)
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, tensors with a gradient
        given = np.empty(0, dtype=object)
    if given.dtype.kind not in "fiub":
        shown = " ".join(repr(value).split())
        raise ValueError(f"{name} is {shown:.60}; the path of a file, or a matrix of real numbers, is needed.")
    array = np.array(given, dtype=np.float64, order="C")  # a copy: the caller may change it
    if not name.startswith("data.") or array.ndim not in (1, 2):
        raise ValueError(f"{name} is an array of shape {array.shape}; a path is needed, or for data a matrix.")
    return f"data-{hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()[:16]}.npy", array


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file. If it cannot be read, return a text that is unique to its path."""
    holder, key = member(path)
    if not os.path.isfile(holder):  # reading a pipe could wait forever
        return UNREADABLE.format(path)
    try:
        with open(holder, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() + (f":{key}" if key else "")
    except OSError:
        return UNREADABLE.format(path)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return readable(path, links=False).read_bytes() == content
    except (OSError, ValueError):  # none, or an empty one
        return False


def _alone(axis: Axis) -> bool:
    """Tell whether an axis sets a single setting on which nothing else in the cell depends."""
    others = ("algorithm", "data.objective", "start.init", "start.size", "start.hidden", *SHAPE, *PATHS)
    return len(axis.keys) == 1 and axis.keys[0] not in others


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=True).encode


def _json(value: Any) -> str:
    return _encode(canonical(value))


def canonical(value: Any) -> Any:
    """Return a value in a form in which equal settings give equal text: 1 for 1.0, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): canonical(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
