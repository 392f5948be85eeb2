"""Orthonormal bases of tall matrices, by fast matrix products if the matrices are well-conditioned."""

from __future__ import annotations

import numpy as np

TALL, LARGE = 3, 200_000
"""Rows per column, and multiplications, from which two Gram matrix factorisations are faster than reflections."""

CONDITION = 8.0
"""Largest `‖R‖_F ‖R⁻¹‖_F` per column at which products with inverses are still accurate enough."""


def tall_qr(B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of `B = QR`, to rounding: Q with orthonormal columns, and an upper triangular R.

    It uses Cholesky twice: `BᵀB = R_1ᵀR_1`, `Q_1 = B R_1⁻¹`, and the same for `Q_1`. The first basis has an error of
    about `κ(B)²` roundings, the second of a few roundings (Yamamoto et al. 2015). Householder reflections are used
    instead if B is not tall, is small, or is not well-conditioned.

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
