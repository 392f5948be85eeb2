"""A root in a bracket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linflow._arrays import EPS


def root_between(function: Callable[[float], float], a: float, b: float) -> float:
    """Return where `function` changes sign between a and b, to rounding."""
    from scipy.optimize import brentq  # noqa: PLC0415 - scipy.optimize is slow to import

    found: Any = brentq(function, a, b, xtol=4 * EPS * abs(b - a), rtol=8 * EPS)  # pyright: ignore[reportArgumentType]
    return float(found)
