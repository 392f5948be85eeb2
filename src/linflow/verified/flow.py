"""The loop of a verified flow: take steps until the target is proved or the proof ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from linflow._support.words import plural
from linflow.verified.march import PAST_FLOAT64, EnclosureStep

MARGIN = 0.99
"""The path goes on to this fraction of the target, so that the time of the target is bounded from both sides."""

LOOKS, SLOWER = 16, 1.5
"""The pace is looked at after each of 16 equal parts of the steps. Where 1.5 times the steps that the rest takes at
this pace are more than are left, the march hurries: the fast modes end first, so the pace falls."""

USELESS = 0.5
"""The proof ends when the bounds of the gap differ by more than this fraction of the upper bound."""


class Marching(Protocol):
    """What the loop needs of a march."""

    t: float
    radius: float
    exponent: float
    first: tuple[float, float]
    gap: tuple[float, float]
    trouble: str

    def advance(self, end: float) -> EnclosureStep | None: ...  # noqa: D102
    def hurry(self, factor: float) -> None: ...  # noqa: D102


def enclose_flow(
    march: Marching,
    until: float | None,
    end: float,
    max_steps: int,
    progress: Callable[[float], None] | None,
) -> tuple[str, str, tuple[EnclosureStep, ...]]:
    """Run a verified flow; return its result, the reason for an early end, and the steps."""
    steps: list[EnclosureStep] = []
    target = -math.inf if until is None else MARGIN * until * march.first[0]
    result = reason = ""
    pace = _Pace(march, end, target, max_steps)
    while not result:
        if march.gap[1] <= target:
            result = "target proved"
        elif not math.isfinite(march.first[1]):
            result, reason = "proof ended", PAST_FLOAT64
        elif until is not None and march.first[0] <= 0:
            result = "proof ended"
            reason = "the start is at the optimum to rounding, so its gap cannot be told from 0"
        elif march.t >= end:
            result = "time limit reached"
        elif len(steps) >= max_steps:
            result, reason = "step limit reached", f"{plural(max_steps, 'step', 'were')} taken; raise max_steps"
        elif steps and until is not None and march.gap[1] - march.gap[0] > USELESS * march.gap[1]:
            result = "proof ended"
            reason = (
                f"the radius, {march.radius:.2g}, is too large to bound the gap more tightly; a disturbance may have "
                f"grown by e^{march.exponent:.3g}"
            )
        else:
            step = march.advance(end)
            if step is None:
                result, reason = "proof ended", march.trouble
            else:
                steps.append(step)
                pace.look(len(steps))
                if progress is not None:
                    progress(_done(march, until, end))
    if reason:
        gap = march.gap[1] / march.first[0] if march.first[0] > 0 else 1.0
        reason = f"verified to t = {march.t:.6g}, gap {gap:.2g} of the initial one: {reason}"
    return result, reason, tuple(steps)


class _Pace:
    """Lets a march hurry where the steps would not suffice."""

    def __init__(self, march: Marching, end: float, target: float, max_steps: int):
        self.march, self.end, self.target, self.max_steps = march, end, target, max_steps
        self.part = max(1, max_steps // LOOKS)
        self.before = march.t, march.gap[1]

    def look(self, steps: int) -> None:
        """Look at the pace of the last part, at its end."""
        if steps % self.part == 0:
            now = self.march.t, self.march.gap[1]
            rest = SLOWER * self.part * self._parts_left(*self.before, *now)
            self.march.hurry(rest / max(1, self.max_steps - steps))
            self.before = now

    def _parts_left(self, t: float, gap: float, later: float, less: float) -> float:
        """Return how often the way of the last part, in time or in the logarithm of the gap, must be gone again."""
        by_time = (self.end - later) / (later - t) if later > t else math.inf
        if not 0 < less < gap or self.target <= 0:
            return by_time
        return min(by_time, math.log(less / self.target) / math.log(gap / less))


def _done(march: Marching, until: float | None, end: float) -> float:
    """Return the fraction done, by time or by the logarithm of the gap, whichever is larger."""
    by_time = march.t / end if math.isfinite(end) else 0.0
    if until is None or not 0 < march.gap[1] < march.first[1]:
        return min(by_time, 1.0)
    return min(1.0, max(by_time, math.log(march.gap[1] / march.first[1]) / math.log(until)))
