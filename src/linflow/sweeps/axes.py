"""The axes of a grid: names of settings, and the values that they take."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from linflow._support import checks
from linflow._support.deprecation import warn_renamed
from linflow._support.words import kind_of
from linflow.experiments.old_keys import OLD_KEYS
from linflow.experiments.schema import Experiment

SHAPE = ("width", "depth")
"""Keys of a grid that stand for `start.hidden`: the width of its layers, and the number of layers of weights."""
SECTIONS = ("algorithm", "data", "start", "flow", "descent")
"""Sections of an experiment file that determine the numbers. What a sweep draws and writes is set elsewhere."""
OTHER = ("flow.record",)
"""Settings in these sections that only determine what is kept."""
WHOLE = (*SHAPE, "start.seed", "flow.max_steps", "descent.steps")
SPECS = ("range", "log", "linear")
DEEPEST = 10_000
"""The most layers that a network can have."""
MOST = 2_000_000
"""The most cells that a grid can have. A sweep needs about 300 bytes for each."""


@dataclass(frozen=True)
class Axis:
    """Settings that change together. Each of `keys` has a column of values, and all columns have the same length."""

    keys: tuple[str, ...]
    columns: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    def at(self, i: int) -> dict[str, Any]:
        """Return the settings at index `i` of the axis."""
        return {key: column[i] for key, column in zip(self.keys, self.columns, strict=True)}


@lru_cache(maxsize=1)
def setting_names() -> tuple[str, ...]:
    """Return the dotted names of all settings of an experiment file, such as `start.init`."""
    return tuple(name for name in _all_names(SECTIONS) if name not in OTHER)


def _all_names(sections: Iterable[str]) -> list[str]:
    names = []
    for name in sections:
        inner = getattr(Experiment.model_fields[name].annotation, "model_fields", None)
        names += [name] if inner is None else [f"{name}.{key}" for key in inner]
    return names


@lru_cache(maxsize=1)
def untouched() -> dict[str, Any]:
    """Return all settings of a default experiment by dotted name, including those that no sweep has."""
    return flat(Experiment().to_dict())


@lru_cache(maxsize=1)
def defaults() -> dict[str, Any]:
    """Return the default settings of an experiment, except those that are None."""
    given = untouched()
    return {key: given[key] for key in setting_names() if given.get(key) is not None}


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return `{"start.init": …}` for `{"start": {"init": …}}`. Axes of a grid and empty tables stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"{key!r} is not a key; the name of a setting is needed, such as width.")  # noqa: TRY004
        section = isinstance(value, Mapping) and value and key not in SHAPE and not any(s in value for s in SPECS)
        inner = flat(value, f"{above}{key}.") if section else {above + key: value}
        if twice := found.keys() & inner.keys():
            raise ValueError(f"{min(twice)} is given twice; leave one out.")
        found |= inner
    return found


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"start": {"init": …}}` for `{"start.init": …}`."""
    tree: dict[str, Any] = {}
    for dotted, value in settings.items():
        *sections, key = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return tree


def setting_name(key: str, where: str) -> str:
    """Return the dotted name of a key. The key may be only the last part of the name.

    Raises:
        ValueError: an unknown key (the nearest one is named), or one that a sweep does not have.
    """
    known = setting_names()
    if key in known or key in SHAPE:
        return key
    if key == "seeds":
        return "start.seed"
    short = {name.rpartition(".")[2]: name for name in known}
    for old, new in OLD_KEYS.items():
        if key in (old, old.rpartition(".")[2]):
            warn_renamed(key, new, 3)
            return new
    if key in short:
        return short[key]
    if key in Experiment.model_fields and key in SECTIONS:
        raise ValueError(f"{where}: {key} is a section; a table of its settings is needed, such as [{key}].")
    if key in _all_names(Experiment.model_fields):
        raise ValueError(f"{where}: {key} does not apply to a sweep, which keeps what [sweep] says; leave it out.")
    every = [*known, *SHAPE, "seeds"]
    close = difflib.get_close_matches(key, every, 1) or difflib.get_close_matches(
        key.rpartition(".")[2], [*short, *every], 1
    )
    hint = f"did you mean {short.get(close[0], close[0])}?" if close else f"there are {', '.join(every)}."
    raise ValueError(f"{where}: {key} is an unknown key; {hint}")


