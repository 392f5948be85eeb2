"""A finding on a start, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One finding on a start, in a sentence or two.

    Attributes:
        kind: "rate", "hold", "spread", "narrow", "width", "rescale", "data", "rank", "plateau", "step", "design" or
            "published".
        text: the sentence; every number in it is computed from this experiment.
        numbers: the same numbers for machines.
    """

    kind: str
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


def times(ratio: float) -> str:
    """Return a ratio with two digits, and 230 as such, not as 2.3e+02."""
    return f"{float(f'{ratio:.2g}'):,g}"
