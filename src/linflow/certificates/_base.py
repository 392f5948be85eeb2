"""What a guarantee is: a statement on the loss that holds before any run is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from linflow import _checks


@dataclass(frozen=True)
class Guarantee:
    """`L(t) − f* ≤ e^{−rate·t} (L(0) − f*)` for the flow, by one theorem.

    Attributes:
        name: short name.
        source: the theorem it rests on.
        applies: whether its hypotheses hold for this objective and start, with a positive rate.
        reason: why not, in words; empty when it applies.
        rate: the guaranteed exponential rate, 0 when it does not apply.
        gap: the initial loss gap `L(0) − f*`.
        minimum: `f*`.
    """

    name: str
    source: str
    applies: bool
    reason: str
    rate: float
    gap: float
    minimum: float

    def time_to(self, fraction: float) -> float:
        """Return a time by which the loss gap is at most `fraction` of the initial one; inf if none is known."""
        fraction = _checks.fraction(fraction, "fraction")
        return math.log(1 / fraction) / self.rate if self.rate > 0 else math.inf

    def gap_at(self, t: float) -> float:
        """Return an upper bound on the loss gap at time t."""
        return self.gap * math.exp(-self.rate * _checks.positive(t, "t", allow_zero=True))

    def loss_at(self, t: float) -> float:
        """Return an upper bound on the loss at time t."""
        return self.minimum + self.gap_at(t)