def values_of(key: str, spec: Any, where: str) -> Sequence[Any]:
    """Return the values that a grid gives a key: a list, a range, or a number of seeds."""
    name = setting_name(key, where)
    if key == "seeds" and isinstance(spec, int) and not isinstance(spec, bool):
        return range(few(whole_number(spec, f"{where}: seeds"), f"{where}: seeds is {spec}"))
    if isinstance(spec, Mapping):
        kind, numbers = next(iter(spec.items()), ("", ()))
        good = isinstance(numbers, Sequence) and len(numbers) == 3 and all(_number(x) for x in numbers)
        if len(spec) != 1 or kind not in SPECS or not good:
            raise ValueError(
                f"{where}: {key} is {dict(spec)!r}; one of {{range = [first, last, step]}}, "
                "{log = [first, last, count]} and {linear = [first, last, count]} is needed."
            )
        values = list(_spread(f"{where}: {key}", kind, *numbers))
        if name in WHOLE:
            values = list(dict.fromkeys(round(v) for v in values))
    elif isinstance(spec, Sequence) and not isinstance(spec, str):
        values = [[v] if name == "start.hidden" and not isinstance(v, Sequence) else v for v in spec]
        if name in (*WHOLE, "start.hidden"):  # 1e5 steps become 100000
            values = [_whole(v) for v in values]
    else:
        raise ValueError(  # noqa: TRY004 - a wrong type in a file is a wrong value
            f"{where}: {key} is {' '.join(repr(spec).split()):.80}; a list of values is needed, or a range. "
            "Put a fixed value into its own section, such as [start]."
        )
    if not values:
        raise ValueError(f"{where}: {key} has no values; at least one is needed.")
    if name in SHAPE:
        values = [whole_number(v, f"{where}: {key}") for v in values]
        if name == "depth" and (most := max(map(int, values))) > DEEPEST:
            raise ValueError(f"{where}: depth is {most}; a network can have at most {DEEPEST} layers.")
    return values


def whole_number(x: Any, name: str, least: int = 1) -> int:
    """Check a whole number from a file. A wrong type raises ValueError, because in a file it is a wrong value."""
    try:
        return checks.count(x, name, least)
    except TypeError as error:
        raise ValueError(str(error)) from None


def few(count: int, what: str) -> int:
    """Refuse more values or cells than a sweep can keep."""
    if count > MOST:
        raise ValueError(f"{what}; a sweep can have at most {MOST:,} cells. Split the grid.")
    return count


def invalid(name: str, values: Sequence[Any]) -> list[int]:
    """Return the indices of the values that a setting cannot have."""
    section, _, key = name.rpartition(".")
    model = Experiment.model_fields[section].annotation if section else Experiment
    annotation: Any = cast("type[BaseModel]", model).model_fields[key].rebuild_annotation()
    try:
        TypeAdapter(cast("Any", list)[annotation]).validate_python(list(values))
    except ValidationError as error:
        return sorted({int(one["loc"][0]) for one in error.errors(include_url=False, include_input=False)})
    return []


def plain(value: Any) -> Any:
    """Return a value in which arrays and numbers of NumPy and similar libraries are Python lists and numbers."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if any(one is None or isinstance(one, Mapping) for one in value):
            raise ValueError("a list contains None or a table; leave it out.")
        return [plain(one) for one in value]
    if value is not None and not isinstance(value, (bool, int, float, str, os.PathLike)):
        raise ValueError(f"{value!r} is {kind_of(value)}; numbers, words and lists of them are needed.")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(x: Any) -> bool:
    try:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
    except OverflowError:  # a whole number too large for a float
        return False


def _spread(what: str, kind: str, first: float, last: float, third: float) -> Iterator[float]:
    """Yield the numbers of a range (both ends included), or a count of numbers in equal steps or ratios."""
    if kind == "range":
        a, b, step = (Decimal(repr(x)) for x in (first, last, third))  # decimal steps: 0.1, 0.2, 0.3
        if step == 0 or (b - a) / step < 0:
            raise ValueError(f"{what}: a range from {first} to {last} cannot be divided into steps of {third}.")
        integers = all(isinstance(x, int) for x in (first, last, third))
        count = int((b - a) / step) + 1
        few(count, f"{what} has too many values")
        yield from (int(a + i * step) if integers else float(a + i * step) for i in range(count))
        return
    count = whole_number(third, f"{what}: the count")
    few(count, f"{what} has {count} values")
    if kind == "log" and not (first > 0 and last > 0):
        raise ValueError(f"{what}: {first} to {last} has no logarithms; positive numbers are needed.")
    for i in range(count):
        if i in (0, count - 1):  # the ends are exact
            yield float(first if i == 0 else last)
        else:
            s = i / (count - 1)
            yield _along(float(first), float(last), s) if kind == "linear" else _between(first, last, s)


def _along(first: float, last: float, s: float) -> float:
    span = last - first
    return first + s * span if math.isfinite(span) else (1 - s) * first + s * last


def _between(first: float, last: float, s: float) -> float:
    ratio = last / first
    if 0 < ratio < math.inf:
        return float(first * ratio**s)
    return math.exp((1 - s) * math.log(first) + s * math.log(last))
