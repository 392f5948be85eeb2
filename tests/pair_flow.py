"""The exact flow to some 28 digits, in pairs of float64 and compiled: the fast judge of `make proofs`.

A pair (h, l) stands for h + l, with |l| at most half a unit in the last place of h. Sums and products are those of
Dekker and Knuth, with errors of a few times 2⁻¹⁰⁴ of their size. It shares no code with the library.
"""

from __future__ import annotations

import math

import flint
import numba
import numpy as np

from tests.verified_judge import TrueFlow, _norm, precision

ORDER = 32
SHORTEST = 1e-32
"""The terms of the last two degrees are at most this part of the weights."""


@numba.njit(inline="always")
def _sum(a, b):
    """Return `fl(a + b)` and its error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@numba.njit(inline="always")
def _product(a, b):
    """Return `fl(ab)` and its error."""
    p = a * b
    c = 134217729.0 * a
    x = c - (c - a)
    c = 134217729.0 * b
    y = c - (c - b)
    return p, ((x * y - p) + x * (b - y) + (a - x) * y) + (a - x) * (b - y)


@numba.njit(inline="always")
def _times(a, b, c, d):
    """Return the product of the pairs (a, b) and (c, d)."""
    p, e = _product(a, c)
    return _sum(p, e + (a * d + b * c))


@numba.njit(inline="always")
def _plus(a, b, c, d):
    """Return the sum of the pairs (a, b) and (c, d)."""
    s, e = _sum(a, c)
    t, f = _sum(b, d)
    s, e = _sum(s, e + t)
    return _sum(s, e + f)


@numba.njit(cache=True)
def _add_product(X, Y, n, q, m, Z):
    """Add to the n × m matrix Z the product of the n × q matrix X and the q × m matrix Y; index 0 is h, 1 is l."""
    for a in range(n):
        for r in range(q):
            h, l = X[0, a, r], X[1, a, r]
            for c in range(m):
                p, e = _times(h, l, Y[0, r, c], Y[1, r, c])
                Z[0, a, c], Z[1, a, c] = _plus(Z[0, a, c], Z[1, a, c], p, e)


@numba.njit(cache=True)
def _cauchy(X, Y, k, n, q, m, Z):
    """Write the coefficient of degree k of the product of two series to `Z[k]`."""
    Z[k] = 0.0
    for i in range(k + 1):
        _add_product(X[i], Y[k - i], n, q, m, Z[k])


@numba.njit(cache=True)
def _transposed(X, n, m, Z):
    """Write the transpose of an n × m matrix."""
    for a in range(n):
        for c in range(m):
            Z[0, c, a], Z[1, c, a] = X[0, a, c], X[1, a, c]


@numba.njit(cache=True)
def _scaled(X, n, m, h, l, Z):
    """Write the n × m matrix X times the pair (h, l)."""
    for a in range(n):
        for c in range(m):
            Z[0, a, c], Z[1, a, c] = _times(X[0, a, c], X[1, a, c], h, l)


@numba.njit(cache=True)
def _divided(X, n, m, by, Z):
    """Write the n × m matrix X divided by a float64."""
    for a in range(n):
        for c in range(m):
            first = X[0, a, c] / by
            p, e = _product(first, by)
            Z[0, a, c], Z[1, a, c] = _sum(first, ((X[0, a, c] - p) - e + X[1, a, c]) / by)


@numba.njit(cache=True)
def _slope(P, first, n, m, A, B, C, scale, one, two, Z):
    """Write `−c` times the coefficient of `∇f = A (c P) B − C`; C belongs to the first only."""
    _scaled(P, n, m, scale[0], scale[1], one)
    two[:] = 0.0
    _add_product(A, one, n, n, m, two)
    one[:] = 0.0
    _add_product(two, B, n, m, m, one)
    if first:
        for a in range(n):
            for c in range(m):
                one[0, a, c], one[1, a, c] = _plus(one[0, a, c], one[1, a, c], -C[0, a, c], -C[1, a, c])
    _scaled(one, n, m, -scale[0], -scale[1], Z)


@numba.njit(cache=True)
def _expanded(W, widths, order, A, B, C, scale, tau):
    """Write the coefficients of degrees 1 to `order` of the layers' series in t/τ: `W[l, k]`, from `W[l, 0]`.

    `scale` is a pair, and τ a power of two. All matrices are kept in squares of the largest width.
    """
    L, side = len(widths) - 1, W.shape[-1]
    n, m = widths[0], widths[L]
    turned, P, S = np.zeros_like(W), np.zeros_like(W), np.zeros_like(W)
    Q, G = np.zeros_like(W), np.zeros_like(W)
    one, two = np.zeros((2, side, side)), np.zeros((2, side, side))
    for l in range(L):
        _transposed(W[l, 0], widths[l], widths[l + 1], turned[l, 0])
    for k in range(order):
        P[0, k], S[L - 1, k] = W[0, k], turned[L - 1, k]
        for l in range(1, L):
            _cauchy(P[l - 1], W[l], k, n, widths[l], widths[l + 1], P[l])
        for l in range(L - 2, 0, -1):
            _cauchy(S[l + 1], turned[l], k, m, widths[l + 1], widths[l], S[l])
        _slope(P[L - 1, k], k == 0, n, m, A, B, C, scale, one, two, Q[0, k])
        for l in range(1, L):
            _cauchy(turned[l - 1], Q[l - 1], k, widths[l], widths[l - 1], m, Q[l])
        G[L - 1, k] = Q[L - 1, k]
        for l in range(L):
            if l < L - 1:
                _cauchy(Q[l], S[l + 1], k, widths[l], m, widths[l + 1], G[l])
            _divided(G[l, k] * tau, widths[l], widths[l + 1], k + 1.0, W[l, k + 1])
            _transposed(W[l, k + 1], widths[l], widths[l + 1], turned[l, k + 1])


@numba.njit(cache=True)
def _horner(W, h, l):
    """Return the value of the layers' series at the pair (h, l)."""
    L, degrees, _, side, _ = W.shape
    total = W[:, degrees - 1].copy()
    for i in range(L):
        for k in range(degrees - 2, -1, -1):
            for a in range(side):
                for c in range(side):
                    x, y = _times(total[i, 0, a, c], total[i, 1, a, c], h, l)
                    total[i, 0, a, c], total[i, 1, a, c] = _plus(x, y, W[i, k, 0, a, c], W[i, k, 1, a, c])
    return total


