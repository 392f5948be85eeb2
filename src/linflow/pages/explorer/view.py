"""What every view of the explorer is: from a state to the numbers of its drawing, the lines of Python, and a figure.

Each view is a function of the state alone. It names the start as the lines of Python do, so both agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TARGET = 1e-6
"""The fraction of the initial loss gap that all times and steps refer to."""

POINTS = 80
"""Points of a curve over time."""


@dataclass(frozen=True)
class View:
    """What a view shows.

    Attributes:
        curves: lists of points by name.
        numbers: the numbers to read, by name. None where there is none.
        words: one sentence about what is seen.
        code: lines of Python that compute the same.
        draw: makes the figure, as matplotlib Axes.
    """

    curves: dict[str, list]
    numbers: dict[str, float | None]
    words: str
    code: str
    draw: Callable[[], Any] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """Return everything but the figure, for JSON."""
        numbers = {name: x if x is not None and math.isfinite(x) else None for name, x in self.numbers.items()}
        return {"curves": self.curves, "numbers": numbers, "words": self.words, "code": self.code}


def points(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """Return the finite points of a curve, for JSON."""
    return [[float(a), float(b)] for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
