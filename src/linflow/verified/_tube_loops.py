"""`log_norm` in compiled loops: norms on the tube of a step.

The tube is one array of jets, which are bounds of a norm and of its first two derivatives. It holds the jets of the
layers, of the products before and after each layer, of the gradient, and of the products between two layers. The
sag of the Hessian over the step comes last.
"""

from __future__ import annotations

import math

import numpy as np

from linflow.dynamics._tiled_products import copy, noinline, product, transpose
from linflow.verified._frame import (
    COLUMNS,
    DEPTH,
    ERROR,
    FIRST,
    HEADER,
    LAYERS,
    LENGTH,
    NORM,
    NORM_A,
    NORM_B,
    OTHERS,
    Q_HEAD,
    S_HEAD,
    SCALE,
    SECOND,
    THIRD,
    block,
    frobenius,
    gamma,
    proved,
    row_of,
    spectral,
    tail_row,
)
from linflow.verified.hessian import KEPT
from linflow.verified.rounding import TINY, UP

ROUNDS = 200
"""Largest number of power iterations towards the eigenvector of a matrix of norms."""


@proved
def _greatest(C):
    """Return an upper bound of `λ_max` of a symmetric matrix without negative entries; see `log_norm.greatest`."""
    noinline()
    L = len(C)
    if L == 1:
        return C[0, 0]
    if L == 2:
        return 0.5 * (C[0, 0] + C[1, 1] + math.hypot(C[0, 0] - C[1, 1], 2 * C[0, 1])) * UP
    top = 0.0
    for i in range(L):
        for j in range(L):
            if not C[i, j] < math.inf:
                return math.inf
            top = max(top, C[i, j])
    if top == 0.0:
        return 0.0
    v, w = np.ones(L), np.ones(L)
    most, before = math.inf, math.inf
    for turn in range(ROUNDS):
        # The shift by top makes the greatest eigenvalue of C + top I the only one of its size.
        most, least, size = 0.0, math.inf, 0.0
        for i in range(L):
            total = 0.0
            for j in range(L):
                total += C[i, j] * v[j]
            ratio = total / v[i]
            most, least = max(most, ratio), min(least, ratio)
            w[i] = total + top * v[i]
            size = max(size, w[i])
        if most <= least * (1 + 1e-6) or (turn % 20 == 19 and most > before * (1 - 1e-6)):
            break
        if turn % 20 == 19:
            before = most
        for i in range(L):
            v[i] = w[i] / size + 1e-9
    return most * UP


@proved
def _jet(series, many, s, tube, at):
    """Write `Σ a_k s^k` and its first two derivatives, rounded up."""
    value = first = second = 0.0
    for k in range(many - 1, -1, -1):
        second = second * s + 2 * first
        first = first * s + value
        value = value * s + series[k]
    tube[at], tube[at + 1], tube[at + 2] = value * UP, first * UP, second * UP


@proved
def _times(tube, at, total, turn):
    """Multiply the jet `total` by the jet at `at`, by Leibniz' rule. With `turn` 0, copy that jet to `total`."""
    a, b, c = tube[at], tube[at + 1], tube[at + 2]
    if turn == 0:
        total[0], total[1], total[2] = a, b, c
        return
    v, d, dd = total[0], total[1], total[2]
    total[0], total[1], total[2] = v * a, v * b + d * a, v * c + 2 * d * b + dd * a


@proved
def place(L, kind, i, j):
    """Return the place of a jet in a tube: of layer i, before it, after it, the gradient, or between i and j."""
    if kind == 0:
        return 3 * i
    if kind == 1:
        return 3 * (L + i)
    if kind == 2:
        return 3 * (2 * L + i)
    if kind == 3:
        return 9 * L
    return 9 * L + 3 + 3 * (i * L + j)


