"""Numbers in sentences: "1 cell", "2 cells", and parts of a whole that are never rounded up to it."""

from __future__ import annotations

import math
from collections.abc import Iterable


def plural(count: float, noun: str, verb: str = "") -> str:
    """Return how many there are: "1 cell", "1,000 cells"; and what they do, where a verb is given.

    Args:
        count: how many.
        noun: what they are, one of them.
        verb: as of several, such as "are" or "lie".

    Example:
        >>> plural(1, "cell"), plural(0, "cell"), plural(1, "run", "are"), plural(2, "law", "lie")
        ('1 cell', '0 cells', '1 run is', '2 laws lie')
    """
    text = f"{count} {noun}{'' if count == 1 else 's'}"
    return f"{text} {verb_for(count, verb)}" if verb else text


def verb_for(count: float, verb: str) -> str:
    """Return a verb as it stands after one, or after several: "is" or "are", "does" or "do".

    Example:
        >>> verb_for(1, "do"), verb_for(3, "do"), verb_for(1, "have")
        ('does', 'do', 'has')
    """
    if count != 1:
        return verb
    return {"are": "is", "were": "was", "have": "has", "do": "does", "apply": "applies"}.get(verb, verb + "s")


def percent(x: float, digits: int = 0) -> str:
    """Return a part of a whole as percent; what is not all is not called 100%, nor what is something 0%.

    Example:
        >>> percent(0.25), percent(0.9996), percent(0.9996, 1), percent(1.0), percent(1e-9), percent(0.0)
        ('25%', 'over 99%', 'over 99.9%', '100%', 'under 1%', '0%')
    """
    least = 10.0**-digits
    if not math.isfinite(x) or x in (0.0, 1.0):
        return f"{x:.0%}"
    if 0 < x < 1 and round(100 * x, digits) in (0.0, 100.0):
        return f"under {least:g}%" if x < 0.5 else f"over {100 - least:g}%"
    return f"{x:.{digits}%}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return names in quotes, the first few of many."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def position(index: list[int]) -> str:
    """Return a place in words, counted from 1: "row 2, column 3"."""
    words = ("row", "column") if len(index) <= 2 else ("index",) * len(index)
    return ", ".join(f"{word} {i + 1}" for word, i in zip(words, index, strict=False))
