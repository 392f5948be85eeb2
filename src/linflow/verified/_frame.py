"""The layout of the flat arrays of the compiled loops, and proved norms of the matrices in them.

`compiled.Layout` lays out `spec`, `data` and the arrays. A series in `work` holds its coefficients below the largest
degree, one after the other. `P_l = W_1 ⋯ W_l`, `S_l = W_l ⋯ W_L`, `T_l = S_lᵀ`, `Q_l = P_lᵀ G`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from linflow.dynamics._tiled_products import copy, dot, noinline, product, transpose
from linflow.verified.rounding import SQUARINGS, TINY, U

DEPTH, ROWS, COLUMNS, ORDER, LEFT, RIGHT, SIZE, HEADER = range(8)
"""Places in `spec`: L, n, m, largest degree, whether A and B are given, number of weights. Then blocks of L + 3:"""
WIDTHS, LAYERS, P_AT, S_AT, T_AT, Q_AT, P_HEAD, S_HEAD, Q_HEAD, OTHERS = range(10)
"""Blocks of `spec`: widths, places of the layers in y, of the series in `work`, and of their first coefficients in
`heads`. The last block holds the place of the distance in `heads` and the places of scratch matrices in `work`."""
DISTANCE, FIRST, SECOND, THIRD = range(4)
"""Entries of the block OTHERS: the place of `c P_L − V` in `heads`, and of three scratch matrices in `work`."""
SCALE, NORM_A, NORM_B, LENGTH_A, LENGTH_B, ERROR_A, ERROR_B, RESIDUE, TRUNCATION, MATRICES = range(10)
"""Places in `data`: first the numbers, then A, B and V."""
LENGTH, NORM, ERROR = range(3)
"""Rows of `bounds`, three per series: bounds of `‖·‖_F`, of `‖·‖₂` and of the error of the coefficients."""
OFF, OFF_ERROR, REACH, LONGEST_STEP, VALUE, SLOPE, NUMBERS = range(7)
"""Places in `numbers`: `‖cP_L − V‖_F`, the error of this matrix, `‖θ‖`, the longest step, `⟨E, AEB⟩`, `‖AEB‖_F`."""
# A function inherits the options that it leaves out from its caller, so False must be explicit.
proved = njit(nogil=True, error_model="numpy", fastmath=False)
"""Decorator for bounds: the compiler must not rearrange their arithmetic."""


@proved
def block(spec, which):
    """Return where a block of `spec` starts."""
    return HEADER + which * (spec[DEPTH] + 3)


@proved
def row_of(spec, kind, l):
    """Return the number of a series in `bounds`: W_l, P_l, S_l, Q_l (l from 0 for W and Q), or the gradient."""
    L = spec[DEPTH]
    if kind == 0:
        return l
    if kind == 1:
        return L + l
    if kind == 2:
        return 2 * L + 1 + l
    if kind == 3:
        return 3 * L + 3 + l
    return 4 * L + 3 + l


@proved
def tail_row(spec, kind, l):
    """Return the row of a series in `tails`: P_l, S_l, Q_l, the layers, scratch, or the defect."""
    L = spec[DEPTH]
    if kind == 0:
        return l
    if kind == 1:
        return L + l
    if kind == 2:
        return 2 * L + 2 + l
    return 3 * L + 2 + l


@proved
def gamma(count):
    """Return `γ_k`, rounded up."""
    return count * U / (1 - count * U) * (1 + 4 * U)


@proved
def frobenius(A, a, count):
    """Return an upper bound of `‖A‖_F` for a matrix of `count` entries."""
    return math.sqrt(dot(A, a, A, a, count)) * (1 + gamma(count + 4)) + TINY


@proved
def spectral(A, a, rows, columns, size, work, one, two, three):
    """Return an upper bound of `‖A‖₂` for a matrix with `‖A‖_F ≤ size`; see `rounding.spectral`."""
    noinline()
    if min(rows, columns) == 1 or not 10 * TINY < size < 1e150:
        return size
    side, count = min(rows, columns), max(rows, columns)
    # Each factor of the Gram matrix is rounded twice: in the inverse of the size, and in the product with it.
    copy(1.0 / size, A, a, work, one, rows * columns)
    transpose(1.0 / size, A, a, work, two, rows, columns)
    if rows <= columns:
        product(work, one, work, two, work, three, rows, columns, rows)
    else:
        product(work, two, work, one, work, three, columns, rows, columns)
    lengths = np.empty(SQUARINGS)
    for i in range(SQUARINGS):
        lengths[i] = frobenius(work, three, side * side)
        transpose(1.0, work, three, work, one, side, side)
        product(work, three, work, one, work, two, side, side, side)
        three, two = two, three
    bound = frobenius(work, three, side * side)
    for i in range(SQUARINGS - 1, -1, -1):
        bound = math.sqrt(bound + gamma(side) * lengths[i] * lengths[i]) * (1 + 4 * U)
    bound += gamma(count + 4)
    return min(size, math.sqrt(bound) * size * (1 + 8 * U) + TINY)
