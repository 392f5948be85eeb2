"""Float64 results with proved error bounds: norms, products and the least eigenvalue of a symmetric matrix.

Every bound rests on the standard model of floating-point arithmetic, `fl(a ∘ b) = (a ∘ b)(1 + δ)`, `|δ| ≤ u = 2⁻⁵³`,
for any order of summation, with or without fused multiply-adds (Higham 2002, sections 2 and 3). Proofs:
docs/verified.md, section 5.
"""

from __future__ import annotations

import math

import numpy as np

U = 2.0**-53
"""Unit roundoff of float64."""

TINY = 1e-150
"""Largest amount that underflow can add to any quantity bounded here: squares vanish below 10⁻¹⁶²."""

UP = 1 + 1e-12
"""Factor that covers the rounding of a formula of non-negative terms with fewer than 4000 operations."""

DOWN = 1 - 1e-12
"""The same downwards, and the rounding of a comparison that checks a result."""

SQUARINGS = 4
"""Squarings of a Gram matrix for a spectral norm.

The bound is at most `q^{1/64}` times the norm, where q is the smaller side.
"""


def gamma(count: int, unit: float | None = None) -> float:
    """Return `γ_k = ku/(1 − ku)`, rounded up: the relative error of k operations with relative error u each."""
    u = U if unit is None else unit
    return count * u / (1 - count * u) * (1 + 4 * U)


def known(low: float, high: float) -> tuple[float, float]:
    """Return bounds of a number; one that overflow left undefined is infinite, as nothing is known then.

    Example:
        >>> known(1.0, math.inf - math.inf)
        (1.0, inf)
    """
    return -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high


def frobenius(stack: np.ndarray) -> np.ndarray:
    """Return upper bounds of `‖A‖_F` for a matrix, or for each matrix of a stack."""
    if stack.ndim == 2:  # one inner product, which is faster
        entries = stack.ravel(order="K")
        squares = np.dot(entries, entries)
    else:
        squares = np.einsum("...ij,...ij->...", stack, stack)
    return np.sqrt(squares) * (1 + gamma(stack.shape[-1] * stack.shape[-2] + 4)) + TINY


def spectral(A: np.ndarray) -> float:
    """Return an upper bound of `‖A‖₂`, at most a few per cent too large.

    Let `M_0 = AᵀA` (or `AAᵀ`) and `M_{k+1} = M_k M_kᵀ`. Then `‖M_k‖₂² = ‖M_{k+1}‖₂`, whether or not rounding left
    M_k symmetric. The last norm is at most the Frobenius norm. The rounding of each product is added on the way back.
    """
    size = float(frobenius(A))
    if min(A.shape) == 1 or not 10 * TINY < size < 1e150:
        return size
    M = (A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A) / (size * size)  # of norm at most 1
    side, inner = M.shape[0], max(A.shape)
    lengths = []
    for _ in range(SQUARINGS):
        lengths.append(float(frobenius(M)))
        M = M @ M.T
    bound = float(frobenius(M))
    for length in reversed(lengths):
        bound = math.sqrt(bound + gamma(side) * length * length) * (1 + 4 * U)
    bound += gamma(inner + 4)  # of the Gram matrix, relative to ‖A‖_F²
    return min(size, math.sqrt(bound) * size * (1 + 8 * U) + TINY)


def least_eigenvalue(A: np.ndarray, error: float = 0.0, floor: float = -math.inf) -> float:
    """Return a proved lower bound of `λ_min` of every symmetric matrix within `error` of A in spectral norm.

    If the Cholesky factorisation of `fl(A − (s + c)I)` runs to completion, `λ_min(A) ≥ s` for
    `c = γ_{n+1}/(1 − γ_{n+1}) tr(A − sI)` plus the rounding of the shift (Rump 2006). s is an approximate least
    eigenvalue less a margin, which doubles until the test passes.

    Args:
        A: symmetric to the last bit; only its lower half is read.
        error: bound of the spectral norm of the error of A.
        floor: a lower bound known from elsewhere.
    """
    if not np.isfinite(A).all():  # a factorisation can run to completion here and prove nothing
        return floor
    size = A.shape[0]
    try:
        guess = float(np.linalg.eigvalsh(A)[0])
    except np.linalg.LinAlgError:
        return floor
    lengths = float(np.abs(np.diagonal(A)).sum()) * (1 + gamma(size + 4))
    slack = gamma(size + 1) / (1 - gamma(size + 1))
    margin, s = 0.0, guess
    for _ in range(60):
        trace = lengths + size * max(-s, 0.0)
        c = (slack * trace + 4 * U * (lengths + abs(s)) + TINY) * UP
        if margin > 0:
            B = A.copy()
            B.flat[:: size + 1] -= s + c
            try:
                np.linalg.cholesky(B)
                return max(floor, s - (error + 4 * U * abs(s)) * UP)
            except np.linalg.LinAlgError:
                pass
        margin = max(2 * margin, 2 * c)
        s = guess - margin
    return floor