def looking(source):
    """Return the program `look`."""

    def look(spec, p, series, heads, bounds, pairs, triples, norms, work):
        """Write `X_ij` and `M_ij` to `pairs`, length, norm and error of each to `triples`, sharp norms to `norms`."""
        L, m, D = spec[DEPTH], spec[COLUMNS], spec[DEPTH] + 3
        widths, layers, others = HEADER, block(spec, LAYERS), block(spec, OTHERS)
        Q, S, places = block(spec, Q_HEAD), block(spec, S_HEAD), block(spec, OTHERS) + D
        one, two, three = spec[others + FIRST], spec[others + SECOND], spec[others + THIRD]
        norms[0, 0] = 0.0 * source
        for i in range(L):
            norms[0, i * L + i] = norms[1, i * L + i] = 0.0
            for j in range(i + 1, L):
                here, back = i * L + j, j * L + i
                v, w = spec[widths + i], spec[widths + j + 1]
                to, row = spec[places + here], row_of(spec, 3, i)
                copy_of = triples[here]
                copy_of[LENGTH], copy_of[NORM] = bounds[3 * row + LENGTH, 0], bounds[3 * row + NORM, 0]
                copy_of[ERROR] = bounds[3 * row + ERROR, 0]
                if j == L - 1:
                    copy(1.0, heads, spec[Q + i], pairs, to, v * m)
                else:
                    other = row_of(spec, 2, j + 2)
                    transpose(1.0, heads, spec[S + j + 2], work, one, w, m)
                    product(heads, spec[Q + i], work, one, pairs, to, v, m, w)
                    multiplied(copy_of, bounds, other, m, frobenius(pairs, to, v * w))
                    size = spectral(pairs, to, v, w, copy_of[LENGTH], work, one, two, three)
                    copy_of[NORM] = min(copy_of[NORM], size)
                norms[0, here] = norms[0, back] = (copy_of[NORM] + copy_of[ERROR]) * UP
                if j == i + 1:
                    norms[1, here] = norms[1, back] = 1.0
                    continue
                v, w = spec[widths + i + 1], spec[widths + j]
                to, last = spec[places + L * L + here], triples[L * L + here]
                W = (p + 1) * spec[layers + j - 1]
                if j == i + 2:
                    copy(1.0, series, W, pairs, to, v * w)
                    last[LENGTH], last[NORM] = bounds[3 * (j - 1) + LENGTH, 0], bounds[3 * (j - 1) + NORM, 0]
                    last[ERROR] = 0.0
                else:
                    between = spec[widths + j - 1]
                    product(pairs, spec[places + L * L + here - 1], series, W, pairs, to, v, between, w)
                    for k in range(3):
                        last[k] = triples[L * L + here - 1, k]
                    multiplied(last, bounds, j - 1, between, frobenius(pairs, to, v * w))
                    last[NORM] = min(last[NORM], spectral(pairs, to, v, w, last[LENGTH], work, one, two, three))
                norms[1, here] = norms[1, back] = (last[NORM] + last[ERROR]) * UP

    return look


@proved
def multiplied(triple, bounds, row, between, size):
    """Turn the triple of A into that of a computed `A B`, B the first coefficient of a series; see `Matrix`."""
    row = 3 * row
    multiplied_by(triple, bounds[row + LENGTH, 0], bounds[row + NORM, 0], bounds[row + ERROR, 0], between, size)


@proved
def multiplied_by(triple, length, norm, error, between, size):
    """Turn the triple of A into that of a computed `A B`, given the length, norm and error of B."""
    lost = gamma(between) * triple[LENGTH] * length
    lost += triple[ERROR] * (norm + error) + triple[NORM] * error
    triple[NORM] = min((triple[NORM] * norm * UP + lost) * UP, size)
    triple[LENGTH], triple[ERROR] = size, lost * UP + TINY


def enclosing(source):
    """Return the program `surround`."""

    def surround(spec, data, p, bounds, tails, norms, s, tube):
        """Write the tube of a step of length s."""
        L, c = spec[DEPTH], data[SCALE]
        for l in range(L):
            _jet(tails[tail_row(spec, 3, l)], p + 1, s, tube, place(L, 0, l, 0))
            _jet(tails[tail_row(spec, 0, l)], l * p + 1, s, tube, place(L, 1, l, 0))
            _jet(tails[tail_row(spec, 1, l + 2)], (L - 1 - l) * p + 1, s, tube, place(L, 2, l, 0))
        _jet(tails[tail_row(spec, 2, 0)], L * p + 1, s, tube, place(L, 3, 0, 0))
        total = np.zeros(3)
        for i in range(L):
            for j in range(i + 1, L):
                at = place(L, 4, i, j)
                if j == i + 1:
                    tube[at], tube[at + 1], tube[at + 2] = 1.0, 0.0, 0.0
                    continue
                start = 1.0 * (source != 0)
                for l in range(i + 1, j):
                    _times(tube, place(L, 0, l, 0), total, l - i - 1)
                    start *= bounds[3 * l + NORM, 0]
                most = total[0] * UP
                moved = norms[1, i * L + j] + most - start * (1 - 1e-12)
                tube[at], tube[at + 1], tube[at + 2] = min(most, moved * UP), total[1] * UP, total[2] * UP
        # How far the Hessian can lie below its chord; see `log_norm.Tube.sag`.
        second, pulled = np.zeros((L, L)), np.zeros(3)
        moved = bent = 0.0
        for i in range(L):
            _times(tube, place(L, 1, i, 0), total, 0)
            _times(tube, place(L, 2, i, 0), total, 1)
            moved, bent = moved + (total[1] * UP) ** 2, bent + (total[2] * UP) ** 2
            _jet(tails[tail_row(spec, 2, i)], (L + i) * p + 1, s, pulled, 0)
            for j in range(i + 1, L):
                for k in range(3):
                    total[k] = pulled[k]
                _times(tube, place(L, 4, i, j), total, 1)
                _times(tube, place(L, 2, j, 0), total, 1)
                second[i, j] = second[j, i] = total[2] * UP
        K = c * c * (data[NORM_A] * data[NORM_B] * UP)
        cubic = (_greatest(second) + 2 * K * moved) * s**3 / 12
        tube[place(L, 4, L, 0)] = (cubic + KEPT / (1 - KEPT) * K * bent * s**5 / 120) * UP

    return surround


