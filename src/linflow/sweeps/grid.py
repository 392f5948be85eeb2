"""Grids: which experiments a sweep is made of, and what each is called."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from linflow.files import atomic
from linflow.settings import unused
from linflow.sweeps.axes import SHAPE, Axis, defaults

PATHS = ("data.x", "data.y", "data.target", "start.weights")
"""Settings that name files."""
ID_LENGTH = 20
"""Hexadecimal digits of an id: 80 bits, so that two of a million cells share one with a chance of 10⁻¹²."""


@dataclass(frozen=True)
class Grid:
    """A set of experiments: all combinations of the values on the axes, each set into the base experiment.

    Attributes:
        base: settings by dotted name that are the same everywhere.
        axes: what changes; the last changes fastest.
        check: whether each run is set against its certificate at every recorded time.
        curves: points of each run to keep at most, 0 for none.
        time_limit: seconds that a cell may take, None for no limit; no part of the id of a cell.
        arrays: data that were given as arrays, by the names of the files that will hold them.
        source: the file again, with absolute paths, as a tree; `grid_file.to_toml` writes it.
    """

    base: dict[str, Any]
    axes: tuple[Axis, ...]
    check: bool = False
    curves: int = 0
    time_limit: float | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def varied(self) -> tuple[str, ...]:
        """The names of what changes."""
        return tuple(key for axis in self.axes for key in axis.keys)

    def settings(self, index: int) -> dict[str, Any]:
        """Return the settings of a cell by dotted name; what is left out has its default, or is not used."""
        found = dict(self.base)
        for axis in reversed(self.axes):
            index, at = divmod(index, len(axis.values))
            found |= zip(axis.keys, axis.values[at], strict=True)
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
        """Return the id of a cell: a hash of all that its numbers depend on, files by content and not by path."""
        # What has its default is left out: a setting that is new one day changes no id.
        usual = defaults()
        settings = {k: v for k, v in self.settings(index).items() if canonical(v) != canonical(usual.get(k))}
        for name in PATHS:
            if settings.get(name) is not None:
                settings[name] = self.digest(settings[name])
        settings |= {"sweep.check": self.check, "sweep.curves": self.curves}
        text = json.dumps(canonical(settings), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of all cells, shape `(len,)`, as bytes."""
        return np.fromiter((self.identity(i).encode() for i in range(len(self))), f"S{ID_LENGTH}", len(self))

    def placed(self, folder: Path) -> Grid:
        """Write the arrays into a folder, and return the grid that reads them there."""
        if not self.arrays:
            return self
        there = {}
        for name, array in self.arrays.items():
            there[name] = str(folder.resolve() / name)
            if not (folder / name).exists():
                with atomic(folder / name) as temporary, open(temporary, "wb") as file:
                    np.save(file, array, allow_pickle=False)

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: moved(one) for key, one in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(moved(one) for one in value)
            return there.get(value, value) if isinstance(value, str) else value

        axes = tuple(Axis(axis.keys, moved(axis.values)) for axis in self.axes)
        return replace(self, base=moved(self.base), axes=axes, arrays={}, source=moved(self.source), _digests={})

    def digest(self, path: Any) -> str:
        """Return the hash of a file as it was when first asked for."""
        path = str(path)
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def digests(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the hashes of the files that a cell reads, by path."""
        return {str(settings[name]): self.digest(settings[name]) for name in PATHS if settings.get(name) is not None}


def stored(value: Any, name: str) -> tuple[str, np.ndarray]:
    """Return data that were given as an array, and the name of the file of the sweep that will hold them."""
    try:
        array = np.ascontiguousarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r:.60}; the path of a file, or a matrix of numbers, is needed.") from None
    if not name.startswith("data.") or array.ndim not in (1, 2):
        raise ValueError(f"{name} is an array of shape {array.shape}; a path is needed, or for data a matrix.")
    return f"data-{hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()[:16]}.npy", array


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file, "unreadable" where there is none to read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def canonical(value: Any) -> Any:
    """Return a value such that equal settings give equal text: 1 for 1.0, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): canonical(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
