"""`least.least_near` in compiled loops, for matrices so small that LAPACK does not pay off.

The inner products of the factorisation may be summed in any order, with or without fused multiply-adds. Each entry
results from an inner product, one difference and one division, as in the theorem (Higham 2002, lemma 8.4 and
theorem 10.3).
"""

from __future__ import annotations

import math

from linflow.dynamics._tiled_products import add, dot, jit, noinline
from linflow.verified._frame import gamma, proved
from linflow.verified.least import CLOSE, TRIALS
from linflow.verified.rounding import TINY, UP, U


@proved
def _factored(H, N, shift, R):
    """Write the lower Cholesky factor of `H − shift I`; return whether the factorisation runs to completion."""
    noinline()
    for i in range(N):
        at = i * N
        for j in range(i):
            R[at + j] = (H[at + j] - dot(R, at, R, j * N, j)) / R[j * N + j]
        pivot = H[at + i] - shift - dot(R, at, R, at, i)
        if not 0 < pivot < math.inf:
            return False
        R[at + i] = math.sqrt(pivot)
    return True


@jit
def _solved(R, N, v):
    """Write `(R Rᵀ)⁻¹ v` over v, scaled to length 1."""
    noinline()
    for i in range(N):
        v[i] = (v[i] - dot(R, i * N, v, 0, i)) / R[i * N + i]
    for i in range(N - 1, -1, -1):
        v[i] = v[i] / R[i * N + i]
        add(-v[i], R, i * N, v, 0, i)
    size = math.sqrt(dot(v, 0, v, 0, N))
    for i in range(N):
        v[i] = v[i] / size


@jit
def _quotient(H, N, v):
    """Return `vᵀ H v` for a symmetric matrix, given its lower half H."""
    noinline()
    total = 0.0
    for i in range(N):
        total += v[i] * (2 * dot(H, i * N, v, 0, i) + H[i * N + i] * v[i])
    return total


@proved
def _shift(s, slack, lengths, N):
    return s + (slack * (lengths + N * max(-s, 0.0)) + 4 * U * (lengths + abs(s)) + TINY) * UP


def shifting(source):
    """Return the program `least`."""

    def least(H, N, error, v, enough, R):
        """Return a proved lower bound of `min(0, λ_min)`; overwrite v with a vector near the eigenvector."""
        lengths = 0.0 * source
        for i in range(N):
            lengths += abs(H[i * N + i])
        lengths *= 1 + gamma(N + 4)
        slack = gamma(N + 1) / (1 - gamma(N + 1))
        low, high = -math.inf, math.inf
        quotient = _quotient(H, N, v)
        width = max(CLOSE * abs(quotient), enough)
        s = 0.0 if quotient > 0 else quotient - width
        for _ in range(TRIALS):
            if not _factored(H, N, _shift(s, slack, lengths, N), R):
                high = s
                width *= 4
                s = 0.5 * (low + high) if low > -math.inf else s - width
                continue
            low = s
            if low >= 0:
                break
            _solved(R, N, v)
            _solved(R, N, v)
            quotient = _quotient(H, N, v)
            width = max(CLOSE * abs(low), enough, 4 * (_shift(low, slack, lengths, N) - low))
            top = min(quotient, 0.0)
            if min(top, high) - low <= width:
                break
            s = min(0.5 * (low + high), max(quotient - 0.5 * width, 0.5 * (low + top)), 0.0)
        return low - (error + 4 * U * abs(low)) * UP  # −∞ if nothing is proved, as of entries that are not finite

    return least
