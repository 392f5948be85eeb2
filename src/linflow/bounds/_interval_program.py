"""The joint program of the operator interval: caps and value of a box, and branch and bound over the boxes.

The functions of a box are written once, for numbers and for arrays alike: each entry of `low`, `high` and `caps` is
the number of one box, in compiled code, or a row with one number for each of many boxes. Proofs and the names of the
inequalities: `docs/operator_intervals.md`, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ROWS = range(25)
A, B, LEAST, LEAST_2, SPREAD, SPREAD_2, REST, REST_2, MOST, CAP, MIRRORED_REST = ROWS[:11]
X_REST, X_LEAST, X_MOST, Y_REST, Y_LEAST, Y_MOST = ROWS[11:17]
TIE, TIE_2, MIRRORED_TIE, SHARE_OF_S, EDGE, MIRRORED_EDGE, FLOOR, MIRRORED_FLOOR = ROWS[17:]
"""Rows of the numbers of a column, each with one entry per hidden layer. In the notation of the documents: `a`, `b̂`;
`η⁻`, `ρ` and `γ` of the first and of the second interval; `η⁺`; `ζ⁻`; `γ^Y`; g, h, o of X; g, h, o of Y; κ of the
first and of the second interval and `κ^Y`; `s/ŝ`, or 0 if ŝ is unknown; the least η and the least ζ for all
`σ_n²` up to ŝ; and known floors of `λ_min(X_l)` and `λ_min(Y_l)`, or 0."""
LOOSE = 1e140
"""The largest `η_lV_l`. It stands for it where ŝ is unknown; then (V) and (U) say nothing."""
ROUNDING = 1e-12
"""Relative room for rounding: boxes are wider by it, and caps higher; the operations of a box round at a tenth."""
CANCELLED = 1e-13
"""Room for the rounding of a difference, relative to the sum of the sizes of its terms."""
SWEEPS, STEPS = 2, 12
"""Sweeps over the layers that carry a cap along, and steps of the search for θ."""


def pick(condition: Any, yes: Any, no: Any) -> Any:
    """Return `yes` where the condition holds, otherwise `no`."""
    return np.where(condition, yes, no)


def phi(d: Any, a: Any, b: Any) -> Any:
    """Return `Φ_d(a, b)`: the positive root x of `x²/a − dx = b`."""
    half = 0.5 * d * a
    root = np.sqrt(half * half + a * b)
    rising = half >= 0
    return pick(rising, half + root, a * b / pick(rising, 1.0, root - half))


def visited(step: int, D: int) -> int:
    """Return the layer that a step visits: from the first of D to the last, back to the first, and so on."""
    l = step % (2 * D)
    return l if l < D else 2 * D - 1 - l


def shrink(low: Any, high: Any, caps: Any, q: Any, s: Any) -> Any:
    """Lower `high`, fill `caps` with the largest ζ on the box `low ≤ η ≤ high`; return whether a point is left.

    NaN, of numbers that left float64, leaves the box.
    """
    D = len(low)
    for step in range(SWEEPS * 2 * D):
        l = visited(step, D)
        before = high[l - 1] if l > 0 else 1.0 + 0.0 * s
        after = high[l + 1] if l < D - 1 else s
        high[l] = np.minimum(high[l], phi(q[A, l], before, after) * (1 + ROUNDING))  # (C1)
    some = pick(high[0] < low[0], False, True)
    for l in range(D):
        some = some & pick(high[l] < low[l], False, True)
        high[l] = np.maximum(high[l], low[l])
    cap_by_prefixes(low, high, caps, q, s)
    spread_caps(low, caps, q, s)
    cap_by_suffixes(low, high, caps, q, s)
    for l in range(D):
        some = some & pick(caps[l] < least_zeta(high[l], q[SHARE_OF_S, l], q[MIRRORED_EDGE, l], s), False, True)
    return some


def cap_by_prefixes(low: Any, high: Any, caps: Any, q: Any, s: Any) -> None:
    """Fill `caps` by (B), (B1) and (V), with the `v_l` of each of the two intervals."""
    D = len(low)
    for i in range(2):
        size = 0.0 * s
        for l in range(D):
            before = high[l - 1] if l > 0 else 1.0 + 0.0 * s
            after = high[l + 1] if l < D - 1 else s
            eta = low[l] * (1 - ROUNDING)
            least = q[LEAST + i, l]
            above = np.maximum(eta - least, 0.0)
            width = q[MOST, l] - least
            share = np.maximum((q[MOST, l] - eta) / pick(width > 0, width, 1.0), 0.0)
            reach = least + above / (1 + q[SPREAD + i, l] * share)  # (B)
            top = np.minimum(np.maximum(0.5 * q[A, l] * before, eta), high[l])
            length = high[l] * size + q[TIE + i, l] * np.sqrt(slack(q[A, l], before, after, top))
            length = pick((l == 0) | (q[SHARE_OF_S, l] > 0), np.minimum(length, LOOSE), LOOSE)
            rest = above + ratio_of_squares(length, q[REST + i, l])
            reach = np.maximum(reach, least + above * above / pick(rest > 0, rest, 1.0))  # (B1), (V)
            size = size + q[TIE + i, l] * longest(q[A, l], before, after, eta, high[l])
            cap = s / reach * (1 + ROUNDING)
            caps[l] = cap if i == 0 else np.minimum(caps[l], cap)


def spread_caps(low: Any, caps: Any, q: Any, s: Any) -> None:
    """Lower the caps by (C2), from layer to layer, and by (B2)."""
    D = len(low)
    for step in range(SWEEPS * 2 * D):
        l = D - 1 - visited(step, D)
        before = caps[l - 1] if l > 0 else s
        after = caps[l + 1] if l < D - 1 else 1.0 + 0.0 * s
        caps[l] = np.minimum(caps[l], phi(-q[B, l], after, before) * (1 + ROUNDING))  # (C2)
        if l == D - 1:
            caps[l] = np.minimum(
                caps[l], last_cap(low[l] * (1 - ROUNDING), before, q[B, l], q[CAP, l], q[MIRRORED_REST, l], s)
            )


def cap_by_suffixes(low: Any, high: Any, caps: Any, q: Any, s: Any) -> None:
    """Lower the caps of all layers but the last by (U)."""
    D, size = len(low), 0.0 * s
    for step in range(D):
        l = D - 1 - step
        before = caps[l - 1] if l > 0 else s
        after = caps[l + 1] if l < D - 1 else 1.0 + 0.0 * s
        known = q[SHARE_OF_S, l] > 0
        zeta = np.minimum(least_zeta(high[l], q[SHARE_OF_S, l], q[MIRRORED_EDGE, l], s), caps[l])
        zeta = pick(known, zeta, caps[l])
        if l < D - 1:
            top = np.minimum(np.maximum(-0.5 * q[B, l] * after, zeta), caps[l])
            length = caps[l] * size + q[MIRRORED_TIE, l] * np.sqrt(slack(-q[B, l], after, before, top))
            some = known & (q[MIRRORED_REST, l] > 0)
            length = pick(some, np.minimum(length, LOOSE), LOOSE)
            p = np.maximum(s / (low[l] * (1 - ROUNDING)) - q[CAP, l], 0.0)
            root = np.sqrt(p) * np.sqrt(p + 4 * ratio_of_squares(length, pick(some, q[MIRRORED_REST, l], 1.0)))
            caps[l] = np.minimum(caps[l], (q[CAP, l] + 0.5 * (p + root)) * (1 + ROUNDING))
            zeta = np.minimum(zeta, caps[l])
        size = size + q[MIRRORED_TIE, l] * longest(-q[B, l], after, before, zeta, caps[l])


def slack(d: Any, a: Any, b: Any, x: Any) -> Any:
    """Return `[b + dx − x²/a]_+`, by how much (C1) or (C2) is not an equality, from above."""
    square = x * x / a
    return np.maximum((b + d * x) - square + CANCELLED * (b + abs(d) * x + square), 0.0)


def longest(d: Any, a: Any, b: Any, low: Any, high: Any) -> Any:
    """Return the square root of the largest `[b + dx − x²/a]_+/x²` for `low ≤ x ≤ high`: convex in `1/x`."""
    return np.maximum(np.sqrt(slack(d, a, b, low)) / low, np.sqrt(slack(d, a, b, high)) / high)


def ratio_of_squares(x: Any, rest: Any) -> Any:
    """Return `x²/rest`, at most `LOOSE²`."""
    return np.minimum(x / np.sqrt(rest), LOOSE) ** 2


def least_zeta(high: Any, share: Any, edge: Any, s: Any) -> Any:
    """Return a lower bound on ζ where `η ≤ high`: `s μ ≥ s/(ŝ ν)`."""
    return np.maximum(share * s / high, edge) * (1 - ROUNDING)


def last_cap(eta: Any, before: Any, b: Any, least: Any, rest: Any, s: Any) -> Any:
    """Return the largest ζ with `ζ² + bζ + γ(ζ − q)(ζ − ζ⁻)/(q − ζ⁻) ≤ before`, `q = s/η`: (B2), for `ζ = q + y`.

    A negative constant is taken as 0, which raises the cap.
    """
    q = s / eta
    apart = q - least
    known = apart > 1e-9 * q
    w = pick(known, rest / pick(known, apart, 1.0), 0.0)
    slope = 2 * q + b + pick(known, rest, 0.0)
    constant = np.maximum(before - q * q - b * q + CANCELLED * (before + q * q + abs(b) * q), 0.0)
    root = np.sqrt(slope * slope + 4 * (1 + w) * constant)
    rising = slope > 0
    y = pick(rising, 2 * constant / pick(rising, slope + root, 1.0), (root - slope) / (2 * (1 + w)))
    return (q + y) * (1 + ROUNDING)


def share(value: Any, least: Any, most: Any) -> Any:
    """Return `k = (μ − o)/(h − o)` within [0, 1]; 1, the weakest, if `h = o`."""
    apart = least > most
    return pick(apart, np.minimum(np.maximum((value - most) / pick(apart, least - most, 1.0), 0.0), 1.0), 1.0)


def first_entry(k: Any, rest: Any, least: Any, theta: Any) -> Any:
    """Return A of (D) for `c = 1 + θk(h − g)/(g − o)`."""
    return 1 / (rest + theta * k * (least - rest))


def last_entry(k: Any, rest: Any, least: Any, most: Any, theta: Any) -> Any:
    """Return B of (D) for the same c."""
    free, rise = rest - most, theta * (least - rest)
    whole = free + rise
    return 1 / (most + (least - most) * pick(whole > 0, (free + k * rise) / pick(whole > 0, whole, 1.0), 1.0))


def value(high: Any, caps: Any, q: Any, s: Any, thetas: Any) -> Any:
    """Return the lower bound on `λ_min(T)` on a box: the largest over the choices of θ, or the sum with floors."""
    D, best = len(high), 0.0 * s
    for choice in range(len(thetas)):
        th = thetas[choice]
        a, b = 1.0 + 0.0 * s, 1.0 + 0.0 * s
        rr, rn, nr, nn = 0.0 * s, 0.0 * s, 0.0 * s, 0.0 * s
        for l in range(D):
            k = share(high[l] / s, q[Y_LEAST, l], q[Y_MOST, l])
            c = first_entry(k, q[Y_REST, l], q[Y_LEAST, l], th[D + l])
            d = last_entry(k, q[Y_REST, l], q[Y_LEAST, l], q[Y_MOST, l], th[D + l])
            rr, rn, nr, nn = rr + a * c, rn + a * d, nr + b * c, nn + b * d
            k = share(caps[l] / s, q[X_LEAST, l], q[X_MOST, l])
            a = first_entry(k, q[X_REST, l], q[X_LEAST, l], th[l])
            b = last_entry(k, q[X_REST, l], q[X_LEAST, l], q[X_MOST, l], th[l])
        best = np.maximum(best, np.minimum(np.minimum(rr + a, rn + a), np.minimum(nr + b, nn + b)))
    before, total = 1.0 + 0.0 * s, 0.0 * s
    for l in range(D):
        k = share(high[l] / s, q[Y_LEAST, l], q[Y_MOST, l])
        total = total + before * np.maximum(first_entry(k, q[Y_REST, l], q[Y_LEAST, l], 1.0), q[MIRRORED_FLOOR, l])
        k = share(caps[l] / s, q[X_LEAST, l], q[X_MOST, l])
        before = np.maximum(first_entry(k, q[X_REST, l], q[X_LEAST, l], 1.0), q[FLOOR, l])
    return np.maximum(best, total + before)


def improved(high: Any, caps: Any, q: Any, s: float, thetas: Any) -> float:
    """Search for the θ with the largest value at one point, and store them; return the value.

    The value is the least of four sums, each linear in the pairs (A, B) of the X and in those of the Y, and B is a
    concave function of A. Frank and Wolfe's method climbs a soft minimum that hardens, in the X and the Y by turns.
    """
    D = len(high)
    k, a, b, tried = np.empty_like(thetas), np.empty_like(thetas), np.empty_like(thetas), np.ones_like(thetas)
    for l in range(D):
        k[l] = share(caps[l] / s, q[X_LEAST, l], q[X_MOST, l])
        k[D + l] = share(high[l] / s, q[Y_LEAST, l], q[Y_MOST, l])
        a[l], a[D + l] = (
            first_entry(k[l], q[X_REST, l], q[X_LEAST, l], 1.0),
            first_entry(k[D + l], q[Y_REST, l], q[Y_LEAST, l], 1.0),
        )
        b[l], b[D + l] = a[l], a[D + l]
    best = 0.0
    for step in range(STEPS):
        rr, rn, nr, nn = a[D], b[D], a[D], b[D]
        for l in range(1, D):
            rr, rn, nr, nn = (
                rr + a[l - 1] * a[D + l],
                rn + a[l - 1] * b[D + l],
                nr + b[l - 1] * a[D + l],
                nn + b[l - 1] * b[D + l],
            )
        rr, rn, nr, nn = rr + a[D - 1], rn + a[D - 1], nr + b[D - 1], nn + b[D - 1]
        least = min(rr, rn, nr, nn)
        if least > best:
            best = least
            for j in range(2 * D):
                thetas[j] = tried[j]
        hard = 3.0 * (1 + step) / least
        rr, rn, nr, nn = (
            np.exp(-hard * (rr - least)),
            np.exp(-hard * (rn - least)),
            np.exp(-hard * (nr - least)),
            np.exp(-hard * (nn - least)),
        )
        for l in range(D):
            j = l if step % 2 == 0 else D + l
            if step % 2 == 0:
                c, d = (a[j + D + 1], b[j + D + 1]) if l < D - 1 else (1.0, 1.0)
                first, last = rr * c + rn * d, nr * c + nn * d
                rest, low, most = q[X_REST, l], q[X_LEAST, l], q[X_MOST, l]
            else:
                c, d = (a[l - 1], b[l - 1]) if l > 0 else (1.0, 1.0)
                first, last = rr * c + nr * d, rn * c + nn * d
                rest, low, most = q[Y_REST, l], q[Y_LEAST, l], q[Y_MOST, l]
            rise = k[j] * (low - rest)
            if not rise > 0:
                continue
            target = peak(k[j], rest, low, most, first, last)
            a[j] = a[j] + (target - a[j]) * 2.0 / (3.0 + step // 2)
            tried[j] = max(1 / a[j] - rest, 0.0) / rise
            b[j] = last_entry(k[j], rest, low, most, tried[j])
    return best


def peak(k: float, rest: float, least: float, most: float, first: float, last: float) -> float:
    """Return the A that maximises `first·A + last·B(A)`, with `B(A) = (1 + pA)/(v + rA)`."""
    p = (rest - most) * k - rest
    v = most + (least - most) * k
    r = most * (p - (least - most) * k)
    end = 1 / rest
    if not first > 1e-100 * last:
        return 1e-6 * end
    falls = (r - p * v) * last / first
    if r == 0 or not falls > 0:
        return end if falls < v * v else 1e-6 * end
    return min(max((np.sqrt(falls) - v) / r, 1e-6 * end), end)


@dataclass(frozen=True)
class Programs:
    """What branch and bound calls: the two functions of many boxes, plain or compiled."""

    measure: Any
    improve: Any


def measure(
    low: np.ndarray, high: np.ndarray, caps: np.ndarray, at: np.ndarray, data: tuple, values: np.ndarray
) -> None:
    """Fill `values` with the value of each box, inf for an empty one; lower `high`, fill `caps`."""
    numbers, s, group, pool = data
    q, own, thetas = np.moveaxis(numbers[at], 0, -1), s[at], np.moveaxis(pool[group[at]], 0, -1)
    some = shrink(low, high, caps, q, own)
    values[:] = np.where(some, value(high, caps, q, own, thetas), np.inf)


PLAIN = Programs(measure, improved)
