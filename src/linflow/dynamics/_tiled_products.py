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

ROWS, LANES = 4, 4
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


def _tile(rows: int, vectors: int) -> Any:
    """Return the function that computes a tile of `C = A B`, with this number of rows and of vectors of 4 columns.

    `A[r, p]` is at `a + r·down + p·across`; B and C have rows of length `stride`; the sum has `count` terms. The
    second and third vectors begin `second` and `third` columns after the first.
    """
    vector = ir.VectorType(ir.DoubleType(), LANES)
    unset = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)

    @intrinsic
    def tile(typing, A, a, across, down, B, b, stride, C, c, count, second, third):
        def generate(context, builder, signature, values):
            A, a, across, down, B, b, stride, C, c, count, second, third = values
            A, B, C = (context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 4, 7))

            def constant(value):
                return ir.Constant(count.type, value)

            def at(base, *parts):
                place = parts[0]
                for part in parts[1:]:
                    place = builder.add(place, part)
                return builder.gep(base, [place])

            def four(base, *parts):
                return builder.bitcast(at(base, *parts), vector.as_pointer())

            columns = (constant(0), second, third)[:vectors]
            zero = ir.Constant(vector, [0.0] * LANES)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
            with cgutils.for_range(builder, count) as loop:
                line, step = builder.mul(loop.index, stride), builder.mul(loop.index, across)
                right = [builder.load(four(B, b, line, j), align=8) for j in columns]
                for r in range(rows):
                    x = builder.load(at(A, a, step, builder.mul(down, constant(r))))
                    x = builder.insert_element(unset, x, ir.Constant(ir.IntType(32), 0))
                    x = builder.shuffle_vector(x, unset, first)
                    for total, y in zip(sums[r], right, strict=True):
                        term = builder.fmul(x, y, flags=("contract",))
                        builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
            for r in range(rows):
                for total, j in zip(sums[r], columns, strict=True):
                    place = four(C, c, builder.mul(stride, constant(r)), j)
                    builder.store(builder.load(total), place, align=8)
            return context.get_dummy_value()

        word = types.intp
        return types.void(A, word, word, word, B, word, word, C, word, word, word, word), generate

    return tile


_three, _two, _one = _tile(ROWS, 3), _tile(ROWS, 2), _tile(ROWS, 1)


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
def transpose(factor, A, a, C, c, n, m):
    """`C (m×n) = factor · A (n×m)ᵀ`."""
    i, stride = 0, U(n)
    while i + 4 <= n:
        p0, p1, p2, p3, q = U(a + i * m), U(a + (i + 1) * m), U(a + (i + 2) * m), U(a + (i + 3) * m), U(c + i)
        for j in range(U(m)):
            C[q], C[q + U(1)] = factor * A[p0 + j], factor * A[p1 + j]
            C[q + U(2)], C[q + U(3)] = factor * A[p2 + j], factor * A[p3 + j]
            q += stride
        i += 4
    while i < n:
        p, q = U(a + i * m), U(c + i)
        for j in range(U(m)):
            C[q] = factor * A[p + j]
            q += stride
        i += 1


@jit
def dot(A, a, B, b, count):
    """`Σ A B` over `count` entries."""
    a, b, total = U(a), U(b), 0.0
    for j in range(U(count)):
        total += A[a + j] * B[b + j]
    return total
