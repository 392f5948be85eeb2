"""Axes that several figures share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def label_values(ax: Any, values: Iterable[float]) -> None:
    """Put ticks and labels at these values of a logarithmic x axis, and no other labels."""
    values = list(values)
    ax.set_xticks(values, [f"{x:g}" for x in values])
    ax.tick_params(axis="x", which="minor", labelbottom=False)
