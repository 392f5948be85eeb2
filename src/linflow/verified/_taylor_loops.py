"""`taylor.Expansion` in compiled loops: one program for every depth, every shape and every quadratic.

Products of matrices can be summed in any order, with or without fused multiply-adds: the rounding bounds cover all
these cases (docs/verified.md, section 5). A Cauchy product is one such sum. The loops that compute bounds do not use
this freedom.
"""

from __future__ import annotations

import math

from linflow.dynamics._tiled_products import (
    LANES,
    add,
    copy,
    dot,
    jit,
    noinline,
    product,
    series,
    transpose,
    turned_product,
)
from linflow.dynamics._tiled_products import ROWS as ROWS_OF_TILE
from linflow.dynamics._tiled_products import U as Place
from linflow.verified._bound_loops import (
    defect_below,
    defect_beyond,
    integral,
    longest,
    norms_and_errors,
    tail,
)
from linflow.verified._frame import (
    COLUMNS,
    DEPTH,
    DISTANCE,
    FIRST,
    HEADER,
    LEFT,
    LENGTH,
    LONGEST_STEP,
    MATRICES,
    NUMBERS,
    OTHERS,
    P_AT,
    P_HEAD,
    Q_AT,
    Q_HEAD,
    REACH,
    RIGHT,
    ROWS,
    S_AT,
    S_HEAD,
    SCALE,
    SECOND,
    SLOPE,
    T_AT,
    THIRD,
    TRUNCATION,
    VALUE,
    gamma,
    proved,
    tail_row,
)
from linflow.verified.rounding import TINY, UP

SMALL = 64
"""Up to this many multiplications in one product, a call costs more than the multiplications."""


@proved
def _short_products(A, a, across, left, B, b, right, C, c, between, columns, k):
    """Write one row of `C = Σ_{i≤k} A_i B_{k−i}`, where the products of each i are summed alone."""
    noinline()
    for j in range(columns):
        C[Place(c + j)] = 0.0
    for i in range(k + 1):
        for j in range(columns):
            x, y = a + i * left, b - i * right + j
            part = A[Place(x)] * B[Place(y)]
            for _ in range(between - 1):
                x += across
                y += columns
                part += A[Place(x)] * B[Place(y)]
            C[Place(c + j)] += part


@jit
def cauchy(turned, A, a, B, b, k, C, c, work, part, rows, between, columns):
    """Write `C = Σ_{i≤k} A_i B_{k−i}`, with `A_iᵀ` if `turned`, as one sum or product by product."""
    noinline()
    left, right, size = rows * between, between * columns, rows * columns
    down, across = (1, rows) if turned else (between, 1)
    if rows >= ROWS_OF_TILE and columns >= LANES:
        series(A, a, across, down, left, B, b + k * right, right, k + 1, C, c, rows, between, columns)
        return
    if columns < 4 and left * columns <= SMALL:
        for r in range(rows):
            _short_products(
                A, a + r * down, across, left, B, b + k * right, right, C, c + r * columns, between, columns, k
            )
        return
    for i in range(k + 1):
        at, to = a + i * left, b + (k - i) * right
        if i == 0:
            if turned:
                turned_product(A, at, B, to, C, c, rows, between, columns)
            else:
                product(A, at, B, to, C, c, rows, between, columns)
            continue
        if turned:
            turned_product(A, at, B, to, work, part, rows, between, columns)
        else:
            product(A, at, B, to, work, part, rows, between, columns)
        add(1.0, work, part, C, c, size)


@jit
def gradient_of(spec, data, E, e, work, to, other):
    """Write `A E B` to `work`, starting at `to`."""
    noinline()
    n, m = spec[ROWS], spec[COLUMNS]
    A, B = MATRICES, MATRICES + spec[LEFT] * n * n
    if spec[LEFT] == 0 and spec[RIGHT] == 0:
        copy(1.0, E, e, work, to, n * m)
    elif spec[RIGHT] == 0:
        product(data, A, E, e, work, to, n, n, m)
    elif spec[LEFT] == 0:
        product(E, e, data, B, work, to, n, m, m)
    else:
        product(data, A, E, e, work, other, n, n, m)
        product(work, other, data, B, work, to, n, m, m)


@jit
def over(A, a, tau, k, C, c, count):
    """Write `C = −τ A / k`."""
    for j in range(count):
        C[c + j] = (A[a + j] * -tau) / k


