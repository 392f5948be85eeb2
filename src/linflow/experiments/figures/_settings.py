"""The settings of a figure: widths, seeds, sizes and starts, with the values of the paper as defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

S = TypeVar("S", bound="Settings")


def setting(default: Any, what: str, *, least: float | None = None, among: Iterable[str] = ()) -> Any:
    """Return a field of `Settings`.

    Args:
        default: The value of the paper: a number, a word, or a tuple of them (or of pairs such as `(100, 200)`).
        what: What the setting is, in a few words.
        least: Smallest number allowed. If not given, whole numbers are at least 1 and other numbers positive.
        among: The words allowed.
    """
    return field(default=default, metadata={"what": what, "least": least, "among": tuple(among)})


@dataclass(frozen=True)
class Settings:
    """The settings of a figure; each subclass adds its own with `setting`."""

    @classmethod
    def names(cls) -> list[str]:
        """The names of the settings."""
        return [one.name for one in fields(cls)]

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What each setting is, in a few words, and which words it allows."""
        found = {}
        for one in fields(cls):
            among = one.metadata["among"]
            found[one.name] = one.metadata["what"] + (f" (of {', '.join(among)})" if among else "")
        return found

    @classmethod
    def read(cls: type[S], given: Mapping[str, str]) -> S:
        """Return the settings with these texts in place of the defaults; commas separate a list, an x a pair.

        Raises:
            ValueError: If a value cannot be read, or is out of range.
        """
        known = {one.name: one for one in fields(cls)}
        return cls(**{name: _value(name, text, known[name]) for name, text in given.items()})

    def texts(self) -> dict[str, str]:
        """The values as they are written on the command line."""
        return {name: written(getattr(self, name)) for name in self.names()}

    def changes(self, *names: str) -> str:
        """Return which of these settings (by default, of all) differ from the paper: "" or "n = 10, not 20"."""
        mine, paper = self.texts(), type(self)().texts()
        return ", ".join(
            f"{name} = {mine[name]}, not {paper[name]}" for name in names or mine if mine[name] != paper[name]
        )


def require_width(h: int, values: Sequence[float]) -> None:
    """Raise ValueError if a hidden width is less than the number of singular values of the target."""
    if h < len(values):
        raise ValueError(f"h={h} is less than the {len(values)} values; a width of as many is needed.")


def written(value: Any) -> str:
    """Return a value as it is written on the command line.

    >>> written((30, 100)), written(((100, 200), (200, 300))), written(1e-8), written("ntk")
    ('30,100', '100x200,200x300', '1e-08', 'ntk')
    """
    if isinstance(value, tuple):
        return ",".join("x".join(map(written, one)) if isinstance(one, tuple) else written(one) for one in value)
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def assigned(kinds: Mapping[str, type[Settings]], given: Mapping[str, str]) -> dict[str, Settings]:
    """Return the settings of each figure; each text goes to every figure that has a setting of that name.

    Args:
        kinds: The class of the settings of each figure, by its name.
        given: The text of each value, by the name of its setting.

    Raises:
        ValueError: If no figure has a setting of a given name, or a value cannot be read.
    """
    known = dict.fromkeys(name for kind in kinds.values() for name in kind.names())
    for name in given:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            whose = ", ".join(kinds) if len(kinds) < 4 else f"any of these {len(kinds)} figures"
            raise ValueError(f"no setting {name!r} in {whose}.{hint} Settings: {', '.join(known) or 'none'}.")
    found = {}
    for figure, kind in kinds.items():
        mine = {name: text for name, text in given.items() if name in kind.names()}
        try:
            found[figure] = kind.read(mine)
        except ValueError as error:
            raise ValueError(f"{figure}: {error}") from None
    return found


def _value(name: str, text: str, known: Any) -> Any:
    like, about = known.default, known.metadata
    try:
        if isinstance(like, tuple):
            parts = [part.strip() for part in text.split(",")]
            value: Any = tuple(_item(part, like[0], about) for part in parts)
            return _distinct(value)
        return _item(text.strip(), like, about)
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}. It is {about['what']}, {written(like)} if not given.") from None


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value occurs twice")
    return values


def _item(text: str, like: Any, about: Mapping[str, Any]) -> Any:
    if isinstance(like, tuple):
        parts = text.split("x")
        if len(parts) != len(like):
            raise ValueError(
                f"{text!r} has {len(parts)} numbers, where {len(like)} are needed, as in {written((like,))}"
            )
        return tuple(_item(part, one, about) for part, one in zip(parts, like, strict=True))
    if isinstance(like, str):
        if about["among"] and text not in about["among"]:
            raise ValueError(f"{text!r} is none of {', '.join(about['among'])}")
        return text
    whole = isinstance(like, int)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a {'whole ' if whole else ''}number") from None
    least = about["least"] if about["least"] is not None else 1 if whole else 0.0
    if not math.isfinite(value) or value < least or (not whole and about["least"] is None and value == 0):
        need = (
            "a finite number" if not math.isfinite(least) else f"at least {least:g}" if whole or least else "positive"
        )
        raise ValueError(f"{text!r} is not {need}")
    return value
