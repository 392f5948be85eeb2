"""`least.krylov` for `elimination.HessianChain` in compiled loops."""

from __future__ import annotations

import math

from linflow.dynamics._tiled_products import add, copy, dot, jit, noinline, product, transpose, turned_product
from linflow.verified.rounding import TINY


@jit
def _times(widths, sides, parts, v, found, at, room):
    """Write the product of the Hessian of a chain and v, from `at` in `found`; see `HessianChain.times`."""
    noinline()
    L, n, m = len(widths) - 1, widths[0], widths[-1]
    most, total = 1, 0
    for j in range(L):
        most, total = max(most, widths[j + 1]), total + n * widths[j]
    # The states X_0 … X_{L−1}, then two matrices to add to, then one of a layer.
    one, two = total, total + n * most
    layer, here, state, matrix = two + n * most, 0, 0, 1 + sides[0] * n * n + sides[1] * m * m
    for j in range(L):
        h, w = widths[j], widths[j + 1]
        P = matrix + 2 * h * w
        after = state + n * h  # the last one is the first of the two matrices
        if j == 0:
            copy(1.0, v, 0, room, after, n * w)
        else:
            product(parts, P, v, here, room, after, n, h, w)
            product(room, state, parts, matrix, room, two, n, h, w)
            add(1.0, room, two, room, after, n * w)
        here, state, matrix = here + h * w, state + n * h, P + n * h + n * w
    copy(parts[0], room, one, room, two, n * m)
    if sides[0]:
        product(parts, 1, room, two, room, one, n, n, m)
        copy(1.0, room, one, room, two, n * m)
    if sides[1]:
        product(room, two, parts, 1 + sides[0] * n * n, room, one, n, m, m)
        copy(1.0, room, one, room, two, n * m)
    pull, other = two, one
    for j in range(L - 1, 0, -1):
        h, w = widths[j], widths[j + 1]
        matrix -= 2 * h * w + n * h + n * w
        P = matrix + 2 * h * w
        N = P + n * h
        here, state = here - h * w, state - n * h
        turned_product(parts, P, room, pull, found, at + here, h, n, w)
        turned_product(room, state, parts, N, room, layer, h, n, w)
        add(1.0, room, layer, found, at + here, h * w)
        transpose(1.0, v, here, room, layer, h, w)
        product(room, pull, parts, matrix + h * w, room, other, n, w, h)
        product(parts, N, room, layer, room, pull, n, w, h)
        add(1.0, room, pull, room, other, n * h)
        pull, other = other, pull
    copy(1.0, room, pull, found, at, n * widths[1])


def iterating(source):
    """Return the program `krylov`."""

    def krylov(widths, sides, parts, v, V, H, room):
        """Write an orthonormal basis of a Krylov space to V, and its images to H; return its dimension."""
        most, N = V.shape
        basis, images, count = V.ravel(), H.ravel(), 0 * source
        while count < most:
            size = math.sqrt(dot(v, 0, v, 0, N))
            if not TINY < size < math.inf:
                break
            at = count * N
            copy(1.0 / size, v, 0, basis, at, N)
            copy(1.0 / size, v, 0, v, 0, N)
            _times(widths, sides, parts, v, images, at, room)
            copy(1.0, images, at, v, 0, N)
            if not dot(v, 0, v, 0, N) < math.inf:
                return 0
            count += 1
            for _ in range(2):
                for k in range(count):
                    add(-dot(basis, k * N, v, 0, N), basis, k * N, v, 0, N)
        return count

    return krylov