@jit
def _recursion(spec, data, tau, p, series, heads, numbers, work):
    """Compute the coefficients of the layers, starting from the weights, and all products on the way."""
    noinline()
    L, n, m, c, D = spec[DEPTH], spec[ROWS], spec[COLUMNS], data[SCALE], spec[DEPTH] + 3
    widths, layers = HEADER, HEADER + D
    P, S, T, Q = HEADER + P_AT * D, HEADER + S_AT * D, HEADER + T_AT * D, HEADER + Q_AT * D
    others = HEADER + OTHERS * D
    first, second, third = spec[others + FIRST], spec[others + SECOND], spec[others + THIRD]
    V = MATRICES + spec[LEFT] * n * n + spec[RIGHT] * m * m
    for k in range(p):
        w = spec[widths + 1]
        copy(1.0, series, k * n * w, work, spec[P + 1] + k * n * w, n * w)
        for l in range(2, L + 1):
            v, w = spec[widths + l - 1], spec[widths + l]
            W, to = (p + 1) * spec[layers + l - 1], spec[P + l] + k * n * w
            cauchy(False, work, spec[P + l - 1], series, W, k, work, to, work, first, n, v, w)
        if L > 1:
            w = spec[widths + L - 1]
            at, W = k * w * m, (p + 1) * spec[layers + L - 1]
            copy(1.0, series, W + at, work, spec[S + L] + at, w * m)
            transpose(1.0, series, W + at, work, spec[T + L] + at, w, m)
        for l in range(L - 1, 1, -1):
            w, v = spec[widths + l - 1], spec[widths + l]
            at, W = k * w * m, (p + 1) * spec[layers + l - 1]
            cauchy(False, series, W, work, spec[S + l + 1], k, work, spec[S + l] + at, work, first, w, v, m)
            transpose(1.0, work, spec[S + l] + at, work, spec[T + l] + at, w, m)
        E = second
        copy(c, work, spec[P + L] + k * n * m, work, E, n * m)
        if k == 0:
            add(-1.0, data, V, work, E, n * m)
            copy(1.0, work, E, heads, spec[others + DISTANCE], n * m)
        gradient_of(spec, data, work, E, work, third, first)
        if k == 0:
            numbers[VALUE] = dot(work, E, work, third, n * m)
            numbers[SLOPE] = dot(work, third, work, third, n * m)
        copy(c, work, third, work, spec[Q] + k * n * m, n * m)
        for l in range(1, L):
            v, w = spec[widths + l - 1], spec[widths + l]
            W, to = (p + 1) * spec[layers + l - 1], spec[Q + l] + k * w * m
            cauchy(True, series, W, work, spec[Q + l - 1], k, work, to, work, first, w, v, m)
        for l in range(L):
            v, w = spec[widths + l], spec[widths + l + 1]
            W, g = (p + 1) * spec[layers + l] + (k + 1) * v * w, spec[Q + l] + k * v * m
            if l < L - 1:
                g = second
                cauchy(False, work, spec[Q + l], work, spec[T + l + 2], k, work, g, work, first, v, m, w)
            over(work, g, tau, k + 1, series, W, v * w)


def expanding(source):
    """Return the program `expand`."""

    def expand(spec, data, y, tau, p, series, heads, bounds, tails, rounding, numbers, work):
        """Write the series of the layers, the first coefficients of the products, and all bounds of the path."""
        numbers[NUMBERS] = source
        L, n, m, D = spec[DEPTH], spec[ROWS], spec[COLUMNS], spec[DEPTH] + 3
        widths, layers = HEADER, HEADER + D
        for l in range(L):
            copy(
                1.0, y, spec[layers + l], series, (p + 1) * spec[layers + l], spec[widths + l] * spec[widths + l + 1]
            )
        _recursion(spec, data, tau, p, series, heads, numbers, work)
        for l in range(L + 1):
            if l > 0:
                w = spec[widths + l]
                copy(1.0, work, spec[HEADER + P_AT * D + l], heads, spec[HEADER + P_HEAD * D + l], n * w)
            if 1 <= l < L:
                w = spec[widths + l]
                copy(1.0, work, spec[HEADER + S_AT * D + l + 1], heads, spec[HEADER + S_HEAD * D + l + 1], w * m)
            if l < L:
                w = spec[widths + l]
                copy(1.0, work, spec[HEADER + Q_AT * D + l], heads, spec[HEADER + Q_HEAD * D + l], w * m)
        norms_and_errors(spec, data, p, series, bounds, heads, numbers, work)
        defect_below(spec, tau, p, bounds, rounding, numbers)
        tail(spec, data, p, bounds, tails)
        defect_beyond(spec, tau, p, tails)
        many = (2 * L - 1) * p + 1
        defects = tails[tail_row(spec, 3, L + 1)]
        numbers[LONGEST_STEP] = longest(defects, many, p, numbers[REACH], data[TRUNCATION], rounding)

    return expand


def walking(source):
    """Return the program `walk`."""

    def walk(spec, p, series, bounds, s, y):
        """Write the rounded weights of the path at s and return a bound of their distance to the polynomial."""
        L, layers = spec[DEPTH], HEADER + spec[DEPTH] + 3
        widths, jumps = HEADER, 0.0 * source
        for l in range(L):
            count, at, to = spec[widths + l] * spec[widths + l + 1], (p + 1) * spec[layers + l], spec[layers + l]
            copy(1.0, series, at + p * count, y, to, count)
            for k in range(p - 1, -1, -1):
                for j in range(count):
                    y[to + j] = y[to + j] * s + series[at + k * count + j]
            jump, power = 0.0, 1.0
            for k in range(p + 1):
                # The coefficient of degree k passes through k products and k + 1 sums.
                jump += gamma(2 * k + 1) * power * bounds[3 * l + LENGTH, k]
                power *= s
            jumps += jump * jump
        return math.sqrt(jumps) * UP + TINY

    return walk


def adding(source):
    """Return the program `added`."""

    def added(tails, rounding, p, s):
        """Return a bound of `∫_0^s ‖θ̃' + τ∇L(θ̃)‖`: truncation and rounding."""
        many = tails.shape[1] - 1 + 0 * source
        return (integral(tails[tails.shape[0] - 1], many, s) + integral(rounding, p, s)) * UP

    return added
