"""The Hessian of the overparametrized loss at one point, with a proved bound of its error.

`∇²L = Jᵀ(∇²f)J + second order`, in blocks of layers i, j (row-major vectors):
`c² (P_{i−1}ᵀ A P_{j−1}) ⊗ (S_{i+1} B S_{j+1}ᵀ)`, and for `i < j` the form `c ⟨X_ij, V_i M_ij V_j⟩` with
`X_ij = P_{i−1}ᵀ ∇f S_{j+1}ᵀ` and `M_ij = W_{i+1} ⋯ W_{j−1}`.
"""

from __future__ import annotations

import numpy as np

from linflow.verified.rounding import TINY, UP, U, frobenius, gamma
from linflow.verified.taylor import Expansion, MatrixSeries

KEPT = 31 / 32
"""Part of `Jᵀ(∇²f)J` in the Hessians of a step of a flow. The rest pays for how J leaves its chord, on the way."""


class Matrix:
    """A computed matrix with bounds of its Frobenius norm, its spectral norm and its error."""

    __slots__ = ("error", "length", "norm", "value")

    def __init__(self, value: np.ndarray, error: float = 0.0, norm: float | None = None, length: float | None = None):
        self.value, self.error = value, error
        self.length = float(frobenius(value)) if length is None else length
        self.norm = self.length if norm is None else min(norm, self.length)

    def __matmul__(self, other: Matrix) -> Matrix:
        error = gamma(self.value.shape[1]) * self.length * other.length
        error += self.error * (other.norm + other.error) + self.norm * other.error
        norm = self.norm * other.norm * UP + error  # of the computed product
        return Matrix(self.value @ other.value, error * UP + TINY, norm * UP)

    @property
    def T(self) -> Matrix:  # noqa: D102
        turned = object.__new__(Matrix)
        turned.value, turned.error, turned.length, turned.norm = self.value.T, self.error, self.length, self.norm
        return turned


def coefficient(factor: MatrixSeries) -> Matrix:
    """Return the coefficient at the start of a step."""
    error = float(factor.errors[0]) + 2 * factor.rest * float(factor.lengths[0])
    return Matrix(factor.values[0], error, float(factor.norms[0]))


def first(factor: MatrixSeries | None) -> Matrix | None:
    """Return the coefficient at the start of a step, or None for the identity."""
    return None if factor is None else coefficient(factor)


def between(path: Expansion) -> dict[tuple[int, int], Matrix | None]:
    """Return `M_ij = W_{i+1} ⋯ W_{j−1}` for all layers `i < j` (from 0), or None for neighbours."""
    W = [coefficient(factor) for factor in path.weights]
    M: dict[tuple[int, int], Matrix | None] = {}
    for i in range(path.depth):
        product: Matrix | None = None
        for j in range(i + 1, path.depth):
            M[i, j] = product
            product = W[j] if product is None else product @ W[j]
    return M


def cross(path: Expansion) -> dict[tuple[int, int], Matrix]:
    """Return `X_ij = P_{i−1}ᵀ (c∇f) S_{j+1}ᵀ` for all layers `i < j` (from 0)."""
    X = {}
    for i in range(path.depth):
        Q = coefficient(path.pulled[i])
        for j in range(i + 1, path.depth):
            S = first(path.suffixes[j + 2])
            X[i, j] = Q if S is None else Q @ S.T
    return X


def hessian(path: Expansion, kept: float = 1.0) -> tuple[np.ndarray, float]:
    """Return `∇²L` at the start of the step and a bound of the Frobenius norm of its error.

    Its first part, `Jᵀ(∇²f)J`, is multiplied by `kept`.
    """
    problem, c, L = path.problem, path.scale, path.depth
    factor = c * c * kept
    shapes = [factor.values.shape[1:] for factor in path.weights]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])
    H = np.zeros((ends[-1], ends[-1]))
    n, m = problem.V.shape
    identity_n, identity_m = identity(n), identity(m)
    A = identity_n if problem.A is None else Matrix(problem.A, problem.errors[0], problem.norms[0])
    B = identity_m if problem.B is None else Matrix(problem.B, problem.errors[1], problem.norms[1])
    P = [first(path.prefixes[l]) or identity_n for l in range(L)]
    S = [first(path.suffixes[l + 2]) or identity_m for l in range(L)]
    AP = [A @ factor if problem.A is not None else factor for factor in P]
    BS = [B @ factor.T if problem.B is not None else factor.T for factor in S]
    squares = 0.0
    M, X = between(path), cross(path)
    for i in range(L):
        for j in range(i, L):
            a, b = P[i].T @ AP[j], S[i] @ BS[j]
            block = factor * np.einsum("ac,bd->abcd", a.value, b.value)
            error = factor * (a.error * (b.length + b.error) + a.length * b.error + 5 * U * a.length * b.length)
            size = factor * a.length * b.length
            if i < j:
                x, between_ij = X[i, j], M[i, j]
                y = between_ij if between_ij is not None else identity(shapes[i][1])
                block = block + np.einsum("ad,bc->abcd", x.value, y.value)
                error += x.error * (y.length + y.error) + x.length * y.error + 4 * U * x.length * y.length
                size += x.length * y.length
            error += 2 * U * size
            squares += (1 if i == j else 2) * error * error
            rows, columns = ends[i + 1] - ends[i], ends[j + 1] - ends[j]
            block = block.reshape(rows, columns)
            H[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = block
            H[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = block.T
    H = (H + H.T) / 2
    return H, float(np.sqrt(squares) * UP + 2 * U * frobenius(H) + TINY)


def identity(size: int) -> Matrix:
    """Return the exact identity."""
    return Matrix(np.eye(size), 0.0, 1.0)
