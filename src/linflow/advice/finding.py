"""A finding about a start, and the format of its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One finding about a start, in a sentence or two.

    Attributes:
        kind: "rate", "hold", "spread", "narrow", "width", "rescale", "data", "rank", "plateau", "step", "design" or
            "published".
        text: the finding in words. Every number in it is computed from this experiment.
        numbers: the same numbers by name, for programs.
    """

    kind: str
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


def times(ratio: float) -> str:
    """Return a ratio as text with two digits, without an exponent: 230, not 2.3e+02."""
    return f"{float(f'{ratio:.2g}'):,g}"
