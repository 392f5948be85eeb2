"""Compiled arithmetic on matrices stored row by row in flat arrays.

One step of the flow takes hundreds of products of small matrices. They are too short for BLAS to pay off and for the
compiler to vectorise as loops. They are cut into tiles of 4 rows and up to 12 columns, each held in registers while
the inner sum runs. A tile that would reach past an edge is moved back, so some entries are computed twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS, LANES, STRIP = 4, 4, 8
"""Rows of a tile, entries of a vector, and vectors of a sum that are held in registers at once."""
U = np.uint64
"""Type of places counted from the front: signed ones can also count from the back, and loops over them are slow."""
# Sums may be taken in any order, as BLAS does; numbers that are not finite keep their meaning.
jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def _noinline(typing):
    """Keep the function that calls this from being copied into others, which keeps compilation short."""

    def generate(context, builder, signature, values):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


noinline: Any = intrinsic(_noinline)


_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_UNSET = ir.Constant(_VECTOR, ir.Undefined)


def _lanes(*places: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), places)


class _Code:
    """Instructions that the intrinsics below consist of; arrays are given as pointers to their first entry."""

    def __init__(self, context, builder, signature, values):
        self.builder = builder
        self.values = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]

    def at(self, base, *parts):
        place = parts[0]
        for part in parts[1:]:
            place = self.builder.add(place, part)
        return self.builder.gep(base, [place])

    def four(self, base, *parts):
        """Return where four entries lie, as one vector."""
        return self.builder.bitcast(self.at(base, *parts), _VECTOR.as_pointer())

    def load(self, base, *parts):
        return self.builder.load(self.four(base, *parts), align=8)

    def spread(self, x):
        """Return a vector of four times x."""
        first = self.builder.insert_element(_UNSET, x, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, _UNSET, _lanes(0, 0, 0, 0))

    def add_product(self, total, x, y):
        """`total += x y`, rounded once or twice."""
        term = self.builder.fmul(x, y, flags=("contract",))
        self.builder.store(self.builder.fadd(self.builder.load(total), term, flags=("contract",)), total)


def _word(value: int) -> Any:
    return ir.Constant(cgutils.intp_t, value)


def _tile(rows: int, vectors: int, kind: str = "product") -> Any:
    """Return the function that computes a tile of `C = A B`, with this number of rows and of vectors of 4 columns.

    `A[r, p]` is at `a + r·down + p·across`; B and C have rows of length `stride`; the sum has `count` terms. The
    second and third vectors begin `second` and `third` columns after the first. A tile of the kind "less" is
    `D − A B`, for a last argument D that is laid out like C. One of the kind "series" is `Σ A_i B_i` over `terms`
    products, with `A_i` and `B_i` at `a + i·left` and `b − i·right`.
    """

    def generate(context, builder, signature, values):
        code = _Code(context, builder, signature, values)
        A, a, across, down, B, b, stride, C, c, count, second, third, *more = code.values
        columns = (_word(0), second, third)[:vectors]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]

        def add_products(a, b):
            with cgutils.for_range(builder, count) as loop:
                line, step = builder.mul(loop.index, stride), builder.mul(loop.index, across)
                right = [code.load(B, b, line, j) for j in columns]
                for r in range(rows):
                    x = code.spread(builder.load(code.at(A, a, step, builder.mul(down, _word(r)))))
                    for total, y in zip(sums[r], right, strict=True):
                        code.add_product(total, x, y)

        if kind == "series":
            terms, left, right = more
            with cgutils.for_range(builder, terms) as loop:
                add_products(
                    builder.add(a, builder.mul(loop.index, left)), builder.sub(b, builder.mul(loop.index, right))
                )
        else:
            add_products(a, b)
        for r in range(rows):
            for total, j in zip(sums[r], columns, strict=True):
                place, found = (c, builder.mul(stride, _word(r)), j), builder.load(total)
                if kind == "less":
                    found = builder.fsub(code.load(more[0], *place), found)
                builder.store(found, code.four(C, *place), align=8)
        return context.get_dummy_value()

    word = types.intp

    def typed(A, B, C, *more):
        return types.void(A, word, word, word, B, word, word, C, word, word, word, word, *more), generate

    @intrinsic
    def product(typing, A, a, across, down, B, b, stride, C, c, count, second, third):
        return typed(A, B, C)

    @intrinsic
    def less(typing, A, a, across, down, B, b, stride, C, c, count, second, third, D):
        return typed(A, B, C, D)

    @intrinsic
    def series(typing, A, a, across, down, B, b, stride, C, c, count, second, third, terms, left, right):
        return typed(A, B, C, word, word, word)

    return {"product": product, "less": less, "series": series}[kind]


def _strip_of(vectors: int) -> Any:
    """Return the function that computes what `combine` says at some vectors of 4 entries, from d on."""

    @intrinsic
    def strip(typing, y, d, K, size, weights, places, count, h, out):
        def generate(context, builder, signature, values):
            code = _Code(context, builder, signature, values)
            y, d, K, size, weights, places, count, h, out = code.values
            at = [builder.add(d, _word(LANES * v)) for v in range(vectors)]
            sums = [cgutils.alloca_once(builder, _VECTOR) for _ in at]
            for total, place in zip(sums, at, strict=True):
                builder.store(code.load(y, place), total)
            with cgutils.for_range(builder, count) as loop:
                x = code.spread(builder.fmul(h, builder.load(code.at(weights, loop.index))))
                row = builder.mul(builder.load(code.at(places, loop.index)), size)
                for total, place in zip(sums, at, strict=True):
                    code.add_product(total, x, code.load(K, row, place))
            for total, place in zip(sums, at, strict=True):
                builder.store(builder.load(total), code.four(out, place), align=8)
            return context.get_dummy_value()

        word = types.intp
        return types.void(y, word, K, word, weights, places, word, types.float64, out), generate

    return strip


def _turning(typing, factor, A, a, down, C, c, over):
    """`C[c + j·over + i] = factor · A[a + i·down + j]` for i and j below 4."""

    def generate(context, builder, signature, values):
        code = _Code(context, builder, signature, values)
        factor, A, a, down, C, c, over = code.values
        x, mix = code.spread(factor), builder.shuffle_vector
        rows = [builder.fmul(x, code.load(A, a, builder.mul(down, _word(i)))) for i in range(LANES)]
        even, odd, low, high = _lanes(0, 4, 2, 6), _lanes(1, 5, 3, 7), _lanes(0, 1, 4, 5), _lanes(2, 3, 6, 7)
        pairs = [[mix(rows[i], rows[i + 1], which) for i in (0, 2)] for which in (even, odd)]
        columns = [mix(*pairs[j % 2], low if j < 2 else high) for j in range(LANES)]
        for j, column in enumerate(columns):
            builder.store(column, code.four(C, c, builder.mul(over, _word(j))), align=8)
        return context.get_dummy_value()

    word = types.intp
    return types.void(types.float64, A, word, word, C, word, word), generate


_turn: Any = intrinsic(_turning)
_three, _two, _one = _tile(ROWS, 3), _tile(ROWS, 2), _tile(ROWS, 1)
_three_less, _two_less, _one_less = (_tile(ROWS, vectors, "less") for vectors in (3, 2, 1))
_three_in_series, _two_in_series, _one_in_series = (_tile(ROWS, vectors, "series") for vectors in (3, 2, 1))
_strip, _short_strip = _strip_of(STRIP), _strip_of(1)


@jit
def add(factor, A, a, C, c, count):
    """`C += factor · A` over `count` entries."""
    a, c = U(a), U(c)
    for j in range(U(count)):
        C[c + j] += factor * A[a + j]


@jit
def copy(factor, A, a, C, c, count):
    """`C = factor · A` over `count` entries."""
    a, c = U(a), U(c)
    for j in range(U(count)):
        C[c + j] = factor * A[a + j]


@jit
def _multiply(A, a, across, down, B, b, C, c, n, k, m):
    """`C (n×m) = A B` with `A[i, p]` at `a + i·down + p·across`."""
    noinline()
    i = 0
    while i < n and n >= ROWS and m >= LANES:
        i = min(i, n - ROWS)
        ai, ci, j = a + i * down, c + i * m, 0
        while m - j > 2 * LANES:
            _three(A, ai, across, down, B, b + j, m, C, ci + j, k, LANES, min(2 * LANES, m - LANES - j))
            j += 3 * LANES
        if m - j > LANES:
            _two(A, ai, across, down, B, b + j, m, C, ci + j, k, min(LANES, m - LANES - j), 0)
        elif m > j:
            j = m - LANES
            _one(A, ai, across, down, B, b + j, m, C, ci + j, k, 0, 0)
        i += ROWS
    while i < n and m >= LANES:  # few rows
        ai, ci = a + i * down, c + i * m
        copy(A[ai], B, b, C, ci, m)
        for p in range(1, k):
            add(A[ai + p * across], B, b + p * m, C, ci, m)
        i += 1
    while i < n:  # few columns
        for j in range(m):
            p, q, over, stride, total = U(a + i * down), U(b + j), U(across), U(m), 0.0
            for _ in range(k):
                total += A[p] * B[q]
                p += over
                q += stride
            C[c + i * m + j] = total
        i += 1


@jit
def product(A, a, B, b, C, c, n, k, m):
    """`C (n×m) = A (n×k) B (k×m)`."""
    _multiply(A, a, np.int64(1), k, B, b, C, c, n, k, m)


@jit
def turned_product(A, a, B, b, C, c, n, k, m):
    """`C (n×m) = A (k×n)ᵀ B (k×m)`."""
    _multiply(A, a, n, np.int64(1), B, b, C, c, n, k, m)


@jit
def series(A, a, across, down, left, B, b, right, terms, C, c, n, k, m):
    """`C (n×m) = Σ A_i (n×k) B_i (k×m)` over `terms` products as one sum, for at least four rows and columns.

    `A_i[r, p]` is at `a + i·left + r·down + p·across`, and `B_i` begins at `b − i·right`.
    """
    noinline()
    j = 0
    while j < m:  # columns of all B_i stay in the cache while the rows go by
        wide = m - j
        j, second, third = min(j, m - LANES), min(LANES, wide - LANES), min(2 * LANES, wide - LANES)
        i = 0
        while i < n:
            i = min(i, n - ROWS)
            ai, ci = a + i * down, c + i * m + j
            if wide > 2 * LANES:
                _three_in_series(A, ai, across, down, B, b + j, m, C, ci, k, LANES, third, terms, left, right)
            elif wide > LANES:
                _two_in_series(A, ai, across, down, B, b + j, m, C, ci, k, second, 0, terms, left, right)
            else:
                _one_in_series(A, ai, across, down, B, b + j, m, C, ci, k, 0, 0, terms, left, right)
            i += ROWS
        j += 3 * LANES


@jit
def lessen(A, a, across, B, b, stride, D, C, c, n, k, m):
    """`C (n×m) = D − A (k×n)ᵀ B (k×m)` for up to four rows.

    Rows of A begin `across` entries after each other, those of B, C and D `stride` entries. C and D begin at c.
    """
    noinline()
    if n == ROWS and m >= LANES:
        down, j = np.int64(1), 0
        while m - j > 2 * LANES:
            _three_less(A, a, across, down, B, b + j, stride, C, c + j, k, LANES, min(2 * LANES, m - LANES - j), D)
            j += 3 * LANES
        if m - j > LANES:
            _two_less(A, a, across, down, B, b + j, stride, C, c + j, k, min(LANES, m - LANES - j), 0, D)
        elif m > j:
            j = m - LANES
            _one_less(A, a, across, down, B, b + j, stride, C, c + j, k, 0, 0, D)
        return
    for i in range(n):
        copy(1.0, D, c + i * stride, C, c + i * stride, m)
        for p in range(k):
            add(-A[a + p * across + i], B, b + p * stride, C, c + i * stride, m)


@jit
def transpose(factor, A, a, C, c, n, m):
    """`C (m×n) = factor · A (n×m)ᵀ`."""
    noinline()
    i = 0
    while i < n and n >= LANES and m >= LANES:
        i, j = min(i, n - LANES), 0
        while j < m:
            j = min(j, m - LANES)
            _turn(factor, A, a + i * m + j, m, C, c + j * n + i, n)
            j += LANES
        i += LANES
    while i < n:  # few rows or columns
        p, q, stride = U(a + i * m), U(c + i), U(n)
        for j in range(U(m)):
            C[q] = factor * A[p + j]
            q += stride
        i += 1


@jit
def combine(y, K, size, weights, places, count, h, out):
    """`out = y + h Σ_p weights[p] K[places[p]]`; the vectors in K lie one after the other."""
    noinline()
    d = 0
    while size - d >= STRIP * LANES:
        _strip(y, d, K, size, weights, places, count, h, out)
        d += STRIP * LANES
    while d < size and size >= LANES:
        d = min(d, size - LANES)
        _short_strip(y, d, K, size, weights, places, count, h, out)
        d += LANES
    while d < size:
        total = 0.0
        for p in range(count):
            total += weights[p] * K[places[p] * size + d]
        out[d] = y[d] + h * total
        d += 1


@jit
def dot(A, a, B, b, count):
    """`Σ A B` over `count` entries."""
    a, b, total = U(a), U(b), 0.0
    for j in range(U(count)):
        total += A[a + j] * B[b + j]
    return total
