"""The compiled integration: the scheme and the rules of `_stepping`, over many steps without a return to Python."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba import types

from linflow._support import programs as _programs
from linflow._support.arrays import EPS
from linflow.dynamics import _kernels as kernels
from linflow.dynamics import _stabilized, _stepping
from linflow.dynamics import _tiled_products as tiles
from linflow.dynamics._kernels import RTOL, SIZE, curvature, evaluate, grain, may_rest, norm, rounding
from linflow.dynamics._stabilized import DAMPING, NEGLIGIBLE, STRICTER
from linflow.dynamics._stepping import MOTION
from linflow.dynamics._tiled_products import U, add, combine, copy, jit, noinline

LONGEST = _stabilized.longest_step(_stabilized.MOST_STAGES, 1.0)
"""The longest step of the stabilised method, times the spectral radius."""
T, H, STOP, TARGET, GAP, SPEED, BEFORE, HELD, RADIUS = range(9)
"""Places in `numbers`, the state of the integration. `HELD` is 1 after a rejected step; the next may then not grow.
`RADIUS` is the spectral radius for steps of the stabilised method; if it is 0, steps are of order 8."""
TAKEN, NEW_GAP, NEW_SPEED, NEW_CURVATURE, NUMBERS = range(9, 14)
"""Further places in `numbers`, for a step not yet accepted."""
ATTEMPTS, ACCEPTED, REJECTED, EVALUATIONS, MAY_REST, SOURCE, COUNTS = range(7)
"""Places in `counts`; `ATTEMPTS` holds the number allowed."""
PAUSE, LOOK, CROSSED, UNDERFLOW = range(4)
"""Events: none, a step whose end needs checking, a step past the target, steps too short to matter."""
STAGES = 12


@jit
def _error_sizes(K, size, third, fifth, places, unit):
    """Return the norms of the two error estimates, divided by the given unit; both read the same eight stages."""
    noinline()
    k0, k1, k2, k3 = U(places[0] * size), U(places[1] * size), U(places[2] * size), U(places[3] * size)
    k4, k5, k6, k7 = U(places[4] * size), U(places[5] * size), U(places[6] * size), U(places[7] * size)
    a0, a1, a2, a3 = third[0] / unit, third[1] / unit, third[2] / unit, third[3] / unit
    a4, a5, a6, a7 = third[4] / unit, third[5] / unit, third[6] / unit, third[7] / unit
    b0, b1, b2, b3 = fifth[0] / unit, fifth[1] / unit, fifth[2] / unit, fifth[3] / unit
    b4, b5, b6, b7 = fifth[4] / unit, fifth[5] / unit, fifth[6] / unit, fifth[7] / unit
    low = high = 0.0
    for d in range(U(size)):
        x0, x1, x2, x3 = K[k0 + d], K[k1 + d], K[k2 + d], K[k3 + d]
        x4, x5, x6, x7 = K[k4 + d], K[k5 + d], K[k6 + d], K[k7 + d]
        e = a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3 + a4 * x4 + a5 * x5 + a6 * x6 + a7 * x7
        f = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4 + b5 * x5 + b6 * x6 + b7 * x7
        low += e * e
        high += f * f
    return math.sqrt(low), math.sqrt(high)


@jit
def _step(spec, data, weights, places, y, K, work, new, h, speed):
    """Take one step of length h from y, whose slope is the first stage; return the estimate of its error."""
    noinline()
    size = spec[SIZE]
    for s in range(1, STAGES):
        combine(y, K, size, weights[s], places[s, 1:], places[s, 0], h, new)
        evaluate(spec, data, new, work, K, s * size)
    combine(y, K, size, weights[STAGES], places[STAGES, 1:], places[STAGES, 0], h, new)
    # Squares of slopes far from 1 leave the range of float64.
    unit = 1.0 if 1e-100 < speed < 1e100 else min(max(speed, 1e-300), 1e300)
    third, fifth = _error_sizes(K, size, weights[STAGES + 1], weights[STAGES + 2], places[STAGES, 1:], unit)
    return 0.0 if fifth == 0.0 else h * unit * fifth * (fifth / math.hypot(fifth, 0.1 * third))


@jit
def _stabilized_step(spec, data, y, K, work, new, h, radius):
    """Take one step of the stabilised method (`_stabilized`) from y; return the number of evaluations."""
    noinline()
    size = spec[SIZE]
    s = max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * h * radius)))
    w0 = 1 + DAMPING / s**2
    T0, T1, d0, d1, e0, e1 = 1.0, w0, 0.0, 1.0, 0.0, 0.0
    for _ in range(2, s + 1):
        T0, T1, d0, d1, e0, e1 = (T1, 2 * w0 * T1 - T0, d1, 2 * T1 + 2 * w0 * d1 - d0, e1, 4 * d1 + 2 * w0 * e1 - e0)
    w1 = d1 / e1
    # b of the stages 0, 1 and 2 is that of 2: T_2'' = 4, T_2' = 4 w0.
    b0 = b1 = 1 / (4 * w0 * w0)
    T0, T1, d0, d1, e0, e1 = 1.0, w0, 0.0, 1.0, 0.0, 0.0
    before, slope = 1, 2  # places in K of the previous stage and of the slope of the last one
    copy(1.0, y, 0, K, before * size, size)
    copy(1.0, y, 0, new, 0, size)
    add(b1 * w1 * h, K, 0, new, 0, size)
    for _ in range(2, s + 1):
        T0, T1, d0, d1, e0, e1, a = (
            T1,
            2 * w0 * T1 - T0,
            d1,
            2 * T1 + 2 * w0 * d1 - d0,
            e1,
            4 * d1 + 2 * w0 * e1 - e0,
            1 - b1 * T1,
        )
        b = e1 / (d1 * d1)
        mu, nu, mu_h = 2 * b * w0 / b1, -b / b0, 2 * b * w1 / b1 * h
        evaluate(spec, data, new, work, K, slope * size)
        low, at = before * size, slope * size
        for i in range(size):
            last = new[i]
            new[i] = (1 - mu - nu) * y[i] + mu * last + nu * K[low + i] + mu_h * (K[at + i] - a * K[i])
            K[low + i] = last
        b0, b1 = b1, b
    return s - 1


@jit
def _difference(y, K, size, new, h):
    """Return the estimate of the error of a stabilised step, from the slopes at both of its ends."""
    noinline()
    total, end = 0.0, STAGES * size
    for i in range(size):
        e = 0.8 * (y[i] - new[i]) + 0.4 * h * (K[i] + K[end + i])
        total += e * e
    return math.sqrt(total)


@jit
def _curved(spec, data, y, slope, work, gap, speed):
    """Return the curvature of `log ℓ` where the gap was evaluated last; 0 if the gap is 0."""
    if not gap > 0:
        return 0.0
    root = speed / math.sqrt(gap)
    return curvature(spec, data, y, slope, work, gap, root * root)


@jit
def _attempt(spec, data, weights, places, y, K, work, new, numbers, counts, length, h):
    """Try a step from y, whose norm is `length`; return whether it is usable, and its error over the tolerance."""
    size, rtol, gap, speed, radius = spec[SIZE], data[RTOL], numbers[GAP], numbers[SPEED], numbers[RADIUS]
    motion = (1e-2 if radius > 0 else MOTION * rtol) * h * speed
    allowed, most = min(rtol * length, rtol * gap / speed, motion), 4 * EPS
    if radius > 0:
        allowed, most = STRICTER * allowed, max(1.0, h * radius) * most
    if allowed < most * length:
        allowed = max(allowed, most * grain(spec, y, K, speed))
    allowed = max(allowed, 5e-324)
    new_gap, ratio = math.inf, 0.0
    if radius > 0:
        counts[EVALUATIONS] += _stabilized_step(spec, data, y, K, work, new, h, radius) + 1
        new_gap = evaluate(spec, data, new, work, K, STAGES * size)
        ratio = _difference(y, K, size, new, h) / allowed
    else:
        ratio = _step(spec, data, weights, places, y, K, work, new, h, speed) / allowed
        counts[EVALUATIONS] += STAGES - 1
    if not math.isfinite(ratio):
        return False, 1e16
    if ratio > 1:
        return False, ratio
    if not radius > 0:
        new_gap = evaluate(spec, data, new, work, K, STAGES * size)
        counts[EVALUATIONS] += 1
    new_speed = norm(K, STAGES * size, (STAGES + 1) * size)
    usable = math.isfinite(new_gap) and math.isfinite(new_speed)
    if usable and new_gap - gap > 1e-10 * gap:
        usable = new_gap - gap <= rounding(spec, data, new, work, new_gap)[0]
    numbers[TAKEN], numbers[NEW_GAP], numbers[NEW_SPEED] = h, new_gap, new_speed
    return usable, ratio if usable else 1e3


def _advancing(source: int) -> Callable[..., int]:
    def advance(spec, data, weights, places, y, K, work, new, numbers, counts, steps, kept):
        size, target, stop, length = spec[SIZE], numbers[TARGET], numbers[STOP], norm(y, 0, spec[SIZE])
        power = -1 / 3 if numbers[RADIUS] > 0 else -1 / 8
        counts[ACCEPTED] = counts[REJECTED] = counts[EVALUATIONS] = 0
        counts[SOURCE] = source
        while counts[ACCEPTED] < len(steps) and counts[ACCEPTED] + counts[REJECTED] < counts[ATTEMPTS]:
            t, h, gap, speed = numbers[T], numbers[H], numbers[GAP], numbers[SPEED]
            trial = min(h, stop - t)
            if numbers[RADIUS] > 0:  # at rest, steps would grow without end, and their stages with them
                trial = min(trial, LONGEST / numbers[RADIUS])
            usable, ratio = _attempt(spec, data, weights, places, y, K, work, new, numbers, counts, length, trial)
            if not usable:
                counts[REJECTED] += 1
                numbers[HELD] = 1.0
                h = numbers[H] = trial * max(0.2, 0.9 * ratio**power)
                if h * numbers[RADIUS] < NEGLIGIBLE:
                    numbers[RADIUS], power = 0.0, -1 / 8
                if not (h * speed > EPS * grain(spec, y, K, speed) and t + h > t):
                    return UNDERFLOW
                continue
            grown = trial * min(1.0 if numbers[HELD] else 10.0, 0.9 * max(ratio, 1e-16) ** power)
            numbers[HELD] = 0.0
            numbers[H] = max(h, grown) if trial < h else grown
            if numbers[NEW_GAP] <= target:
                return CROSSED
            copy(1.0, new, 0, y, 0, size)
            copy(1.0, K, STAGES * size, K, 0, size)
            before, gap, speed, length = gap, numbers[NEW_GAP], numbers[NEW_SPEED], norm(y, 0, size)
            t = stop if trial == stop - t else t + trial
            numbers[T], numbers[GAP], numbers[SPEED], numbers[BEFORE] = t, gap, speed, before
            i = counts[ACCEPTED]
            steps[i, 0], steps[i, 1], steps[i, 2] = t, gap, speed
            steps[i, 3] = _curved(spec, data, y, K, work, gap, speed)
            kept[i] = y
            counts[ACCEPTED] += 1
            stalled = gap > 0.99 * before or speed == 0.0
            if gap <= 0 or t >= stop or (stalled and may_rest(spec, data, y, K, work, gap)):
                return LOOK
        return PAUSE

    return advance


def _reaching(source: int) -> Callable[..., None]:
    def reach(spec, data, weights, places, y, K, work, new, numbers, counts, h):
        size = spec[SIZE]
        counts[EVALUATIONS], counts[SOURCE] = 1, source
        if h > 0 and numbers[RADIUS] > 0:
            counts[EVALUATIONS] += _stabilized_step(spec, data, y, K, work, new, h, numbers[RADIUS])
        elif h > 0:
            _step(spec, data, weights, places, y, K, work, new, h, numbers[SPEED])
            counts[EVALUATIONS] += STAGES - 1
        else:
            copy(1.0, y, 0, new, 0, size)
        gap = evaluate(spec, data, new, work, K, STAGES * size)
        slope = K[STAGES * size :]
        speed = norm(slope, 0, size)
        numbers[TAKEN], numbers[NEW_GAP], numbers[NEW_SPEED] = h, gap, speed
        numbers[NEW_CURVATURE] = _curved(spec, data, new, slope, work, gap, speed)
        counts[MAY_REST] = may_rest(spec, data, new, slope, work, gap)

    return reach


def build() -> list[_programs.Program]:
    """Return `advance` and `reach`, and the types of their arguments."""
    kinds: Any = types
    ints, places = (kinds.Array(kinds.int64, d, "C") for d in (1, 2))
    floats, rows = (kinds.Array(kinds.float64, d, "C") for d in (1, 2))
    state = (ints, floats, rows, places, *(5 * [floats]), ints)
    source = _programs.fingerprint(sys.modules[__name__], kernels, tiles, _stabilized, _stepping)
    advance, reach = _programs.kept(_advancing(source)), _programs.kept(_reaching(source))
    return [(advance, (*state, rows, rows)), (reach, (*state, kinds.float64))]


@lru_cache(maxsize=1)
def programs() -> tuple[Callable[..., int], Callable[..., None]]:
    """Return `advance` and `reach`, which are kept on disk once compiled.

    `advance(…) → event` takes steps until an event, or until `steps` (rows t, gap, speed, curvature) and `kept` (rows
    of weights) are full. `reach(…, h)` writes into `new` the weights a step of length h leads to, without taking it.
    """
    advance, reach = _programs.loaded(build)
    return advance, reach
