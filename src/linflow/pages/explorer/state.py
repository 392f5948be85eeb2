"""What the page sends: numbers, each checked against its limits. Nothing of it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Given:
    """The state of a view, as it was sent."""

    values: Mapping[str, Any]

    def number(self, name: str, low: float, high: float) -> float:
        """Return a number within its limits.

        Raises:
            ValueError: it is missing, no number, or outside the limits.
        """
        return _number(self.values.get(name), name, low, high)

    def numbers(self, name: str, low: float, high: float, count: tuple[int, int]) -> list[float]:
        """Return a list of numbers within their limits; `count` limits its length.

        Raises:
            ValueError: it is missing, no list, too short, too long, or holds another value.
        """
        found = self.values.get(name)
        if not isinstance(found, list) or not count[0] <= len(found) <= count[1]:
            raise ValueError(f"{name} must be a list of {count[0]} to {count[1]} numbers.")
        return [_number(x, name, low, high) for x in found]

    def signs(self, name: str, count: int) -> list[float]:
        """Return a list of numbers that are 1 or −1.

        Raises:
            ValueError: another number of them, or another value.
        """
        found = self.numbers(name, -1, 1, (count, count))
        if any(abs(x) != 1 for x in found):
            raise ValueError(f"{name} must be 1 or −1 each.")
        return found

    def choice(self, name: str, among: Collection[str]) -> str:
        """Return one of some words.

        Raises:
            ValueError: it is another value.
        """
        found = self.values.get(name)
        if not isinstance(found, str) or found not in among:
            raise ValueError(f"{name} must be one of {', '.join(among)}.")
        return found

    def count(self, name: str, low: int, high: int) -> int:
        """Return a whole number within its limits.

        Raises:
            ValueError: it is not one.
        """
        found = self.number(name, low, high)
        if found != int(found):
            raise ValueError(f"{name} is {found:g}; a whole number from {low} to {high} is needed.")
        return int(found)


def _number(x: Any, name: str, low: float, high: float) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) or not low <= x <= high:
        shown = f"{x:g}" if isinstance(x, (int, float)) else type(x).__name__
        raise ValueError(f"{name} is {shown}; a number from {low:g} to {high:g} is needed.")
    return float(x)
