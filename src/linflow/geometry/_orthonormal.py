"""Orthonormal bases of tall matrices, at the speed of matrix products where these are well-conditioned."""

from __future__ import annotations

import numpy as np

TALL, LARGE = 3, 200_000
"""Rows for each column, and multiplications, from which two factorisations of Gram matrices beat reflections."""

CONDITION = 8.0
"""`‖R‖_F ‖R⁻¹‖_F` for each column up to which the products with inverses lose no digit that matters."""


def tall_qr(B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Q with orthonormal columns and R, upper triangular, of `B = QR`, to rounding.

    By Cholesky twice: `BᵀB = R_1ᵀR_1`, `Q_1 = B R_1⁻¹`, and the same for `Q_1`. The first basis is off by about
    `κ(B)²` roundings, the second by a few (Yamamoto et al. 2015). By Householder's reflections where B is not tall,
    small or not well-conditioned.

    Source: Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa, T. Fukaya, *Roundoff error analysis of the CholeskyQR2
    algorithm*, ETNA 44 (2015).
    """
    rows, columns = B.shape
    if rows < TALL * columns or rows * columns * columns < LARGE:
        return np.linalg.qr(B)
    Q, R = B, np.eye(columns)
    for _ in range(2):
        try:
            L = np.linalg.cholesky(Q.T @ Q)
            inverse = np.linalg.inv(L)
        except np.linalg.LinAlgError:
            return np.linalg.qr(B)
        if not np.linalg.norm(L) * np.linalg.norm(inverse) <= CONDITION * columns:
            return np.linalg.qr(B)
        Q, R = Q @ inverse.T, L.T @ R
    return Q, R
