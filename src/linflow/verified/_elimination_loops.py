"""`HessianChain.lacking` in compiled loops: small layers take longer to hand to LAPACK than to eliminate.

The form in V and X of a layer has the blocks R, Y and Z. With `R = FᵀF` and `Y = FᵀT`, `Z − TᵀT` is left of it. Only
the upper halves of R and Z are read. Proofs: docs/verified.md, sections 4 and 5.
"""

from __future__ import annotations

import math

import numpy as np

from linflow.dynamics._tiled_products import (
    ROWS,
    add,
    copy,
    jit,
    lessen,
    noinline,
    product,
    transpose,
    turned_product,
)
from linflow.verified._frame import frobenius, gamma, proved
from linflow.verified.rounding import TINY, UP, U

OF_W, OF_P, OF_N = range(3)
"""Columns of `lengths`, which has one row per layer: bounds of the Frobenius norms of W, P and N."""


@proved
def _lowered(Pi, side, lost):
    """Lower the diagonal so much that the result is at most `Π − lost I`; see `elimination._lowered`."""
    most = 0.0
    for i in range(side):
        most = max(most, abs(Pi[i * side + i]))
    lost = (lost + 2 * U * (lost + most)) * UP + TINY
    for i in range(side):
        Pi[i * side + i] -= lost


@proved
def _length(parts, at, side, given):
    """Return an upper bound of the Frobenius norm of A or B, which is the identity if it is not given."""
    return frobenius(parts, at, side * side) if given else math.sqrt(side) * (1 + gamma(side * side + 4)) + TINY


@proved
def _end(sides, parts, n, m, Pi):
    """Write a matrix that is at most that of the form `factor ⟨A X B, X⟩`."""
    A, B, side = 1, 1 + sides[0] * n * n, n * m
    for a in range(n):
        for b in range(n):
            left = parts[A + a * n + b] if sides[0] else 1.0 * (a == b)
            for k in range(m):
                for l in range(m):
                    right = parts[B + k * m + l] if sides[1] else 1.0 * (k == l)
                    Pi[(a * m + k) * side + b * m + l] = parts[0] * (left * right)
    lengths = _length(parts, A, n, sides[0]) * _length(parts, B, m, sides[1])
    _lowered(Pi, side, gamma(4) * parts[0] * lengths)


@proved
def _askew(A, side):
    """Return an upper bound of `‖A − Aᵀ‖_F`."""
    total = 0.0
    for i in range(side):
        for j in range(i):
            total += 2 * (A[i * side + j] - A[j * side + i]) ** 2
    return math.sqrt(total) * (1 + gamma(side * side + 4)) + TINY


@jit
def _blocks(parts, at, n, h, w, Pi, R, Y, Z, one, two):
    """Write R, Y and Z from `Π(X W + P V)` and `2⟨X V, N⟩`."""
    noinline()
    layer, state, side = h * w, n * h, n * w
    turned, P, N = at + layer, at + 2 * layer, at + 2 * layer + state
    turned_product(parts, P, Pi, 0, one, 0, h, n, w * side)
    for i in range(layer):
        turned_product(parts, P, one, i * side, R, i * layer, h, n, w)
    product(one, 0, parts, turned, Y, 0, layer * n, w, h)
    for i in range(h):
        for k in range(w):
            for b in range(n):
                Y[(i * w + k) * state + b * h + i] += parts[N + b * w + k]
    product(Pi, 0, parts, turned, two, 0, side * n, w, h)
    for a in range(n):
        product(parts, at, two, a * w * state, Z, a * h * state, h, w, state)


@proved
def _shifted(R, side, shift):
    """Add the shift to the diagonal and return the trace."""
    trace = 0.0
    for i in range(side):
        R[i * side + i] += shift
        trace += R[i * side + i]
    return trace


@jit
def _divided(F, T, side, across, first, rows):
    """Turn `rows` rows from `first` on into those of F and T, where the rows above are subtracted already."""
    noinline()
    for i in range(first, first + rows):
        here, there, pivot = i * side + i, i * across, F[i * side + i]
        if not 0.0 < pivot < math.inf:
            return False
        F[here] = math.sqrt(pivot)
        factor = 1.0 / F[here]
        copy(factor, F, here + 1, F, here + 1, side - i - 1)
        copy(factor, T, there, T, there, across)
        for j in range(1, first + rows - i):
            factor = -F[here + j]
            add(factor, F, here + j, F, here + j * side + j, side - i - j)
            add(factor, T, there, T, there + j * across, across)
    return True


