"""Old public names. Each still works until version 0.3, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def warn_renamed(old: str, new: str, level: int = 2) -> None:
    """Warn that a name has changed. The warning points to the line that used it, `level` calls above the caller."""
    warnings.warn(f"{old} is now {new}; the old name works until linflow 0.3.", DeprecationWarning, level + 1)


def renamed_arguments(**new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that lets a function accept its arguments by their old names as well.

    Each keyword is an old name, and its value is the new one.

    Raises:
        TypeError: an argument is given by both names.

    >>> import warnings
    >>> @renamed_arguments(fraction="until")
    ... def run(until): return until
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     run(fraction=0.1), str(caught[0].message)
    (0.1, 'run(fraction=…) is now run(until=…); the old name works until linflow 0.3.')
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new.keys() & kwargs:
                shown = name
                if args and hasattr(type(args[0]), function.__name__) and "." in name:  # a method, perhaps inherited
                    shown = f"{type(args[0]).__name__}.{function.__name__}"
                if new[old] in kwargs:
                    raise TypeError(f"{shown} is given {new[old]} and {old}, its old name; leave out {old}.")
                warn_renamed(f"{shown}({old}=…)", f"{shown}({new[old]}=…)")
                kwargs[new[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return taking

    return decorate


def renamed_attributes(**new: str) -> Callable[[C], C]:
    """Return a decorator that gives a dataclass its attributes under their old names as well.

    Old pickles of the class can still be loaded. Each keyword is an old name, and its value is the new one.
    """

    def decorate(cls: C) -> C:
        for old, name in new.items():
            setattr(cls, old, _OldAttribute(cls.__name__, old, name))

        def restore(self: Any, state: dict[str, Any]) -> None:
            self.__dict__.update({new.get(key, key): value for key, value in state.items()})

        changed: Any = cls
        changed.__init__ = renamed_arguments(**new)(changed.__init__)
        changed.__setstate__ = restore
        return cls

    return decorate


class _OldAttribute:
    def __init__(self, owner: str, old: str, new: str):
        self.owner, self.old, self.new = owner, old, new

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        warn_renamed(f"{self.owner}.{self.old}", f"{self.owner}.{self.new}")
        return getattr(instance, self.new)
