"""The least and the greatest eigenvalue of `E ↦ Σ_l A_l E B_l`, where the first and last terms are one-sided."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from linflow._support.arrays import EPS

BLOCK = 8
"""Number of vectors iterated together. For products of random layers, the smallest eigenvalues lie close together."""
NOISE = 1e-3
"""Random part of each starting vector. Without it, the vectors could lie in an invariant subspace of T that does not
contain the eigenvector."""
STARTS = 4
"""Largest number of starts if the iteration breaks down before it converges. All but the first are random."""
DENSE = 2500
"""Up to this size, the dense matrix replaces a second start. It takes seconds."""
TOLERANCE, ROUND, ITERATIONS = 1e-10, 100, 1000
"""The residual, in units of the greatest eigenvalue, at which the iteration ends; the number of iterations between
two checks of it; and the largest number of iterations."""


def extreme(
    left: np.ndarray, right: np.ndarray, between: Sequence[tuple[np.ndarray, np.ndarray]], *, largest: bool
) -> tuple[float, float, int]:
    """Return the least or the greatest eigenvalue of `E ↦ left E + E right + Σ A E B`, for Gram matrices.

    It uses LOBPCG [Knyazev 2001] in the eigenbases of `left` and `right`, in which the first two terms are diagonal.
    The preconditioner is the diagonal of all terms. The iteration starts at the entries where the diagonal is
    extreme, plus a small random matrix.

    Returns:
        The Rayleigh quotient θ of the vector E found; the residual `‖TE − θE‖_F / ‖E‖_F`, such that an eigenvalue
        lies within it of θ; and the number of iterations.
    """
    from scipy.sparse.linalg import lobpcg  # noqa: PLC0415 - slow to import, seldom needed

    (a, U), (b, V) = np.linalg.eigh(left), np.linalg.eigh(right)
    turned = [(U.T @ A @ U, V.T @ B @ V) for A, B in between]
    shape, outer = (len(a), len(b)), a[:, None] + b[None, :]
    diagonal = outer + sum(np.diag(A)[:, None] * np.diag(B)[None, :] for A, B in turned)
    size = float(diagonal.max())

    def apply(x: np.ndarray) -> np.ndarray:
        E = x.T.reshape(-1, *shape)
        return (outer * E + sum(A @ E @ B for A, B in turned)).reshape(len(E), -1).T

    inverse = 1 / np.maximum(diagonal, max(1e-12 * size, np.finfo(float).tiny))

    def precondition(x: np.ndarray) -> np.ndarray:
        return (x.T.reshape(-1, *shape) * inverse).reshape(-1, inverse.size).T

    block = min(BLOCK, inverse.size // 5)
    order = np.argsort(diagonal, axis=None)
    rng = np.random.default_rng(0)
    vectors = np.zeros((inverse.size, block))
    vectors[order[-block:] if largest else order[:block], np.arange(block)] = 1.0
    vectors += NOISE * rng.standard_normal(vectors.shape) / math.sqrt(inverse.size)
    iterations, found, starts = 0, (math.nan, math.inf), 1
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about convergence, which the residual shows
            values, vectors, history = lobpcg(
                apply,
                vectors,
                M=None if largest else precondition,
                largest=largest,
                tol=TOLERANCE * size,
                maxiter=ROUND,
                retResidualNormsHistory=True,
            )
        iterations += len(history)
        best = vectors[:, [int(np.argmax(values) if largest else np.argmin(values))]]
        moved = apply(best)
        value = float(np.sum(best * moved) / np.sum(best * best))
        residual = float(np.linalg.norm(moved - value * best) / np.linalg.norm(best))
        further = value - found[0] if largest else found[0] - value
        if residual < found[1] or further > found[1]:
            found = value, residual
        # The other vectors of the block only help. The iteration can end even if they have not converged.
        if residual <= TOLERANCE * size or iterations >= ITERATIONS:
            return *found, iterations
        if len(history) < ROUND:  # it broke down
            if inverse.size <= DENSE:
                ends = np.linalg.eigvalsh(apply(np.eye(inverse.size)))
                return float(ends[-1 if largest else 0]), 4 * EPS * math.sqrt(len(ends)) * float(ends[-1]), iterations
            if starts == STARTS:
                return *found, iterations
            vectors, starts = rng.standard_normal(vectors.shape), starts + 1