@jit
def _factorised(R, Y, F, T, side, across):
    """Write F and T, with `across` columns, and return whether all pivots are positive and finite."""
    noinline()
    rows, i = min(ROWS, side), 0
    while i < side:
        i = min(i, side - rows)  # the last rows may overlap those above, which are computed again
        lessen(F, i, side, F, i, side, R, F, i * side + i, rows, i, side - i)
        if across:
            lessen(F, i, side, T, 0, across, Y, T, i * across, rows, i, across)
        if not _divided(F, T, side, across, i, rows):
            return False
        i += rows
    return True


@jit
def _left(Z, T, layer, state, Pi, turned):
    """Write `Π = Z − TᵀT`, symmetric to the last bit."""
    noinline()
    rows, i = min(ROWS, state), 0
    while i < state:
        i = min(i, state - rows)
        lessen(T, i, state, T, i, state, Z, Pi, i * state + i, rows, layer, state - i)
        i += rows
    transpose(1.0, Pi, 0, turned, 0, state, state)
    for i in range(1, state):
        copy(1.0, turned, i * state, Pi, i * state, i)


@proved
def _paid(n, h, w, size, askew, shift, trace, width, lengths):
    """Return what V and X pay for rounding; see docs/verified.md, section 5. Any ratio above 0 would do."""
    layer = h * w
    height = trace / (1 - gamma(layer + 1))
    each = (3 * gamma(2 * max(n, w) + 2) + gamma(6)) * size + 2 * askew
    ratio, added = max(math.sqrt(height) / width, TINY), gamma(6) * math.sqrt(h) * lengths[OF_N]
    lost = each * lengths[OF_P] * lengths[OF_P] + gamma(6) * math.sqrt(layer) * shift + added * ratio
    left = each * lengths[OF_W] * lengths[OF_W] + added / ratio + 2 * gamma(layer + 2) * width * width
    return lost + 2 * gamma(layer + 2) * height, left


def eliminating(source):
    """Return the program `lacking`."""

    def lacking(widths, sides, parts, lengths, shift):
        """Return a bound of what a Hessian lacks of being at least `−shift`; −1 if the elimination fails."""
        L, n, worst = len(widths) - 1, widths[0], 0.0 * source
        layer = side = 0
        for j in range(L):
            layer, side = max(layer, widths[j] * widths[j + 1]), max(side, n * widths[j + 1])
        R, F = np.empty(max(layer, side) ** 2), np.empty(max(layer, side) ** 2)
        Y, T, one = np.empty(layer * side), np.empty(layer * side), np.empty(layer * side)
        Pi, Z, two = np.empty(side * side), np.empty(side * side), np.empty(side * side)
        _end(sides, parts, n, widths[L], Pi)
        side = n * widths[L]
        askew, at = _askew(Pi, side), len(parts)
        for j in range(L - 1, 0, -1):
            h, w = widths[j], widths[j + 1]
            layer, state = h * w, n * h
            at -= 2 * layer + state + side
            size = frobenius(Pi, 0, side * side)
            if not size < math.inf:
                return -1.0
            _blocks(parts, at, n, h, w, Pi, R, Y, Z, one, two)
            trace = _shifted(R, layer, shift)
            if not _factorised(R, Y, F, T, layer, state):
                return -1.0
            width = frobenius(T, 0, layer * state)
            if not width < math.inf:
                return -1.0
            lost, left = _paid(n, h, w, size, askew, shift, trace, width, lengths[j])
            _left(Z, T, layer, state, Pi, two)
            _lowered(Pi, state, left)
            worst, side, askew = max(worst, lost), state, TINY  # as `_askew` says of a symmetric matrix
        size, trace = frobenius(Pi, 0, side * side), _shifted(Pi, side, shift)
        if not _factorised(Pi, Y, F, T, side, 0):
            return -1.0
        lost = askew + U * (size + shift * side) + gamma(side + 1) * trace / (1 - gamma(side + 1))
        return max(worst, lost) * UP + TINY

    return lacking
