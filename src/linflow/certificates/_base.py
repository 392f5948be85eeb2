"""The class `Guarantee`: a statement on the loss that is known before any run is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from linflow._support import checks
from linflow._support.arrays import SMALLEST_NORMAL
from linflow._support.deprecation import renamed_arguments
from linflow._support.fractions import FRACTIONS
from linflow.certificates.curves import Curve, StepCurve


def finite(x: float) -> float | None:
    """Return x, or None if it is not finite, because JSON cannot represent it."""
    return float(x) if math.isfinite(x) else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Guarantee:
    """An upper bound on the loss gap `L − f*` at every time of a run, by one theorem.

    Attributes:
        name: short name.
        source: the theorem it rests on.
        citation: keys of the references (`linflow cite`).
        reason: why it does not apply, in words; empty if it does.
        curve: the bound as a function of time, None if it does not apply.
        gap: the initial loss gap `L(0) − f*`.
        minimum: `f*`.
        facts: numbers behind it, such as the radius of the lazy regime or the cap on the drift.
        ceiling: what the gap never exceeds if the guarantee does not apply: inf for a descent, whose loss may rise;
            the initial gap if it is None.
    """

    name: str
    source: str
    citation: tuple[str, ...]
    reason: str
    curve: Curve | None
    gap: float
    minimum: float
    facts: dict[str, float] = field(default_factory=dict)
    ceiling: float | None = None

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references that it rests on."""
        return frozenset(self.citation)

    @property
    def applies(self) -> bool:
        """Whether its hypotheses hold for this objective and start, and it gives a bound."""
        return self.curve is not None

    @property
    def rate(self) -> float:
        """Exponential rate kept at every time; 0 if it does not apply, or the decay is slower than exponential."""
        return self.curve.rate if self.curve else 0.0

    @renamed_arguments(fraction="until")
    def time_to(self, until: Any) -> Any:
        """Return a time by which the loss gap is at most `until` times the initial gap; inf if none is known.

        Args:
            until: fraction in (0, 1), or a sequence of them.
        """
        return checks.each(self._time_to, until, "until")

    @renamed_arguments(fraction="until")
    def steps_to(self, until: Any) -> Any:
        """Return a number of steps after which the gap is at most `until` times the initial gap; inf if unknown.

        Args:
            until: fraction in (0, 1), or a sequence of them.

        Raises:
            TypeError: the guarantee is on the flow, which takes no steps.
        """
        return checks.each(self._steps_to, until, "until")

    def gap_at(self, t: Any) -> Any:
        """Return an upper bound on the loss gap at a time or times t (for descent, η times the number of steps)."""
        return checks.each(self._gap_at, t, "t")

    def gap_after(self, k: int) -> float:
        """Return an upper bound on the loss gap after k steps of a descent, if the bound is one by steps."""
        return self._within(self.curve.gap_after(k)) if isinstance(self.curve, StepCurve) else self._most

    def loss_at(self, t: Any) -> Any:
        """Return an upper bound on the loss at a time or times t."""
        return self.minimum + self.gap_at(t)

    def _time_to(self, until: Any) -> float:
        until = checks.fraction(until, "until")
        return float(self.curve.time(until * self.gap)) if self.curve else math.inf

    def _steps_to(self, until: Any) -> float:
        until = checks.fraction(until, "until")
        if self.curve is None:
            return math.inf
        if not isinstance(self.curve, StepCurve):
            raise TypeError(f"the guarantee {self.name!r} is for the flow, which takes no steps; use time_to.")
        return self.curve.steps(until * self.gap)

    def _gap_at(self, t: Any) -> float:
        t = checks.positive(t, "t", allow_zero=True)
        return self._within(self.curve.gap(t)) if self.curve else self._most

    def _within(self, bound: float) -> float:
        # A decay that underflows is still above 0.
        return min(self.gap, max(bound, SMALLEST_NORMAL))

    @property
    def _most(self) -> float:
        return self.gap if self.ceiling is None else self.ceiling

    def __repr__(self) -> str:
        if not self.applies:
            return f"Guarantee({self.name!r}, does not apply: {self.reason})"
        steps = isinstance(self.curve, StepCurve)
        arrival = f"{self.steps_to(1e-6):.4g} steps" if steps else f"time {self.time_to(1e-6):.4g}"
        return f"Guarantee({self.name!r}, rate={self.rate:.4g}, {arrival} to 1e-6; {self.source})"

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as plain data."""
        return {
            "name": self.name,
            "source": self.source,
            "citation": list(self.citation),
            "applies": self.applies,
            "reason": self.reason,
            "rate": finite(self.rate),
            "time_to": {f"{x:g}": finite(self.time_to(x)) for x in FRACTIONS},
            "facts": {name: finite(value) for name, value in self.facts.items()},
        }
