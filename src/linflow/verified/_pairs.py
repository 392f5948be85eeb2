"""Compiled loops over pairs of float64. Sums must not be reordered: each operation needs its exact remainder."""

from __future__ import annotations

from typing import Any

from numba import njit

exact: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath=False)
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
    for i in range(A.shape[1]):
        for j in range(B.shape[2]):
            h, l = 0.0, 0.0
            for r in range(k + 1):
                for q in range(A.shape[2]):
                    ph, pl = _multiply(A[r, i, q, 0], A[r, i, q, 1], B[k - r, q, j, 0], B[k - r, q, j, 1])
                    h, l = _add(h, l, ph, pl)
            out[i, j, 0], out[i, j, 1] = h, l


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
