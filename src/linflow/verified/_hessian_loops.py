"""`hessian` in compiled loops: the lower half of `∇²L` at the start of a step, and its error."""

from __future__ import annotations

import math

import numpy as np

from linflow.dynamics._tiled_products import copy, noinline, product, transpose, turned_product
from linflow.verified._frame import (
    COLUMNS,
    DEPTH,
    ERROR,
    ERROR_A,
    ERROR_B,
    HEADER,
    LAYERS,
    LEFT,
    LENGTH,
    LENGTH_A,
    LENGTH_B,
    MATRICES,
    NORM,
    NORM_A,
    NORM_B,
    OTHERS,
    P_HEAD,
    RIGHT,
    ROWS,
    S_HEAD,
    SCALE,
    SIZE,
    block,
    frobenius,
    proved,
    row_of,
)
from linflow.verified._tube_loops import (
    multiplied,
    multiplied_by,
)
from linflow.verified.rounding import TINY, UP, U


@proved
def _sandwich(spec, data, heads, bounds, room, triples, at, left):
    """Write all `A P_l` for l < L if `left`, or all `S_{l+2} B`, one after the other from `at`, and their triples."""
    noinline()
    L, n, m = spec[DEPTH], spec[ROWS], spec[COLUMNS]
    P, S = block(spec, P_HEAD), block(spec, S_HEAD)
    given = spec[LEFT] if left else spec[RIGHT]
    matrix = MATRICES if left else MATRICES + spec[LEFT] * n * n
    length, norm, wrong = (
        (data[LENGTH_A], data[NORM_A] + data[ERROR_A], data[ERROR_A])
        if left
        else (data[LENGTH_B], data[NORM_B] + data[ERROR_B], data[ERROR_B])
    )
    side = n if left else m
    for l in range(L):
        w = spec[HEADER + l] if left else spec[HEADER + l + 1]
        mine = triples[l]
        outer = l == 0 if left else l == L - 1
        if outer:  # A or B itself, or the identity
            for k in range(side * side):
                room[at + k] = 0.0
            for k in range(side):
                room[at + k * side + k] = 1.0
            mine[LENGTH], mine[NORM], mine[ERROR] = math.sqrt(side) * UP, 1.0, 0.0
            if given:
                copy(1.0, data, matrix, room, at, side * side)
                mine[LENGTH], mine[NORM], mine[ERROR] = length, norm, wrong
        else:
            row = row_of(spec, 1, l) if left else row_of(spec, 2, l + 2)
            head = spec[P + l] if left else spec[S + l + 2]
            mine[LENGTH], mine[NORM] = bounds[3 * row + LENGTH, 0], bounds[3 * row + NORM, 0]
            mine[ERROR] = bounds[3 * row + ERROR, 0]
            if not given:
                copy(1.0, heads, head, room, at, side * w)
            else:
                if left:
                    product(data, matrix, heads, head, room, at, n, n, w)
                else:
                    product(heads, head, data, matrix, room, at, w, m, m)
                multiplied_by(mine, length, norm, wrong, side, frobenius(room, at, side * w))
        at += side * w
    return at


@proved
def _filled(H, at, N, total, room, a, b, pairs, X, M, sides, apart):
    """Write a block of the Hessian: `total a ⊗ b`, plus `X ⊗ M` off the diagonal, where M is I for neighbours."""
    v, w, x, y = sides
    for g in range(x):
        for d in range(y):
            to, right = at + (g * y + d) * N, b + d * w
            for e in range(v):
                factor = total * room[a + e * x + g]
                for f in range(w):
                    H[to + e * w + f] = factor * room[right + f]
                if apart == 1:
                    H[to + e * w + g] += pairs[X + e * y + d]
                elif apart > 1:
                    factor, back = pairs[X + e * y + d], M + g * w
                    for f in range(w):
                        H[to + e * w + f] += factor * room[back + f]


@proved
def _error_of_block(a, b, X, M, total, apart, side):
    """Return a bound of the error of a block of the Hessian from the triples of its factors."""
    size = a[LENGTH] * b[LENGTH]
    error = a[ERROR] * (b[LENGTH] + b[ERROR]) + a[LENGTH] * b[ERROR] + 5 * U * size
    size, error = total * size, total * error
    if apart > 0:
        extra, wrong = math.sqrt(side) * UP, 0.0
        if apart > 1:
            extra, wrong = M[LENGTH], M[ERROR]
        error += X[ERROR] * (extra + wrong) + X[LENGTH] * wrong + 4 * U * X[LENGTH] * extra
        size += X[LENGTH] * extra
    return error + 2 * U * size


def assembling(source):
    """Return the program `hessian`."""

    def hessian(spec, data, kept, heads, bounds, pairs, triples, H, room):
        """Write the lower half of `∇²L` at the start of the step and return a bound of its error; see `hessian`."""
        L, n, m, N, c = spec[DEPTH], spec[ROWS], spec[COLUMNS], spec[SIZE], data[SCALE]
        P, S, places = block(spec, P_HEAD), block(spec, S_HEAD), block(spec, OTHERS) + L + 3
        layers = block(spec, LAYERS)
        lefts, rights = np.zeros((L, 3)), np.zeros((L, 3))
        middle = _sandwich(spec, data, heads, bounds, room, lefts, 0, True)
        free = _sandwich(spec, data, heads, bounds, room, rights, middle, False)
        squares, total = 0.0 * source, c * c * kept
        a, b = np.zeros(3), np.zeros(3)
        right = middle
        for i in range(L):
            v, w = spec[HEADER + i], spec[HEADER + i + 1]
            turned = free  # (S_{i+2} B)ᵀ
            transpose(1.0, room, right, room, turned, w, m)
            left = 0
            for j in range(L):
                x, y = spec[HEADER + j], spec[HEADER + j + 1]
                if j < i:
                    left += n * x
                    continue
                first = turned + m * w
                second = first + v * x
                for k in range(3):
                    a[k], b[k] = lefts[j, k], rights[i, k]
                if i == 0:
                    copy(1.0, room, left, room, first, v * x)
                else:
                    turned_product(heads, spec[P + i], room, left, room, first, v, n, x)
                    multiplied(a, bounds, row_of(spec, 1, i), n, frobenius(room, first, v * x))
                if j == L - 1:  # bᵀ: y rows of w
                    copy(1.0, room, turned, room, second, y * w)
                else:
                    product(heads, spec[S + j + 2], room, turned, room, second, y, m, w)
                    multiplied(b, bounds, row_of(spec, 2, j + 2), m, frobenius(room, second, y * w))
                third, fourth, here = 0, second + y * w, i * L + j
                if j > i:
                    third = spec[places + here]
                if j > i + 1:
                    transpose(1.0, pairs, spec[places + L * L + here], room, fourth, w, x)
                error = _error_of_block(a, b, triples[here], triples[L * L + here], total, j - i, w)
                squares += 2 * error * error
                rows, columns = spec[layers + j], spec[layers + i]
                at = rows * N + columns
                _filled(H, at, N, total, room, first, second, pairs, third, fourth, (v, w, x, y), j - i)
                left += n * x
            right += m * w
        return math.sqrt(squares) * UP + TINY

    return hessian
