"""Adaptive steps along the flow: which error is allowed, and how long the next step may be."""

from __future__ import annotations

import math

import numpy as np

from linflow._arrays import EPS, Array, norm
from linflow.dynamics import _dop853
from linflow.dynamics.field import GradientField, Point


def initial_step(point: Point) -> float:
    """A hundredth of the shorter of two times: in which the weights, and in which the gap, would change by all."""
    if point.speed == 0.0:
        return 1.0
    size = norm(point.y)
    by_gap = math.sqrt(point.gap) / point.speed if point.gap > 0 else math.inf
    return 0.01 * min(size / point.speed if size else math.inf, by_gap * by_gap)


def attempt(field: GradientField, point: Point, h: float, rtol: float) -> tuple[Point | None, float]:
    """Take one step; return the new point (None when it is unusable) and its error over the tolerance."""
    y, error = _dop853.step(field, point.y, point.slope, h)
    ratio = error / allowed_error(point, h, rtol)
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


def allowed_error(point: Point, h: float, rtol: float) -> float:
    """Return `rtol · min(‖y‖, ℓ/‖∇L‖)`, at most a hundredth of the motion and at least rounding.

    The second term keeps the loss gap right to rtol. Where the gap stalls, near a saddle, it allows errors far above
    the motion itself; held to a part of the motion, fast modes die out and a standstill can be told from noise.
    """
    size, speed = norm(point.y), point.speed
    allowed = min(rtol * size, rtol * point.gap / speed, 1e-2 * h * speed)
    return max(allowed, 4 * EPS * size, 5e-324)


def shrink(ratio: float) -> float:
    """Return the factor for the step after one rejected with this error over the tolerance."""
    return max(0.2, 0.9 * ratio ** (-1 / _dop853.ORDER))


def grow(ratio: float) -> float:
    """Return the factor for the step after one accepted with this error over the tolerance."""
    return min(10.0, 0.9 * max(ratio, 1e-16) ** (-1 / _dop853.ORDER))


@np.errstate(over="ignore", invalid="ignore")
def advance(field: GradientField, y: Array, duration: float, rtol: float) -> Array:
    """Integrate from y for a time, without records."""
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
