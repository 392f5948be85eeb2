"""Bounds of the norms, errors and defect of a path in compiled loops: `Expansion._bound` and its helpers."""

from __future__ import annotations

import math

from linflow.dynamics._tiled_products import noinline
from linflow.verified._frame import (
    COLUMNS,
    DEPTH,
    DISTANCE,
    ERROR,
    ERROR_A,
    ERROR_B,
    FIRST,
    HEADER,
    LEFT,
    LENGTH,
    LENGTH_A,
    LENGTH_B,
    NORM,
    NORM_A,
    NORM_B,
    OFF,
    OFF_ERROR,
    OTHERS,
    P_AT,
    Q_AT,
    REACH,
    RESIDUE,
    RIGHT,
    ROWS,
    S_AT,
    SCALE,
    SECOND,
    SLOPE,
    THIRD,
    frobenius,
    gamma,
    proved,
    row_of,
    spectral,
    tail_row,
)
from linflow.verified.rounding import TINY, UP, U
from linflow.verified.taylor import OF_ROUNDING

FARTHEST = 1e3
"""Upper limit on the scaled length of a step."""


@proved
def _sizes(bounds, row, p, A, a, rows, columns, known, work, one, two, three):
    """Write the norms of a series. The spectral norm of the first coefficient is sharp."""
    for k in range(p):
        size = frobenius(A, a + k * rows * columns, rows * columns)
        bounds[3 * row + LENGTH, k] = bounds[3 * row + NORM, k] = size
        bounds[3 * row + ERROR, k] = 0.0
    if known < 0:
        known = spectral(A, a, rows, columns, bounds[3 * row, 0], work, one, two, three)
    bounds[3 * row + NORM, 0] = known


@proved
def _product_errors(bounds, a, b, c, between, p):
    """Write the errors of the Cauchy product c of the series a and b."""
    noinline()
    a, b, c = 3 * a, 3 * b, 3 * c
    for k in range(p):
        own = carried = 0.0
        for i in range(k + 1):
            j = k - i
            own += bounds[a + LENGTH, i] * bounds[b + LENGTH, j]
            carried += bounds[a + ERROR, i] * (bounds[b + NORM, j] + bounds[b + ERROR, j])
            carried += bounds[a + NORM, i] * bounds[b + ERROR, j]
        bounds[c + ERROR, k] = (own * gamma(between * (k + 1) + 1) + carried) * UP + TINY


@proved
def _errors_of_objective(spec, data, bounds, p, numbers):
    """Write the errors of `G = c A (c P_L − V) B` from those of P_L."""
    n, m, c, L = spec[ROWS], spec[COLUMNS], data[SCALE], spec[DEPTH]
    last, slope = 3 * row_of(spec, 1, L), 3 * row_of(spec, 3, 0)
    a, b, da, db = data[NORM_A], data[NORM_B], data[ERROR_A], data[ERROR_B]
    left = gamma(n) * data[LENGTH_A] if spec[LEFT] else 0.0
    right = gamma(m) * data[LENGTH_B] if spec[RIGHT] else 0.0
    smoothness, own = a * b * UP, (da * b + a * db + da * db) * UP
    rounding = left * b + (a + left) * right
    for k in range(p):
        size = c * bounds[last + LENGTH, k] * (1 + 2 * U)
        error = c * (bounds[last + ERROR, k] + 2 * U * bounds[last + LENGTH, k])
        if k == 0:
            size = numbers[OFF]
            error += U * size
            numbers[OFF_ERROR] = error * UP + TINY
        error = (a * b * error + (rounding + own) * size) * UP + TINY
        error = c * (error + 2 * U * smoothness * size)
        if k == 0:
            error += c * data[RESIDUE]
        bounds[slope + ERROR, k] = error * UP + TINY


@proved
def norms_and_errors(spec, data, p, series, bounds, heads, numbers, work):
    """Write the norms and errors of every series."""
    noinline()
    L, n, m, D = spec[DEPTH], spec[ROWS], spec[COLUMNS], spec[DEPTH] + 3
    widths, layers, others = HEADER, HEADER + D, HEADER + OTHERS * D
    P, S, Q = HEADER + P_AT * D, HEADER + S_AT * D, HEADER + Q_AT * D
    one, two, three = spec[others + FIRST], spec[others + SECOND], spec[others + THIRD]
    for l in range(L):
        v, w = spec[widths + l], spec[widths + l + 1]
        _sizes(bounds, l, p + 1, series, (p + 1) * spec[layers + l], v, w, -1.0, work, one, two, three)
    for l in range(1, L + 1):
        w, row = spec[widths + l], row_of(spec, 1, l)
        known = bounds[NORM, 0] if l == 1 else -1.0
        _sizes(bounds, row, p, work, spec[P + l], n, w, known, work, one, two, three)
        if l > 1:
            _product_errors(bounds, row - 1, l - 1, row, spec[widths + l - 1], p)
    for l in range(L, 1, -1):
        w, row = spec[widths + l - 1], row_of(spec, 2, l)
        known = bounds[3 * (L - 1) + NORM, 0] if l == L else -1.0
        _sizes(bounds, row, p, work, spec[S + l], w, m, known, work, one, two, three)
        if l < L:
            _product_errors(bounds, l - 1, row + 1, row, spec[widths + l], p)
    numbers[OFF] = frobenius(heads, spec[others + DISTANCE], n * m)
    numbers[SLOPE] = math.sqrt(numbers[SLOPE]) * (1 + gamma(n * m + 4)) + TINY
    for l in range(L):
        row = row_of(spec, 3, l)
        _sizes(bounds, row, p, work, spec[Q + l], spec[widths + l], m, -1.0, work, one, two, three)
        if l == 0:
            _errors_of_objective(spec, data, bounds, p, numbers)
        else:
            _product_errors(bounds, l - 1, row - 1, row, spec[widths + l - 1], p)