@proved
def _widened(L, tube, radius, wide):
    """Write the norms before, after and between layers on the tube: each norm on the path plus `Π(x + ρ) − Πx`."""
    for l in range(L):
        grown = kept = 1.0
        for i in range(l):
            grown *= tube[place(L, 0, i, 0)] + radius
            kept *= tube[place(L, 0, i, 0)]
        wide[l] = (tube[place(L, 1, l, 0)] + max(grown * UP - kept * (1 - 1e-12), 0.0)) * UP
        grown = kept = 1.0
        for i in range(l + 1, L):
            grown *= tube[place(L, 0, i, 0)] + radius
            kept *= tube[place(L, 0, i, 0)]
        wide[L + l] = (tube[place(L, 2, l, 0)] + max(grown * UP - kept * (1 - 1e-12), 0.0)) * UP
    for i in range(L):
        grown = kept = 1.0
        for j in range(i + 1, L):
            wide[2 * L + i * L + j] = (tube[place(L, 4, i, j)] + max(grown * UP - kept * (1 - 1e-12), 0.0)) * UP
            grown *= tube[place(L, 0, j, 0)] + radius
            kept *= tube[place(L, 0, j, 0)]


def bounding(source):
    """Return the program `constants`."""

    def constants(spec, data, tube, radius, found):
        """Write the Lipschitz constants of the product and its derivatives on the tube: `log_norm.Constants`."""
        L, c, K = spec[DEPTH], data[SCALE], data[NORM_A] * data[NORM_B] * UP
        wide = np.zeros(2 * L + L * L)
        _widened(L, tube, radius, wide)
        motion, C = 0.0 * source, np.zeros((L, L))
        for l in range(L):
            motion += (wide[l] * wide[L + l]) ** 2
        motion = c * math.sqrt(motion) * UP
        for i in range(L):
            for j in range(i + 1, L):
                C[i, j] = C[j, i] = wide[i] * wide[2 * L + i * L + j] * wide[L + j]
        bend, squares = c * _greatest(C), 0.0
        for k in range(L if L > 2 else 0):
            for i in range(L):
                for j in range(L):
                    C[i, j] = 0.0
            for i in range(L):
                for j in range(i + 1, L):
                    if k in (i, j):
                        continue
                    a, d = min(i, k), max(j, k)
                    b = i + j + k - a - d
                    between = wide[2 * L + a * L + b] * wide[2 * L + b * L + d]
                    C[i, j] = C[j, i] = wide[a] * between * wide[L + d]
            squares += _greatest(C) ** 2
        twist = math.sqrt(squares) * UP
        slope = (tube[place(L, 3, 0, 0)] + c * K * motion * radius) * UP
        found[0], found[1], found[2] = motion, bend, slope
        found[3] = (3 * K * motion * bend + slope * twist) * UP

    return constants


def by_products(source):
    """Return the program `level_two`."""

    def level_two(spec, tube, s, jump, slope, start, end):
        """Return an upper bound of `∫ m ds` from the products alone; see `log_norm.level_two`."""
        L = spec[DEPTH]
        if L == 1:
            return 0.0 * source
        wide = np.zeros(2 * L + L * L)
        _widened(L, tube, jump, wide)
        here, there, rest = np.zeros((L, L)), np.zeros((L, L)), np.zeros((L, L))
        total = np.zeros(3)
        gradient = place(L, 3, 0, 0)
        for i in range(L):
            for j in range(i + 1, L):
                at = i * L + j
                middle = place(L, 4, i, j)
                known = tube[gradient] * tube[place(L, 1, i, 0)] * tube[place(L, 2, j, 0)]
                dx = slope * wide[i] * wide[L + j] * UP - known * (1 - 1e-12)
                dm = wide[2 * L + at] * UP - tube[middle] * (1 - 1e-12)
                xa, ma = start[0, at], start[1, at]
                xb, mb = (end[0, at] + dx) * UP, (end[1, at] + dm) * UP
                _times(tube, gradient, total, 0)
                _times(tube, place(L, 1, i, 0), total, 1)
                _times(tube, place(L, 2, j, 0), total, 1)
                x, mid, most_x, most_m = total[2] * UP, tube[middle + 2], max(xa, xb), max(ma, mb)
                bend = 0.5 * s * s * (x * most_m + mid * most_x + 0.25 * s * s * x * mid)
                turn = max(0.0, -(xb - xa) * (mb - ma))
                here[i, j] = here[j, i] = xa * ma
                there[i, j] = there[j, i] = xb * mb
                rest[i, j] = rest[j, i] = (turn + bend) * UP
        ends = _greatest(here) + _greatest(there)
        return (0.5 * ends + _greatest(rest) / 6) * s * UP

    return level_two
