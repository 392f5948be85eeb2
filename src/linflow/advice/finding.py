"""A thing to know of a start, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One thing to know, in a sentence or two.

    Attributes:
        kind: "rate", "hold", "spread", "narrow", "width", "rescale", "data", "rank", "plateau", "step", "design" or
            "published".
        text: with every number computed from this experiment.
        numbers: the same numbers for machines.
    """

    kind: str
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


def times(ratio: float) -> str:
    """Return two digits of a ratio, those of 230 without a power of ten."""
    return f"{float(f'{ratio:.2g}'):,g}"
