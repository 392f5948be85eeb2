"""Adaptive steps along the flow: the allowed error, and the length of the next step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np

from linflow._support.arrays import EPS, Array, norm
from linflow.dynamics import _dop853, _stabilized
from linflow.dynamics._stabilized import Stiffness
from linflow.dynamics.field import GradientField, Point

REVIEW = 64
"""Accepted steps between two reviews of the method."""
MOTION = 10.0
"""Largest error of a step relative to its motion, in units of rtol; 1 would lengthen every run by a tenth."""
LANDED = 1e-3
"""Distance from the target, in the logarithm of the gap and in units of rtol, within which a run has met it."""


class Event(IntEnum):
    """What happened during a march."""

    PAUSE = 0
    """Nothing special: the attempts are used up, or a step was rejected."""
    LOOK = 1
    """The last step may end the run or reach a stop."""
    CROSSED = 2
    """A step leads to or past the target; it was not taken."""
    UNDERFLOW = 3
    """Rejected steps have become so short that they would move nothing."""


class Step(NamedTuple):
    """An accepted step: the time and point it leads to, and the curvature of `log ℓ` there."""

    t: float
    point: Point
    curvature: float


class March(Protocol):
    """The state of an integration of the flow, and how it moves on.

    Attributes:
        start: the first point, at time 0.
        t: time reached.
        h: length of the next attempt.
        point: the current point.
        before: the gap one step earlier.
        reached: the end of the step tried last, of length `taken`; valid until the next is tried.
        may_rest: whether the last point accepted singly may be stationary or at rounding.
        accepted, rejected: numbers of steps.
    """

    start: Step
    h: float
    before: float
    reached: Point
    taken: float
    may_rest: bool
    accepted: int
    rejected: int

    @property
    def t(self) -> float: ...
    @property
    def point(self) -> Point: ...

    def advance(self, stop: float, target: float, attempts: int) -> tuple[Event, Iterable[Step]]:
        """Attempt at most `attempts` steps, up to the time `stop` and while the gap is above `target`."""
        ...

    def reach(self, h: float) -> Point:
        """Return where a step of length h leads, without taking it."""
        ...

    def accept(self, stop: float) -> Step:
        """Take the step tried last."""
        ...


class PlainMarch:
    """A march of one attempt at a time, on arrays of any kind and with any objective."""

    may_rest = True

    def __init__(self, field: GradientField, rtol: float):
        self.field, self.rtol = field, rtol
        self.t, self.taken = 0.0, 0.0
        self.point = self.reached = field.at(field.flatten(field.network.weights))
        self.start, self.before = self._step(), self.point.gap
        self.h = initial_step(self.point)
        self.stiffness, self._review = Stiffness(field), REVIEW
        self.accepted = self.rejected = 0
        self._held = False

    def advance(self, stop: float, target: float, attempts: int) -> tuple[Event, list[Step]]:
        """Attempt one step."""
        point = self.point
        if self.accepted >= self._review:
            self._review = self.accepted + REVIEW
            self.h = self.stiffness.review(point, self.h, lambda h: allowed_error(self.field, point, h, self.rtol))
        trial, radius = min(self.h, stop - self.t), self.stiffness.radius
        if radius > 0:  # at rest, steps would grow without end, and their stages with them
            trial = min(trial, _stabilized.longest_step(_stabilized.MOST_STAGES, radius))
        order = _stabilized.ORDER if radius > 0 else _dop853.ORDER
        new, ratio = attempt(self.field, point, trial, self.rtol, radius)
        if new is None:
            self.rejected, self._held = self.rejected + 1, True
            self.h = trial * shrink(ratio, order)
            if self.h * radius < _stabilized.NEGLIGIBLE:
                self.stiffness.radius = 0.0
            # Shortening a rejected step is pointless once it would leave the weights, or the time, unchanged.
            moves = self.h * point.speed > EPS * self.field.grain(point) and self.t + self.h > self.t
            return (Event.PAUSE if moves else Event.UNDERFLOW), []
        # If stability limits the steps, longer ones fail; do not try one right after a failure.
        grown = trial * (min(1.0, grow(ratio, order)) if self._held else grow(ratio, order))
        self._held = False
        # A step cut short by a stop says little about the next one: do not let it shrink h.
        self.h = max(self.h, grown) if trial < self.h else grown
        self.reached, self.taken = new, trial
        if new.gap <= target:
            return Event.CROSSED, []
        return Event.LOOK, [self.accept(stop)]

    def reach(self, h: float) -> Point:
        """Return where a step of length h leads, without taking it."""
        y, _ = _step(self.field, self.point, h, self.stiffness.radius)
        self.reached, self.taken = self.field.at(y), h
        return self.reached

    def accept(self, stop: float) -> Step:
        """Take the step tried last."""
        self.before, self.point = self.point.gap, self.reached
        self.t = stop if self.taken == stop - self.t else self.t + self.taken
        self.accepted += 1
        return self._step()

    def _step(self) -> Step:
        bend = self.field.curvature(self.point) if self.point.gap > 0 else 0.0
        return Step(self.t, self.point, bend)


def initial_step(point: Point) -> float:
    """Return a hundredth of the time in which weights or gap, whichever is sooner, would change completely."""
    if point.speed == 0.0:
        return 1.0
    size = norm(point.y)
    by_gap = math.sqrt(point.gap) / point.speed if point.gap > 0 else math.inf
    return 0.01 * min(size / point.speed if size else math.inf, by_gap * by_gap)


def _step(field: GradientField, point: Point, h: float, radius: float) -> tuple[Array, float]:
    """Return the end of a step and its error; with a spectral radius above 0, of the stabilised method."""
    if radius > 0:
        y, _, error = _stabilized.step(field, point.y, point.slope, h, _stabilized.stages_for(h, radius))
        return y, error
    return _dop853.step(field, point.y, point.slope, h)


def attempt(
    field: GradientField, point: Point, h: float, rtol: float, radius: float = 0.0
) -> tuple[Point | None, float]:
    """Take one step; return the new point (None if it is unusable) and its error over the tolerance."""
    y, error = _step(field, point, h, radius)
    ratio = error / allowed_error(field, point, h, rtol, radius)
    if not math.isfinite(ratio):
        return None, 1e16
    if ratio > 1:
        return None, ratio
    new = field.at(y)
    # The flow never raises the loss; a step that does, beyond rounding of the gap, was too long.
    if not new.finite:
        return None, 1e3
    rise = new.gap - point.gap
    if rise > 1e-10 * point.gap and rise > field.objective.rounding(field.network_at(y)):
        return None, 1e3
    return new, ratio


def allowed_error(field: GradientField, point: Point, h: float, rtol: float, radius: float = 0.0) -> float:
    """Return `rtol · min(‖y‖, ℓ/‖∇L‖)`, but at most a part of the motion, and at least rounding.

    The second term keeps the loss gap correct to rtol. Near a saddle, where the gap stalls, it would allow errors far
    above the motion itself, and each shifts the time at which the flow leaves. The part of the motion keeps their sum
    over such a wait to 10 rtol of it. The stabilised method serves in tails, where it is enough to tell a standstill
    from noise.
    """
    size, speed = norm(point.y), point.speed
    motion = (1e-2 if radius > 0 else MOTION * rtol) * h * speed
    allowed, most = min(rtol * size, rtol * point.gap / speed, motion), 4 * EPS
    if radius > 0:  # the stages of a long step round more
        allowed, most = _stabilized.STRICTER * allowed, max(1.0, h * radius) * most
    floor = most * field.grain(point) if allowed < most * size else 0.0
    return max(allowed, floor, 5e-324)


def shrink(ratio: float, order: int = _dop853.ORDER) -> float:
    """Return the factor on the step after a rejected one with this error over the tolerance."""
    return max(0.2, 0.9 * ratio ** (-1 / order))


def grow(ratio: float, order: int = _dop853.ORDER) -> float:
    """Return the factor on the step after an accepted one with this error over the tolerance."""
    return min(10.0, 0.9 * max(ratio, 1e-16) ** (-1 / order))


def shorten(march: March, target: float, rtol: float) -> bool:
    """Shorten the last step until the logarithm of the gap meets the target; the best try becomes `reached`.

    Each guess is where the inverse Hermite interpolant of the last few tries, whose slope is −rate, meets the target.
    Bisection keeps it in the bracket. Returns False if the start of the step is at the target, to rounding.
    """
    level = math.log(max(target, 5e-324))

    def tried(h: float, point: Point) -> tuple[float, float, float]:
        return h, math.log(max(point.gap, 5e-324)) - level, point.rate

    low, high = 0.0, march.taken
    tries = [tried(low, march.point), tried(high, march.reached)]
    if tries[0][1] <= 0:
        return False
    h, value, _ = best = tries[-1]
    last, narrow = math.inf, 4 * EPS * high
    while abs(value) > max(LANDED * rtol, 1e-12) and high - low > narrow:
        stalled = abs(value) > 0.5 * last
        if stalled and abs(best[1]) < 1e-9:  # the rest is rounding of the gap
            break
        low, high = (h, high) if value > 0 else (low, h)
        guess = math.nan if stalled else _inverse(tries[-3:])
        last = math.inf if stalled else abs(value)
        h = guess if low < guess < high else 0.5 * (low + high)
        tries.append(tried(h, march.reach(h)))
        value = tries[-1][1]
        best = min(best, tries[-1], key=lambda one: abs(one[1]))
    if best[0] != h:
        march.reach(best[0])
    return True


def _inverse(tries: list[tuple[float, float, float]]) -> float:
    """Return the length at which the excess is 0, from tries (length, excess, rate); nan if there is none."""
    if min(rate for _, _, rate in tries) <= 0 or len({excess for _, excess, _ in tries}) < len(tries):
        return math.nan
    x = [excess for _, excess, _ in tries for _ in range(2)]
    column = [length for length, _, _ in tries for _ in range(2)]
    at_zero, factor = column[0], 1.0
    for m in range(1, len(x)):  # divided differences; a few numbers, for which arrays are slow
        column = [
            (column[i + 1] - column[i]) / (x[i + m] - x[i]) if x[i + m] != x[i] else -1 / tries[i // 2][2]
            for i in range(len(x) - m)
        ]
        factor *= -x[m - 1]
        at_zero += factor * column[0]
    return at_zero


@np.errstate(over="ignore", invalid="ignore")
def advance(field: GradientField, y: Array, duration: float, rtol: float) -> Array:
    """Integrate from y for the given duration, without records."""
    point, done = field.at(y), 0.0
    h = duration
    while done < duration and point.speed > 0:
        h = min(h, duration - done)
        new, ratio = attempt(field, point, h, rtol)
        if new is None:
            h *= shrink(ratio)
            if h <= 4 * EPS * duration:
                break
            continue
        done = duration if h >= duration - done else done + h
        point = new
        h *= grow(ratio)
    return point.y
