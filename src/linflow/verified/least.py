"""A proved lower bound of the negative part of a least eigenvalue, from a vector near the eigenvector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import blas, lapack

from linflow.verified.rounding import TINY, UP, U, gamma

_blas: Any = blas
_lapack: Any = lapack

CLOSE = 0.005
"""The bound is at most this part, or what is told to be enough, below the eigenvalue."""

TRIALS = 60
"""Largest number of factorisations."""


def least_near(H: np.ndarray, error: float, vector: np.ndarray, enough: float) -> tuple[float, np.ndarray]:
    """Return a proved lower bound of `min(0, λ_min)` of every symmetric matrix within `error` of H, and a vector.

    If the Cholesky factorisation of `fl(H − (s + c)I)` runs to completion, `λ_min(H) ≥ s` with c as in
    `rounding.least_eigenvalue`. Trial shifts s come from Rayleigh quotients, and inverse iteration with the factor
    makes these better; the proof does not depend on how good they are.

    Args:
        H: square, of which the lower half is read.
        error: bound of the spectral norm of what H was computed with.
        vector: near the eigenvector of the least eigenvalue, that of the last call say; empty if none is known.
        enough: how far below the eigenvalue the bound may be at least.
    """
    size, A = len(H), H.T  # the upper half of a Fortran array
    diagonal = H.diagonal()
    lengths = float(np.abs(diagonal).sum()) * (1 + gamma(size + 4))
    if not math.isfinite(lengths) or not np.isfinite(H.sum(where=np.tri(size, dtype=bool))):
        return -math.inf, vector
    slack = gamma(size + 1) / (1 - gamma(size + 1))

    def shift(s: float) -> float:
        return s + (slack * (lengths + size * max(-s, 0.0)) + 4 * U * (lengths + abs(s)) + TINY) * UP

    def factor(s: float) -> np.ndarray | None:
        B = A.copy(order="F")
        B.ravel(order="K")[:: size + 1] -= shift(s)
        R, info = _lapack.dpotrf(B, lower=0, clean=0, overwrite_a=1)
        return R if info == 0 else None

    known = vector.size == size and float(np.linalg.norm(vector)) > 0.5
    v = vector if known else np.random.default_rng(0).standard_normal(size)
    v = v / np.linalg.norm(v)
    quotient = float(v @ _blas.dsymv(1.0, A, v, lower=0))
    low, high = -math.inf, math.inf
    width = max(CLOSE * abs(quotient), enough)
    s = 0.0 if quotient > 0 else quotient - width
    for _ in range(TRIALS):
        R = factor(s)
        if R is None:
            high = s
            width *= 4
            s = s - width if math.isinf(low) else 0.5 * (low + high)
            continue
        low = s
        if low >= 0:
            break
        for _ in range(2):
            v, _ = _lapack.dpotrs(R, v, lower=0, overwrite_b=1)
            v = v / np.linalg.norm(v)
        quotient = float(v @ _blas.dsymv(1.0, A, v, lower=0))
        width = max(CLOSE * abs(low), enough, 4 * (shift(low) - low))
        if min(quotient, high, 0.0) - low <= width:
            break
        s = min(0.5 * (low + high), max(quotient - 0.5 * width, 0.5 * (low + min(quotient, 0.0))), 0.0)
    return low - (error + 4 * U * abs(low)) * UP if math.isfinite(low) else low, v