def pair(x: flint.arb) -> tuple[float, float]:
    """Return the nearest pair to a ball's middle."""
    high = float(x.mid())
    return high, float((x - high).mid())


class PairFlow(TrueFlow):
    """`TrueFlow` of `∇f(W) = A W B − C` with series in pairs; gaps and rates of given weights keep its 60 digits."""

    def __init__(self, weights, scale, C, A=None, B=None, V=None, origin=None):
        self.shapes = [W.shape for W in weights]
        self.widths = np.array([self.shapes[0][0], *(b for _, b in self.shapes)])
        self.side = int(self.widths.max())
        super().__init__(weights, scale, C, A, B, V, origin)
        n, m = self.C.nrows(), self.C.ncols()
        eye = [flint.arb_mat(k, k, [int(i == j) for i in range(k) for j in range(k)]) for k in (n, m)]
        given = (eye[0] if self.A is None else self.A, eye[1] if self.B is None else self.B, self.C)
        with precision():
            self.affine = [self._squared(M) for M in given]

    def _squared(self, M: flint.arb_mat) -> np.ndarray:
        found = np.zeros((2, self.side, self.side))
        for i, row in enumerate(M.tolist()):
            for j, x in enumerate(row):
                found[:, i, j] = pair(x)
        return found

    def _advance(self):
        start = [self._squared(w) for w in self.now]
        force, size = self.force(self.now), sum(float(_norm(w)) for w in self.now) + 1e-300
        speed = sum(float(_norm(g)) for g in force)
        unit = math.log2(size / speed) if speed > 0 else 0.0
        for _ in range(40):
            tau = 2.0 ** round(unit)
            W = np.zeros((len(start), ORDER + 1, 2, self.side, self.side))
            W[:, 0] = start
            _expanded(W, self.widths, ORDER, *self.affine, np.array(pair(self.scale)), tau)
            with np.errstate(over="ignore", invalid="ignore"):
                norms = np.sqrt((W[:, :, 0] ** 2).sum(axis=(2, 3))).sum(axis=0)
            if not np.isfinite(norms).all():
                unit -= 8
                continue
            radii = [(SHORTEST / (norms[k] / size)) ** (1 / k) for k in (ORDER - 1, ORDER) if norms[k] > 0]
            s = min([*radii, 1e6]) * 0.9
            if 2**-6 < s < 2**6 or s > 1e5:
                break
            unit += math.log2(s)
        else:
            raise ArithmeticError("no unit of time suits the series")
        h = flint.arb(s) * tau
        self.pieces.append((self.t, h, (W, tau)))
        self.now = self._value((W, tau), h)
        self.t = (self.t + h).mid()

    def _value(self, series, s):
        W, tau = series
        value = _horner(W, *pair(s / tau))
        return [
            flint.arb_mat(
                a,
                b,
                [flint.arb(float(h)) + float(l) for h, l in zip(w[0, :a, :b].flat, w[1, :a, :b].flat, strict=True)],
            )
            for w, (a, b) in zip(value, self.shapes, strict=True)
        ]
