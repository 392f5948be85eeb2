"""The gradient of a regression to twice the digits, for paths in pairs of float64.

`∇f(W) = XᵀX (W − V) + Xᵀ(XV − Y)` holds for every V. In float64 the last term is as large as the rounding of V, and
no path in pairs is better than that. So V becomes a pair, by correcting its residue, and `XᵀX` is computed in pairs.
Proofs: docs/verified.md, section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral

UNIT = 8 * U * U
"""Relative error of one operation on pairs."""
CORRECTIONS = 3
"""Corrections of V that are tried. One is enough unless X is ill-conditioned."""


@cache
def loops() -> Any:
    """Return the compiled operations on pairs."""
    from linflow.verified import _pairs  # noqa: PLC0415 - numba is slow to import

    return _pairs


def pair(A: np.ndarray) -> np.ndarray:
    """Return a float64 matrix as a matrix of pairs."""
    return np.stack([A, np.zeros_like(A)], axis=-1)


def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return the product of two matrices of pairs. Each entry has one operation more than terms behind it."""
    out = np.empty((A.shape[0], B.shape[1], 2))
    loops().cauchy(A[None], B[None], 0, out)
    return out


def total(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return the sum of two matrices of pairs."""
    out = np.empty(A.shape)
    loops().plus(A.reshape(-1, 2), B.reshape(-1, 2), out.reshape(-1, 2))
    return out


def length(A: np.ndarray) -> float:
    """Return an upper bound of `‖A‖_F` for a matrix of pairs: the remainders are within u of the rest."""
    return float(frobenius(A[..., 0])) * (1 + 2 * U)


@dataclass(frozen=True)
class FineGradient:
    """`∇f(W) = A (W − V) + R` in pairs, with proved bounds of all errors.

    Attributes:
        V: the minimiser in pairs, shape `(n, m, 2)`.
        A: `XᵀX` in pairs, shape `(n, n, 2)`; None for the identity.
        norm: upper bound of `‖XᵀX‖₂`.
        length: upper bound of `‖A‖_F`.
        error: upper bound of `‖A − XᵀX‖_F`.
        residue: upper bound of `‖R‖_F`, the true gradient at V.
        shift: upper bound of the distance of V to the float64 minimiser, from which gaps are measured.
    """

    V: np.ndarray
    A: np.ndarray | None = None
    norm: float = 1.0
    length: float = 1.0
    error: float = 0.0
    residue: float = 0.0
    shift: float = 0.0

    def apply(self, E: np.ndarray) -> np.ndarray:
        """Return the computed `A E`."""
        return E if self.A is None else product(self.A, E)

    def error_of(self, size: np.ndarray | float, error: np.ndarray | float) -> np.ndarray | float:
        """Return a bound of `‖fl(A Ê) − XᵀX E‖_F` for `‖Ê‖_F ≤ size` and `‖Ê − E‖_F ≤ error`."""
        rounding = 0.0 if self.A is None else gamma(self.A.shape[0] + 1, UNIT) * self.length
        return (self.norm * error + (rounding + self.error) * size) * UP + TINY


def fine_regression(X: np.ndarray, Y: np.ndarray, V: np.ndarray) -> FineGradient:
    """Return the gradient of `½‖XW − Y‖_F²` in pairs, from a minimiser V in float64."""
    samples, inputs = X.shape
    Xp, Yp, first = pair(X), pair(-Y), pair(V)
    Xt = np.ascontiguousarray(Xp.transpose(1, 0, 2))
    A, size, largest = product(Xt, Xp), float(frobenius(X)), spectral(X)
    residue, best, Vp = math.inf, first, first
    for _ in range(CORRECTIONS + 1):
        r = total(product(Xp, Vp), Yp)
        R = product(Xt, r)
        missing = gamma(inputs + 1, UNIT) * size * length(Vp) + UNIT * length(r)
        left = length(R) + gamma(samples + 1, UNIT) * size * length(r) + largest * missing * UP
        left = left * UP + TINY
        if left < residue:
            residue, best = left, Vp
        Vp = total(Vp, pair(np.linalg.lstsq(A[..., 0], -R[..., 0], rcond=None)[0]))
    error = gamma(samples + 1, UNIT) * size * size * UP + TINY
    shift = length(total(best, -first)) * UP + TINY
    # The remainders are at most u of A, and so is what its spectral norm leaves out.
    norm = (spectral(A[..., 0]) + 2 * U * float(frobenius(A[..., 0])) + error) * UP
    return FineGradient(best, A, norm, length(A), error, residue, shift)
