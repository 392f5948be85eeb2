"""The gradient flow in compiled code: one program for every depth, every shape and every built-in objective.

This module computes the loss, its slope and other functions of the weights; `_march` adds the integration. Only
`_compiled` imports the two, because numba is slow to import. All state is held in flat arrays, so that one
compilation serves all problems. `_compiled.layout` lays out `spec`, `data` and `work`.

Products are taken from the narrower side of the network: the chain is `W_{l+1} ⋯ W_L` of shape `(h_l, m)` for
`l = L−1, …, 0` if `m ≤ n`, and `W_1 ⋯ W_l` of shape `(n, h_l)` for `l = 1, …, L` otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from linflow._support.arrays import EPS
from linflow.dynamics._tiled_products import U, add, copy, dot, jit, noinline, product, transpose, turned_product

KIND, DEPTH, ROWS, COLUMNS, SIZE, BY_COLUMNS, LEFT, RIGHT, F_AT, H_AT, STAR_AT, LENGTHS_AT, HT_AT = range(13)
"""Places in `spec`: objective, L, n, m, number of weights, whether `m ≤ n`, sides and places of the data."""
PRODUCT_AT, GRADIENT_AT, FIRST_AT, SECOND_AT, PULL_AT, NEXT_AT, JET_AT, JET_SIZE, HEADER = range(13, 22)
"""Further places in `spec`, for the parts of `work`. Widths, places of the layers in y and of the chain follow."""
SCALE, SMOOTHNESS, STAR_NORM, RTOL, FIRST_SIZE, MATRICES = range(6)
"""Places in `data`: numbers; the matrices follow."""
QUADRATIC, EXPONENTIAL, LOGISTIC = range(3)
"""Kinds of objective."""

_MAX = float(np.finfo(np.float64).max)
_LARGEST_LOG = math.log(_MAX)
_FAR = 1e300


@jit
def norm(x, start, stop):
    """Euclidean norm, safe from overflow and underflow."""
    noinline()
    total = dot(x, start, x, start, stop - start)
    if 1e-200 < total < 1e200:
        return math.sqrt(total)
    largest = 0.0
    for i in range(start, stop):
        if not math.isfinite(x[i]):
            return math.inf
        largest = max(largest, abs(x[i]))
    if largest == 0.0:
        return 0.0
    total = 0.0
    for i in range(start, stop):
        total += (x[i] / largest) ** 2
    return largest * math.sqrt(total)


@jit
def _seen(spec, data, V, v, work):
    """Write the part of a matrix that the objective sees, `F V H` or `X V`, and return its place."""
    noinline()
    n, m, a, b = spec[ROWS], spec[COLUMNS], spec[LEFT], spec[RIGHT]
    place, other = spec[FIRST_AT], spec[SECOND_AT]
    if a > 0:
        product(data, spec[F_AT], V, v, work, place, a, n, m)
    else:
        a = n
        copy(1.0, V, v, work, place, n * m)
    if b > 0:
        product(work, place, data, spec[H_AT], work, other, a, m, b)
        return other
    return place


@jit
def _margins(spec, data, work):
    """Write the margins `z` of the data under the product; return their number and the shift of the exponents."""
    noinline()
    count, place, labels = spec[LEFT] * spec[COLUMNS], _seen(spec, data, work, spec[PRODUCT_AT], work), spec[H_AT]
    least = math.inf
    for i in range(count):
        z = data[labels + i] * work[place + i]
        z = _FAR if z > _FAR else -_FAR if z < -_FAR else z
        work[place + i] = z
        least = min(least, z)
    return count, (-least if spec[KIND] == EXPONENTIAL and -least > 600 else 0.0)


@jit
def _derivative(kind, z, order, shift):
    """Return `|φ^{(order)}(z)|`, divided by `e^shift`."""
    if kind == EXPONENTIAL:
        return math.exp(-z - shift)
    e = math.exp(-abs(z))
    if order == 0:
        return math.log1p(e) + (-z if z < 0 else 0.0)
    if order == 1:
        return (1.0 if z < 0 else e) / (1 + e)
    return e / (1 + e) ** 2


@jit
def _sized(total, shift):
    return total if shift == 0.0 else math.inf if shift > _LARGEST_LOG else math.exp(shift) * total


@jit
def _distance(A, a, B, b, C, c, count):
    """Write `C = A − B` over `count` entries, and return the sum of its squares."""
    a, b, c, total = U(a), U(b), U(c), 0.0
    for i in range(U(count)):
        x = A[a + i] - B[b + i]
        C[c + i] = x
        total += x * x
    return total


@jit
def _gap_and_gradient(spec, data, work):
    """Return the gap at the product in `work`, and write the gradient next to it."""
    noinline()
    n, m, a, b = spec[ROWS], spec[COLUMNS], spec[LEFT], spec[RIGHT]
    W, G, kind = spec[PRODUCT_AT], spec[GRADIENT_AT], spec[KIND]
    total = 0.0
    if kind == QUADRATIC:
        total = _distance(work, W, data, spec[STAR_AT], work, G, n * m)
        if a == 0 and b == 0:
            return 0.5 * total
        place = _seen(spec, data, work, G, work)
        rows, columns = a if a > 0 else n, b if b > 0 else m
        total = dot(work, place, work, place, rows * columns)
        if b > 0:
            back = spec[FIRST_AT] if a > 0 else G
            product(work, place, data, spec[HT_AT], work, back, rows, b, m)
            place = back
        if a > 0:
            turned_product(data, spec[F_AT], work, place, work, G, n, a, m)
        return 0.5 * total
    count, shift = _margins(spec, data, work)
    place, labels = spec[FIRST_AT], spec[H_AT]
    for i in range(count):
        z = work[place + i]
        total += _derivative(kind, z, 0, shift)
        work[place + i] = -data[labels + i] * _derivative(kind, z, 1, shift)
    turned_product(data, spec[F_AT], work, place, work, G, n, a, m)
    if shift != 0.0:
        factor = math.exp(min(shift, _LARGEST_LOG))
        limit = _MAX / factor * (1 - 8 * EPS)
        for i in range(n * m):
            work[G + i] = factor * min(max(work[G + i], -limit), limit)
    return _sized(total, shift)


@jit
def evaluate(spec, data, y, work, out, o):
    """Return the gap at y and write `−∇L` at o; chain, product and `∇f` stay in `work`."""
    noinline()
    L, n, m, c = spec[DEPTH], spec[ROWS], spec[COLUMNS], data[SCALE]
    widths, layers, chain = HEADER, HEADER + L + 1, HEADER + 2 * L + 2
    W, G, q, free, turned = spec[PRODUCT_AT], spec[GRADIENT_AT], spec[PULL_AT], spec[NEXT_AT], spec[JET_AT]
    if L == 1:
        copy(c, y, 0, work, W, n * m)
        gap = _gap_and_gradient(spec, data, work)
        copy(-c, work, G, out, o, n * m)
        return gap
    last = spec[layers + L - 1]
    if spec[BY_COLUMNS]:
        l, k = L - 2, spec[widths + L - 1]
        product(y, spec[layers + l], y, last, work, spec[chain + l], spec[widths + l], k, m)
        for l in range(L - 3, -1, -1):
            w, k = spec[widths + l], spec[widths + l + 1]
            product(y, spec[layers + l], work, spec[chain + l + 1], work, spec[chain + l], w, k, m)
        copy(c, work, spec[chain], work, W, n * m)
        gap = _gap_and_gradient(spec, data, work)
        copy(-c, work, G, work, q, n * m)  # in turn `−c (W_1 ⋯ W_l)ᵀ ∇f`, of shape (h_l, m)
        for l in range(L - 2):
            w, k, at = spec[widths + l], spec[widths + l + 1], spec[layers + l]
            _to_the_right(y, at, work, spec[chain + l + 1], work, turned, q, out, o + at, work, free, w, k, m)
            q, free = free, q
        w, k, at = spec[widths + L - 2], spec[widths + L - 1], spec[layers + L - 2]
        _to_the_right(y, at, y, last, work, turned, q, out, o + at, out, o + last, w, k, m)
        return gap
    product(y, 0, y, spec[layers + 1], work, spec[chain + 2], n, spec[widths + 1], spec[widths + 2])
    for l in range(2, L):
        w, k = spec[widths + l], spec[widths + l + 1]
        product(work, spec[chain + l], y, spec[layers + l], work, spec[chain + l + 1], n, w, k)
    copy(c, work, spec[chain + L], work, W, n * m)
    gap = _gap_and_gradient(spec, data, work)
    transpose(-c, work, G, work, q, n, m)  # in turn `−c (W_{l+1} ⋯ W_L) ∇fᵀ`, of shape (h_l, n)
    for l in range(L - 1, 0, -1):
        w, k, at = spec[widths + l], spec[widths + l + 1], spec[layers + l]
        transpose(1.0, work, q, work, turned, k, n)
        if l > 1:
            turned_product(work, spec[chain + l], work, turned, out, o + at, w, n, k)
        else:
            turned_product(y, 0, work, turned, out, o + at, w, n, k)
        product(y, at, work, q, work, free, w, k, n)
        q, free = free, q
    transpose(1.0, work, q, out, o, spec[widths + 1], n)
    return gap


@jit
def _to_the_right(y, layer, S, s, work, turned, q, out, o, to, at, w, k, m):
    """Write the slope of a layer (w×k), `Q Sᵀ`, and carry Q (w×m) over it; S is the chain to its right."""
    transpose(1.0, S, s, work, turned, k, m)
    product(work, q, work, turned, out, o, w, m, k)
    turned_product(y, layer, work, q, to, at, k, w, m)


@jit
def curvature(spec, data, y, slope, work, gap, rate):
    """Return `d²/dt² log ℓ` at y, where the gap was evaluated last, from the second derivative along the slope.

    With `W(s)` the product at `y + s·slope`, `d‖∇L‖²/dt = −2 (⟨∇f, W''⟩ + ∇²f[W', W'])`.
    """
    noinline()
    L, n, m, c = spec[DEPTH], spec[ROWS], spec[COLUMNS], data[SCALE]
    widths, layers, chain = HEADER, HEADER + L + 1, HEADER + 2 * L + 2
    side, back, stride = min(n, m), spec[BY_COLUMNS] == 1, spec[JET_SIZE]
    first, second = spec[JET_AT], spec[JET_AT] + stride
    next_first, next_second, part = second + stride, second + 2 * stride, second + 3 * stride
    at = L - 1 if back else 1
    begin = spec[layers + L - 1] if back else 0
    copy(1.0, y, begin, work, spec[chain + at], side * spec[widths + at])
    copy(1.0, slope, begin, work, first, side * spec[widths + at])
    copy(0.0, work, first, work, second, n * m if L == 1 else 0)  # of one layer, there is no second derivative
    for i in range(L - 1):
        to = at - 1 if back else at + 1
        V, w, k = spec[layers + min(at, to)], spec[widths + to], spec[widths + at]
        _extend(back, y, slope, V, work, spec[chain + at], first, 1.0, next_first, part, side, k, w)
        if i == 0:
            _carry(back, slope, V, work, first, next_second, side, k, w)
            copy(2.0, work, next_second, work, next_second, side * w)
        else:
            _extend(back, y, slope, V, work, first, second, 2.0, next_second, part, side, k, w)
        first, next_first, second, next_second, at = next_first, first, next_second, second, to
    copy(c, work, first, work, next_first, n * m)
    bend = c * dot(work, spec[GRADIENT_AT], work, second, n * m)
    return 2 * (bend + _hessian_form(spec, data, work, next_first, part)) / gap - rate * rate


@jit
def _extend(back, y, slope, V, work, lower, higher, factor, to, part, side, k, w):
    """Carry a derivative of the chain over one layer: `higher W + factor · lower Ẇ`, or the same from the left."""
    _carry(back, y, V, work, higher, to, side, k, w)
    _carry(back, slope, V, work, lower, part, side, k, w)
    add(factor, work, part, work, to, side * w)


@jit
def _carry(back, y, V, work, chain, to, side, k, w):
    """Multiply a matrix in `work` by the layer of y at V, from the left if `back`."""
    if back:
        product(y, V, work, chain, work, to, w, k, side)
    else:
        product(work, chain, y, V, work, to, side, k, w)


@jit
def _hessian_form(spec, data, work, v, part):
    """Return `∇²f[V, V]` for V at v in `work`."""
    n, m, a, b = spec[ROWS], spec[COLUMNS], spec[LEFT], spec[RIGHT]
    total, kind = 0.0, spec[KIND]
    if kind == QUADRATIC:
        place = _seen(spec, data, work, v, work)
        return dot(work, place, work, place, (a if a > 0 else n) * (b if b > 0 else m))
    count, shift = _margins(spec, data, work)
    place, moved = spec[FIRST_AT], spec[SECOND_AT]
    product(data, spec[F_AT], work, v, work, moved, a, n, m)
    for i in range(count):
        # The square alone may leave float64 where the derivative is 0.
        total += _derivative(kind, work[place + i], 2, shift) * work[moved + i] * work[moved + i]
    return total if shift == 0.0 else math.exp(min(shift, _LARGEST_LOG)) * total


@jit
def grain(spec, y, slope, speed):
    """Return `Σ_l ‖W_l‖ ‖∂L/∂W_l‖ / ‖∇L‖`; see `GradientField.grain`."""
    noinline()
    layers, total = HEADER + spec[DEPTH] + 1, 0.0
    for l in range(spec[DEPTH] if speed > 0 else 0):
        start, stop = spec[layers + l], spec[layers + l + 1]
        total += norm(y, start, stop) * (norm(slope, start, stop) / speed)
    return total


@jit
def rounding(spec, data, y, work, gap):
    """Return the rounding of the gap and of `∇f` at y, where the gap was evaluated last, and `c Π‖W_l‖_F`."""
    noinline()
    L = spec[DEPTH]
    layers = HEADER + L + 1
    magnitude = data[SCALE]
    for l in range(L):
        magnitude *= norm(y, spec[layers + l], spec[layers + l + 1])
    if spec[KIND] == QUADRATIC:
        size = 4 * EPS * (magnitude + data[STAR_NORM])
        return 0.5 * data[SMOOTHNESS] * size * size, data[SMOOTHNESS] * size, magnitude
    count, shift = _margins(spec, data, work)
    m, place, lengths = spec[COLUMNS], spec[FIRST_AT], spec[LENGTHS_AT]
    steep = bent = 0.0
    for i in range(count):
        z, size = work[place + i], data[lengths + i // m]
        steep += _derivative(spec[KIND], z, 1, shift) * size
        bent += _derivative(spec[KIND], z, 2, shift) * size * size
    steep, bent = _sized(steep, shift), _sized(bent, shift)
    return 8 * EPS * gap + 4 * EPS * magnitude * steep, 4 * EPS * (steep + magnitude * bent), magnitude


@jit
def may_rest(spec, data, y, slope, work, gap):
    """Return whether y, where the gap was evaluated last, may be at rounding, at rest or collapsed; errs to True."""
    noinline()
    L, layers = spec[DEPTH], HEADER + spec[DEPTH] + 1
    level, noise, magnitude = rounding(spec, data, y, work, gap)
    if gap <= level or norm(y, 0, spec[SIZE]) < EPS * EPS * data[FIRST_SIZE]:
        return True
    G = spec[GRADIENT_AT]
    noise += 8 * EPS * norm(work, G, G + spec[ROWS] * spec[COLUMNS])
    for l in range(L):
        start, stop = spec[layers + l], spec[layers + l + 1]
        # The norm of a product is at most the product of the norms: `magnitude` divided by one of them.
        if norm(slope, start, stop) * norm(y, start, stop) > 2 * noise * magnitude:
            return False
    return True
