"""Compiled loops over pairs of float64. Sums must not be reordered: each operation needs its exact remainder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

exact: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath=False)
LANES = 8
"""Columns that are computed together."""
SPLIT = 134217729.0
"""`2²⁷ + 1`, which splits a float64 into two halves (Dekker, Veltkamp)."""


@exact
def _sum(a, b):
    """`a + b` and its remainder (Knuth)."""
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


@exact
def _quick(a, b):
    """`a + b` and its remainder for `|a| ≥ |b|` (Dekker)."""
    s = a + b
    return s, b - (s - a)


@exact
def _product(a, b):
    """`a·b` and its remainder (Dekker)."""
    p = a * b
    t = SPLIT * a
    ah = t - (t - a)
    al = a - ah
    t = SPLIT * b
    bh = t - (t - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


@exact
def _add(xh, xl, yh, yl):
    """Sum of two pairs, relative error below `3u² + 13u³`."""
    sh, sl = _sum(xh, yh)
    th, tl = _sum(xl, yl)
    vh, vl = _quick(sh, sl + th)
    return _quick(vh, tl + vl)


@exact
def _multiply(xh, xl, yh, yl):
    """Product of two pairs, relative error below `7u²`."""
    ch, cl = _product(xh, yh)
    return _quick(ch, cl + (xh * yl + xl * yh))


@exact
def cauchy(A, B, k, out):
    """`out = Σ_{i≤k} A_i B_{k−i}`."""
    rows, inner, columns = A.shape[1], A.shape[2], B.shape[2]
    # Columns are contiguous and independent of each other, so the processor takes several of them at once. Columns of
    # zeros fill the last group.
    padded = (columns + LANES - 1) // LANES * LANES
    Bh, Bl = np.zeros((k + 1, inner, padded)), np.zeros((k + 1, inner, padded))
    for r in range(k + 1):
        for q in range(inner):
            for j in range(columns):
                Bh[r, q, j], Bl[r, q, j] = B[k - r, q, j, 0], B[k - r, q, j, 1]
    high, low = np.empty(padded), np.empty(padded)
    for i in range(rows):
        high[:] = 0.0
        low[:] = 0.0
        for r in range(k + 1):
            for q in range(inner):
                ah, al = A[r, i, q, 0], A[r, i, q, 1]
                for j in range(padded):
                    ph, pl = _multiply(ah, al, Bh[r, q, j], Bl[r, q, j])
                    high[j], low[j] = _add(high[j], low[j], ph, pl)
        for j in range(columns):
            out[i, j, 0], out[i, j, 1] = high[j], low[j]


@exact
def times(A, factor, out):
    """`out = A · factor`."""
    for i in range(A.shape[0]):
        out[i, 0], out[i, 1] = _multiply(A[i, 0], A[i, 1], factor, 0.0)


@exact
def over(A, divisor, out):
    """`out = A / divisor`: a quotient and one correction, relative error below `3.5u²`."""
    for i in range(A.shape[0]):
        q = A[i, 0] / divisor
        ph, pl = _product(q, divisor)
        out[i, 0], out[i, 1] = _quick(q, ((A[i, 0] - ph) - pl + A[i, 1]) / divisor)


@exact
def plus(A, B, out):
    """`out = A + B`."""
    for i in range(A.shape[0]):
        out[i, 0], out[i, 1] = _add(A[i, 0], A[i, 1], B[i, 0], B[i, 1])
