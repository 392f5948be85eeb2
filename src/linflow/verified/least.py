"""A proved lower bound of `min(0, λ_min)` of a symmetric matrix, from a vector near the eigenvector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from linflow.verified.rounding import TINY, UP, U, gamma

CLOSE = 0.005
"""The bound is below the eigenvalue by at most this fraction of it, or by `enough`."""

ENOUGH = 1e-5
"""Largest amount that the slack of an eigenvalue bound may add to the exponent per unit of the path's time."""

KRYLOV = 8
"""Matrix-vector products before the first factorisation, which costs as much as some hundred of them."""

TRIALS = 60
"""Largest number of factorisations."""


def libraries() -> tuple[Any, Any]:
    """Return BLAS and LAPACK."""
    from scipy.linalg import blas, lapack  # noqa: PLC0415 - slow to import, and only large Hessians need it

    return blas, lapack


def least_near(
    H: np.ndarray, error: float, vector: np.ndarray, enough: float, room: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Return a proved lower bound of `min(0, λ_min)` of every symmetric matrix within `error` of H, and a vector.

    If the Cholesky factorisation of `fl(H − (s + c)I)` runs to completion, `λ_min(H) ≥ s` with c as in
    `rounding.least_eigenvalue`. Trial shifts s come from Rayleigh quotients, and inverse iteration with the factor
    improves them. The proof does not depend on how good they are.

    Args:
        H: square matrix; only its lower half is read.
        error: bound of the spectral norm of the error of H.
        vector: vector near the eigenvector of the least eigenvalue, such as that of the last call; empty if unknown.
        enough: the bound may always be this far below the eigenvalue.
        room: a Fortran-ordered array used as work space.
    """
    blas, lapack = libraries()
    size, A = len(H), H.T  # the upper half of a Fortran array
    lengths = float(np.abs(H.diagonal()).sum()) * (1 + gamma(size + 4))
    slack = gamma(size + 1) / (1 - gamma(size + 1))
    if room is None:
        room = np.empty((size, size), order="F")

    def shift(s: float) -> float:
        return s + (slack * (lengths + size * max(-s, 0.0)) + 4 * U * (lengths + abs(s)) + TINY) * UP

    def factor(s: float) -> np.ndarray | None:
        np.copyto(room, A)
        room.ravel(order="K")[:: size + 1] -= shift(s)
        R, info = lapack.dpotrf(room, lower=0, clean=0, overwrite_a=1)
        # The square of each entry is part of a pivot, so finite pivots imply a finite matrix.
        return R if info == 0 and np.isfinite(R.diagonal()).all() else None

    known = vector.size == size and 0.5 < float(np.linalg.norm(vector)) < 2
    quotient, v = nearer(
        lambda v: blas.dsymv(1.0, A, v, lower=0), vector if known else np.random.default_rng(0).standard_normal(size)
    )
    if not math.isfinite(quotient):
        return -math.inf, vector
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
            v, _ = lapack.dpotrs(R, v, lower=0, overwrite_b=1)
            v = v / np.linalg.norm(v)
        quotient = float(v @ blas.dsymv(1.0, A, v, lower=0))
        width = max(CLOSE * abs(low), enough, 4 * (shift(low) - low))
        if min(quotient, high, 0.0) - low <= width:
            break
        s = min(0.5 * (low + high), max(quotient - 0.5 * width, 0.5 * (low + min(quotient, 0.0))), 0.0)
    return low - (error + 4 * U * abs(low)) * UP if math.isfinite(low) else low, v


def nearer(
    times: Callable[[np.ndarray], np.ndarray], v: np.ndarray, most: int | None = None
) -> tuple[float, np.ndarray]:
    """Return the least Rayleigh quotient of a symmetric matrix on a small Krylov space, and its vector (Lanczos).

    Args:
        times: the product of the matrix and a vector.
        v: the first vector of the space.
        most: the largest dimension of the space; KRYLOV by default.
    """
    most, count = min(KRYLOV if most is None else most, len(v)), 0
    V, H = np.empty((most, len(v))), np.empty((most, len(v)))
    while count < most:
        size = float(np.linalg.norm(v))
        if not TINY < size < math.inf:
            break
        V[count] = v / size
        v = H[count] = times(V[count])
        if not np.isfinite(v).all():
            return math.nan, v
        count += 1
        for _ in range(2):
            v = v - (V[:count] @ v) @ V[:count]
    return ritz(V[:count], H[:count], v)


def ritz(V: np.ndarray, H: np.ndarray, v: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least Rayleigh quotient on the space of orthonormal rows V with images H, and its vector.

    Without rows they are NaN and v.
    """
    if not len(V):
        return math.nan, v
    values, vectors = np.linalg.eigh(V @ H.T)
    return float(values[0]), vectors[:, 0] @ V
