"""Grid files: reading a grid from TOML, and writing it again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from linflow._support import checks
from linflow._support.toml import read_toml, toml_value
from linflow._support.words import plural, verb_for, visible
from linflow.experiments.schema import Experiment, validated
from linflow.experiments.unused import unused
from linflow.sweeps.axes import (
    SHAPE,
    Axis,
    defaults,
    few,
    flat,
    invalid,
    nested,
    plain,
    setting_name,
    setting_names,
    untouched,
    values_of,
    whole_number,
)
from linflow.sweeps.grid import PATHS, Grid, canonical, stored

KINDS: dict[str, tuple[Any, Any]] = {
    "grid": (Mapping, {}),
    "zip": (Sequence, []),
    "sweep": (Mapping, {}),
    "files": (Mapping, {}),
}
"""Sections that an experiment file does not have: their types and their defaults."""
GRID = "grid.toml"
"""Name of the grid file in the folder of a sweep."""
HEADER = "# The grid of a sweep, written by linflow."
OPTIONS = ("check", "verified", "rigorous", "curves", "time_limit")


def read_grid(source: Grid | Mapping[str, Any] | str | os.PathLike[str]) -> Grid:
    """Read a grid from a TOML file, or from a dict with the content of such a file.

    Args:
        source: the path of a file, or a dict of the sections `grid`, `zip`, `sweep` and those of an experiment.
            Paths in a file are relative to the file, and paths in a dict to the working folder. A dict may also hold
            arrays.

    Raises:
        ValueError: the file is not TOML, a key is unknown (the nearest is named), or an axis has no values.
        OSError: no such file.

    Example:
        >>> from linflow.sweeps import read_grid
        >>> grid = read_grid({"grid": {"width": {"log": [10, 1000, 3]}, "start.init": ["ntk", "fan_in"], "seeds": 5}})
        >>> len(grid), grid.varied, grid.settings(29)["start.hidden"]
        (30, ('width', 'start.init', 'start.seed'), [1000])
    """
    if isinstance(source, Grid):
        return source
    if isinstance(source, Mapping):
        return _grid(source, Path.cwd(), "grid")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"grid is {source!r:.60}; the path of a file, or a dict of what it holds, is needed.")
    tree, _ = read_toml(source)
    try:
        return _grid(tree, Path(source).resolve().parent, str(source))
    except ValueError as error:
        if (text := visible(str(error))) != str(error):  # a key of others
            raise ValueError(text) from None
        raise


def recorded_grid(folder: str | os.PathLike[str]) -> Grid:
    """Return the grid of the sweep in a folder. Its ids use the hashes that the files had during the sweep.

    So the results can be read even if the data are missing or have changed since. No file but the grid file is read.
    """
    path, there = Path(folder) / GRID, Path(folder).resolve()
    tree, _ = read_toml(path, links=False)
    grid = _grid(tree, there, str(path))
    known = {os.path.abspath(there / k): str(v) for k, v in tree.get("files", {}).items()}
    return replace(grid, recorded=True, _digests=known)


def _grid(tree: Mapping[str, Any], folder: Path, where: str) -> Grid:
    parts = {name: tree.get(name, default) for name, (_, default) in KINDS.items()}
    for name, (kind, _) in KINDS.items():
        if not isinstance(parts[name], kind):
            needed = "tables [[zip]] are" if name == "zip" else f"a table [{name}] is"
            raise ValueError(f"{where}: {name} is {parts[name]!r}; {needed} needed.")  # noqa: TRY004 - of a file
    for table in parts["zip"]:
        if not isinstance(table, Mapping):
            raise ValueError(f"{where}: zip has {table!r}; tables [[zip]] are needed.")  # noqa: TRY004 - as above
    arrays: dict[str, Any] = {}

    def place(name: str, value: Any) -> Any:
        """Make paths absolute, turn arrays into files of the sweep, and turn other values into plain Python."""
        if name not in PATHS:
            try:
                return plain(value)
            except ValueError as error:
                raise ValueError(f"{where}: {name} has a value of a wrong kind: {error}") from None
        if isinstance(value, (str, os.PathLike)):
            return os.path.abspath(folder / value)
        own, array = stored(value, name)
        arrays[own] = array
        return own

    base = _base({key: part for key, part in tree.items() if key not in KINDS}, where)
    base = {name: place(name, value) for name, value in base.items()}
    single, *zips = (
        {key: _spec(key, spec, place, where) for key, spec in _flat(table, where).items()}
        for table in (parts["grid"], *parts["zip"])
    )
    axes = tuple(_axis(table, where) for table in [*({key: spec} for key, spec in single.items()), *zips])
    _once(axes, where)
    moved = {name for axis in axes for name in axis.keys}
    base = {name: value for name, value in base.items() if name not in moved}
    problem(base, where)
    _used(base, moved, where)
    _shaped(base, moved, where)
    count = math.prod(map(len, axes))
    few(count, f"{where}: the grid has {count:,} cells")
    options = {key: plain(value) for key, value in parts["sweep"].items() if value is not None}
    source = {**nested(base), "sweep": options, "grid": single, "zip": zips}
    doubts = tuple(text for axis in axes for text in _doubts(axis, where))
    return Grid(base, axes, **_options(options, where), arrays=arrays, source=source, doubts=doubts)


def _base(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings that all cells share, by dotted name."""
    given = {key: value for key, value in _flat(tree, where).items() if not _says_nothing(key, value)}
    names = _names(given, where)
    found = {names[key]: value for key, value in given.items() if value is not None}
    if out := [key for key in (*SHAPE, "seeds") if key in given]:
        raise ValueError(f"{where}: {out[0]} belongs in [grid]; put fixed values into [start], as hidden or seed.")
    return found


