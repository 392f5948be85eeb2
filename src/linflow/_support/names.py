"""Errors for names that a module does not have: they suggest a near name, or say where the name is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def missing(module: str, names: Iterable[str], known: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that raises AttributeError with a suggestion.

    Args:
        module: the full name of the module.
        names: the names that it has.
        known: advice on names that are used elsewhere, by name in lower case.

    Example:
        >>> import linflow as lf
        >>> lf.init.gausian
        Traceback (most recent call last):
        AttributeError: linflow.init has no 'gausian'. Did you mean gaussian?
    """
    names = sorted(names)

    def getattribute(name: str) -> Any:
        if name.startswith("_"):  # Python itself often asks for these
            raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
        raise AttributeError(f"{module} has no {name!r}.{suggestion(name, names, known)}", name=name)

    return getattribute


def suggestion(name: str, names: Iterable[str], known: Mapping[str, str] | None = None) -> str:
    """Return a sentence on what may be meant, with a space before it."""
    names = list(names)
    said = next((text for key, text in (known or {}).items() if key in name.lower()), None)
    if said is not None:
        return f" {said}"
    plain = {each.lower().replace("_", ""): each for each in names}
    close = difflib.get_close_matches(name.lower().replace("_", ""), plain, 1)
    return f" Did you mean {plain[close[0]]}?" if close else f" There are {', '.join(names)}."