@proved
def defect_below(spec, tau, p, bounds, rounding, numbers):
    """Write the rounding of the defect below degree p, and `‖θ‖`."""
    L, m = spec[DEPTH], spec[COLUMNS]
    for k in range(p):
        rounding[k] = 0.0
    for l in range(L):
        row = row_of(spec, 3, l)
        if l < L - 1:
            own = row_of(spec, 4, l)
            _product_errors(bounds, row, row_of(spec, 2, l + 2), own, m, p)
            row = own
        for k in range(p):
            part = tau * bounds[3 * row + ERROR, k] + 3 * U * (k + 1) * bounds[3 * l + LENGTH, k + 1]
            rounding[k] += part * part
    total = 0.0
    for l in range(L):
        total += bounds[3 * l + LENGTH, 0] ** 2
    numbers[REACH] = math.sqrt(total)
    for k in range(p):
        rounding[k] = math.sqrt(rounding[k]) * UP + TINY


@proved
def _convolved(tails, a, many_a, b, many_b, c):
    """Write `c = a ∗ b`, rounded up, for series of `many_a` and `many_b` coefficients; return the number in c."""
    noinline()
    many = many_a + many_b - 1
    x, y, out = tails[a], tails[b], tails[c]
    for k in range(many):
        out[k] = 0.0
    for i in range(many_a):
        factor = x[i]
        for j in range(many_b):
            out[i + j] += factor * y[j]
    for k in range(many):
        out[k] *= UP
    return many


@proved
def _at_most(tails, c, bounds, row, kind, p):
    """Lower the first entries of a series of bounds to the known bounds."""
    for k in range(p):
        known = (bounds[3 * row + kind, k] + bounds[3 * row + ERROR, k]) * UP
        tails[c, k] = min(tails[c, k], known)


@proved
def tail(spec, data, p, bounds, tails):
    """Write bounds of all coefficients of the products."""
    noinline()
    L, c = spec[DEPTH], data[SCALE]
    W = tail_row(spec, 3, 0)
    for l in range(L):
        for k in range(p + 1):
            tails[W + l, k] = bounds[3 * l + NORM, k]
    tails[0, 0] = tails[tail_row(spec, 1, L + 1), 0] = 1.0
    for k in range(p + 1):
        tails[1, k] = tails[W, k]
        if L > 1:
            tails[tail_row(spec, 1, L), k] = tails[W + L - 1, k]
    for l in range(2, L + 1):
        _convolved(tails, l - 1, (l - 1) * p + 1, W + l - 1, p + 1, l)
        _at_most(tails, l, bounds, row_of(spec, 1, l), NORM, p)
    for l in range(L - 1, 1, -1):
        to = tail_row(spec, 1, l)
        _convolved(tails, to + 1, (L - l) * p + 1, W + l - 1, p + 1, to)
        _at_most(tails, to, bounds, row_of(spec, 2, l), NORM, p)
    slope, row = tail_row(spec, 2, 0), row_of(spec, 3, 0)
    # From degree p on, E is c P_L alone. The Frobenius norm of P_L would be sharper, but not enough to matter.
    factor = c * c * (data[NORM_A] * data[NORM_B] * UP) * math.sqrt(min(spec[ROWS], spec[COLUMNS])) * UP
    for k in range(L * p + 1):
        tails[slope, k] = factor * tails[L, k]
    for k in range(p):
        tails[slope, k] = (bounds[3 * row + LENGTH, k] + bounds[3 * row + ERROR, k]) * UP
    for l in range(1, L):
        _convolved(tails, slope + l - 1, (L + l - 1) * p + 1, W + l - 1, p + 1, slope + l)
        _at_most(tails, slope + l, bounds, row + l, LENGTH, p)


@proved
def defect_beyond(spec, tau, p, tails):
    """Write bounds of the coefficients of the defect from degree p on."""
    L, slope = spec[DEPTH], tail_row(spec, 2, 0)
    scratch, defect = tail_row(spec, 3, L), tail_row(spec, 3, L + 1)
    many = (2 * L - 1) * p + 1
    for k in range(many):
        tails[defect, k] = 0.0
    for l in range(L):
        at, count = slope + l, (L + l) * p + 1
        if l < L - 1:
            suffix = tail_row(spec, 1, l + 2)
            count = _convolved(tails, slope + l, count, suffix, (L - l - 1) * p + 1, scratch)
            at = scratch
        for k in range(count):
            tails[defect, k] += tails[at, k] * tails[at, k]
    for k in range(many):
        tails[defect, k] = tau * math.sqrt(tails[defect, k]) * UP if k >= p else 0.0


@proved
def integral(series, many, s):
    """Return `Σ a_k s^{k+1}/(k+1)`, rounded up."""
    total = 0.0
    for k in range(many - 1, -1, -1):
        total = total * s + series[k] / (k + 1)
    return total * s * UP


@proved
def _within(defects, many, p, allowed):
    """Return the scaled time over which the truncation stays within an amount."""
    s = FARTHEST
    if many > p and defects[p] > 0:
        s = min(s, (allowed * (p + 1) / defects[p]) ** (1 / (p + 1)))
    for _ in range(200):
        if integral(defects, many, s) <= allowed:
            return s
        s *= 0.93
    return s


@proved
def longest(defects, many, p, size, truncation, rounding):
    """Return the scaled time over which the truncation stays below its share of `‖θ‖` or of the rounding."""
    s = _within(defects, many, p, truncation * size + TINY)
    allowed = OF_ROUNDING * integral(rounding, p, s)
    return max(s, _within(defects, many, p, allowed)) if allowed > 0 else s