def _flat(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return flat(tree)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _says_nothing(key: str, value: Any) -> bool:
    """Tell whether a key could as well be left out.

    It can if it is an empty section, None, or the default of a setting that no sweep has.
    """
    if isinstance(value, Mapping):
        return not value and key in Experiment.model_fields
    usual = untouched()
    if value is None:
        return key in usual
    return key in usual and key not in setting_names() and canonical(plain(value)) == canonical(usual[key])


def _names(keys: Iterable[str], where: str) -> dict[str, str]:
    """Return the setting that each key stands for, and refuse two keys for one setting."""
    found: dict[str, str] = {}
    for key in keys:
        name = setting_name(key, where)
        if name in found.values():
            raise ValueError(f"{where}: {name} is given twice; leave one out.")
        found[key] = name
    return found


def _spec(key: str, spec: Any, place: Any, where: str) -> Any:
    """Return the values of a key in a grid, with absolute paths and with arrays replaced by files."""
    name = setting_name(key, where)
    if name not in PATHS:
        return place(name, spec)
    words = getattr(getattr(spec, "dtype", None), "kind", "") in ("U", "O", "T")  # paths in an array
    spec = plain(spec) if words else spec
    return [place(name, value) for value in spec] if isinstance(spec, (list, tuple)) else spec


def _axis(table: Mapping[str, Any], where: str) -> Axis:
    """Return the axis for one key, or for several that change together."""
    names = _names(table, where)
    columns = {names[key]: values_of(key, spec, where) for key, spec in table.items()}
    if not columns:
        raise ValueError(f"{where}: a [[zip]] has no columns; it needs at least two.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{where}: the columns of a [[zip]] must have the same length; they are {lengths}.")
    axis = Axis(tuple(columns), tuple(columns.values()))
    if all(isinstance(column, range) for column in axis.columns):
        return axis
    seen: set[str] = set()
    for row in zip(*axis.columns, strict=True):
        text = json.dumps(canonical(row))
        if text in seen:
            what = f"{', '.join(axis.keys)} is {', '.join(map(repr, row))}"
            raise ValueError(f"{where}: {what} more than once; once is enough.")
        seen.add(text)
    return axis


def _doubts(axis: Axis, where: str) -> Iterator[str]:
    """Yield a sentence on the first invalid value of each setting of an axis. Cells with such values fail."""
    for name, column in zip(axis.keys, axis.columns, strict=True):
        if name in SHAPE or isinstance(column, range):
            continue
        bad = invalid(name, column)
        if bad:
            try:
                problem({name: column[bad[0]]}, where)
            except ValueError as error:
                more = len(bad) - 1
                others = f" So {verb_for(more, 'are')} {plural(more, 'other value')}." if more else ""
                yield f"{error}{others} Cells with such a value will fail."


def _once(axes: Sequence[Axis], where: str) -> None:
    """Refuse a setting that is given twice, and hidden widths together with width or depth."""
    seen: set[str] = set()
    for name in (name for axis in axes for name in axis.keys):
        rivals = {"start.hidden"} if name in SHAPE else set(SHAPE) if name == "start.hidden" else set()
        if seen & {name, *rivals}:
            raise ValueError(f"{where}: {name} is set by two axes; leave one out.")
        seen.add(name)


def _used(base: Mapping[str, Any], moved: set[str], where: str) -> None:
    """Refuse settings that no cell uses: those of the other algorithm, or of a drawn start if weights are read."""
    fixed = None if "algorithm" in moved else base.get("algorithm", "flow")
    why = unused(fixed, weights="start.weights" in base or "start.weights" in moved)
    why |= dict.fromkeys(SHAPE, why["start.hidden"]) if "start.hidden" in why else {}
    usual = defaults()
    for name in [*base, *sorted(moved)]:
        if name in why and (name in moved or canonical(base[name]) != canonical(usual.get(name))):
            raise ValueError(f"{where}: {name} is not used: {why[name]}.")


def _shaped(base: Mapping[str, Any], moved: set[str], where: str) -> None:
    """Refuse a depth that changes if the width of each layer is not given."""
    if "depth" not in moved or "width" in moved:
        return
    hidden = base.get("start.hidden") or ()
    if not hidden and "start.hidden" not in moved:
        raise ValueError(f"{where}: the depth changes and there is no width; give width, or hidden in [start].")
    if len({*hidden}) > 1:
        raise ValueError(
            f"{where}: start.hidden is {list(hidden)}, of different widths, and the depth changes; make hidden the "
            "axis, a list of widths for each value, or give a width."
        )


def _options(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in given:
        if key not in OPTIONS:
            raise ValueError(f"{where}: sweep.{key} is an unknown key; there are {', '.join(OPTIONS)}.")
    asked = {key: given.get(key, False) for key in ("check", "verified", "rigorous")}
    for key, value in asked.items():
        if value not in (True, False):
            raise ValueError(f"{where}: sweep.{key} is {value!r}; true or false is needed.")
    curves = whole_number(given.get("curves", 0), f"{where}: sweep.curves", 0)
    if curves == 1:
        raise ValueError(f"{where}: sweep.curves is 1; 0 for none, or 2 and more for the ends and some between.")
    limit = given.get("time_limit")
    return {
        **{key: bool(value) for key, value in asked.items()},
        "curves": curves,
        "time_limit": None if limit is None else _seconds(limit, f"{where}: sweep.time_limit"),
    }


def _seconds(x: Any, name: str) -> float:
    try:
        return checks.positive(x, name)
    except TypeError as error:
        raise ValueError(str(error)) from None


def problem(settings: Mapping[str, Any], where: str) -> Experiment:
    """Return the experiment with these settings, given by dotted name.

    Raises:
        ValueError: a setting is wrong. The text describes the first problem.
    """
    try:
        return validated(nested(settings))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def to_toml(grid: Grid, folder: Path | None = None) -> str:
    """Return the text of the file that describes a grid, with the hashes of the files that it reads.

    Paths are absolute, except for those in the folder of the sweep. The grid file is in that folder too, so the
    folder can be moved.
    """
    own, files = "" if folder is None else f"{folder.resolve()}{os.sep}", grid.files

    def near(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: near(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [near(one) for one in value]
        return value.removeprefix(own) if isinstance(value, str) and value in files else value

    hashes = {near(path): digest for path, digest in files.items()}
    return "\n".join([HEADER, *_document({**near(grid.source), "files": hashes})]) + "\n"


def _document(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a TOML file: plain keys first, then a section for each table."""
    for key, value in tree.items():
        if not isinstance(value, Mapping) and key != "zip":
            yield f"{key} = {toml_value(value)}"
    sections = [(f"[{key}]", value) for key, value in tree.items() if isinstance(value, Mapping) and value]
    for header, table in [*sections, *(("[[zip]]", table) for table in tree.get("zip", ()))]:
        yield from ("", header, *(f"{_key(k)} = {toml_value(v)}" for k, v in table.items()))


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name, ensure_ascii=False)
