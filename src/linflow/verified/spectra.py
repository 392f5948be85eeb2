"""Eigenvalues and singular values with proved error bounds, from the residuals of a computed decomposition.

Proofs: docs/verified.md, section 10.
"""

from __future__ import annotations

import numpy as np

from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral

Interval = tuple[np.ndarray, np.ndarray]
"""Lower and upper bounds, each in descending order."""


def eigenvalue_bounds(A: np.ndarray, error: float = 0.0) -> Interval:
    """Return bounds of the eigenvalues, descending, of every symmetric matrix within `error` of A in spectral norm.

    With computed P and Λ, `‖PᵀP − I‖ ≤ φ < 1` and `‖PᵀAP − Λ‖ ≤ ε` give `|λ_i − λ̃_i| ≤ (ε + |λ̃_i| φ)/(1 − φ)`
    (Weyl and Ostrowski). If `φ ≥ 1`, they are only known to lie within `±‖A‖_F`.

    Args:
        A: matrix that is symmetric to the last bit.
        error: bound of the spectral norm of the error of A.
    """
    side, length = len(A), float(frobenius(A))
    if not np.isfinite(A).all():
        return np.full(side, -np.inf), np.full(side, np.inf)
    values, P = np.linalg.eigh(A)
    size = float(frobenius(P))
    g = gamma(side)
    phi = (float(frobenius(P.T @ P - np.eye(side))) + g * size * size + U * (size * size + side)) * UP
    if not phi < 0.5:
        wide = np.full(side, (length + error) * UP)
        return -wide, wide
    AP = A @ P
    # ‖P‖₂ ≤ √(1 + φ) multiplies the rounding of AP, and Pᵀ(AP) is rounded once more.
    last = float(frobenius(AP))
    residue = float(frobenius(P.T @ AP - np.diag(values)))
    residue += g * (length * size * (1 + phi) + size * last) + 2 * U * (size * last + length)
    values = np.sort(values)[::-1]
    off = ((residue + np.abs(values) * phi) / (1 - phi) + error) * UP * UP + 4 * U * np.abs(values) + TINY
    return np.maximum.accumulate((values - off)[::-1])[::-1], np.minimum.accumulate(values + off)


def singular_value_bounds(W: np.ndarray, error: float = 0.0) -> Interval:
    """Return bounds of the singular values, descending, of every matrix within `error` of W in spectral norm.

    For a computed `U S Vᵀ` whose factors U and V are within `t_u` and `t_v` of orthonormal ones,
    `|σ_i − s_i| ≤ ‖W − U S Vᵀ‖_F + s_1 (t_u + t_v + t_u t_v)`.
    """
    length = float(frobenius(W))
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    s, k = np.abs(s), len(s)
    first, scaled = float(s.max()), u * s
    sizes = [float(frobenius(u)), float(frobenius(vt)), float(frobenius(scaled))]
    tilted = [
        float(frobenius(gram - np.eye(k))) + gamma(max(W.shape) + 1) * size * size + U * (size * size + k)
        for gram, size in ((u.T @ u, sizes[0]), (vt @ vt.T, sizes[1]))
    ]
    rest = float(frobenius(W - scaled @ vt)) + gamma(k + 2) * sizes[2] * sizes[1] + 2 * U * length
    off = (rest + first * (sum(tilted) + tilted[0] * tilted[1]) + error) * UP + 4 * U * first + TINY
    s = np.sort(s)[::-1]
    return np.maximum(s - off, 0.0), np.minimum(s + off, (length + error) * UP)


def imbalance_bounds(before: np.ndarray, after: np.ndarray) -> Interval:
    """Return bounds of the eigenvalues of `W_lᵀW_l − W_{l+1}W_{l+1}ᵀ`, in descending order.

    If the hidden layer is wider than its neighbours together, the nonzero eigenvalues are those of
    `R' diag(I, −I) R'ᵀ`. Here `R'ᵀR' = BᵀB` with `B = [W_lᵀ W_{l+1}]`, and `R'` is near the factor R of a computed
    `B ≈ QR` (docs/verified.md, section 6).
    """
    a, h, b = before.shape[0], before.shape[1], after.shape[1]
    if h <= a + b:
        D = before.T @ before - after @ after.T
        sizes = float(frobenius(before)) ** 2 + float(frobenius(after)) ** 2
        return eigenvalue_bounds((D + D.T) / 2, (gamma(max(a, b) + 4) * sizes) * UP + TINY)
    B = np.concatenate([before.T, after], axis=1)
    Q, R = np.linalg.qr(B)
    k, size = Q.shape[1], float(frobenius(R))
    phi = float(frobenius(Q.T @ Q - np.eye(k))) + gamma(h + 2) * float(frobenius(Q)) ** 2
    off = float(frobenius(B - Q @ R)) + gamma(k + 2) * float(frobenius(Q)) * size + phi * size
    signs = np.concatenate([np.ones(a), -np.ones(b)])
    D = (R * signs) @ R.T
    error = (2 * spectral(R) * off + off * off + gamma(k + 4) * size * size) * UP * UP + TINY
    if not phi < 0.5:
        error = np.inf
    low, high = eigenvalue_bounds((D + D.T) / 2, error)
    zeros = np.zeros(h - k)
    return np.sort(np.concatenate([low, zeros]))[::-1], np.sort(np.concatenate([high, zeros]))[::-1]
