"""Two-layer networks with a smooth activation, literally: loops over neurons and samples, docs/relu.md, section 11.

`e` is the unit of the allowances for rounding: 0 leaves them out.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np

Matrix = np.ndarray

VALUES = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
}
SLOPES = {
    "tanh": lambda z: 1 / mpmath.cosh(z) ** 2,
    "sigmoid": lambda z: mpmath.exp(-z) / (1 + mpmath.exp(-z)) ** 2,
    "softplus": VALUES["sigmoid"],
    "gelu": lambda z: mpmath.ncdf(z) + z * mpmath.npdf(z),
    "silu": lambda z: (1 + z / (1 + mpmath.exp(z))) / (1 + mpmath.exp(-z)),
}


def H(X: Matrix, V: Matrix, Phi: Matrix, A: Matrix) -> Matrix:
    """`ΦΦᵀ ⊗ I + Σ_j D_{a_j} K D_{a_j} ⊗ v_jv_jᵀ`, as a matrix on the entries `(i, k)` of R."""
    K = X @ X.T
    total = np.kron(Phi @ Phi.T, np.eye(V.shape[1]))
    for j in range(len(V)):
        total += np.kron(np.diag(A[:, j]) @ K @ np.diag(A[:, j]), np.outer(V[j], V[j]))
    return total


def grown(v: float, f: float, kappa: float, path: float, e: float) -> tuple[float, float]:
    """`V_j` and `ε_j` of Lemma 1."""
    root = math.sqrt(kappa)
    x = root * path
    cosh_less_1, up = 2 * math.sinh(x / 2) ** 2, 1 + (64 + 16 * x) * e
    return (v * math.sinh(x) / root + f * cosh_less_1 / kappa) * up, (f * math.sinh(x) / root + v * cosh_less_1) * up


def movement(
    K: Matrix,
    square: float,
    z: Matrix,
    off: Matrix,
    sizes: tuple,
    path: float,
    slopes: tuple,
    e: float,
    allowed: tuple = (0.0, 0.0),
) -> tuple[Matrix, ...]:
    """Lemma S: caps of the slopes, movements of z, κ, V and ε, by three rounds.

    `K` bounds the kernel, `square` is `‖X‖²`, `off` bounds the errors of z, `sizes` are `‖v_j‖` and `‖φ_j‖`, and
    `slopes` are the greatest slope anywhere and the function that bounds the slopes on an interval. `allowed` are the
    allowances for underflow of κ and of roots.
    """
    (N, h), (steepest, between) = z.shape, slopes
    c = np.full((N, h), steepest)
    for _ in range(3):
        M, kappa, V, eps = np.zeros((N, h)), np.zeros(h), np.zeros(h), np.zeros(h)
        used = c.copy()
        for j in range(h):
            rows = max(c[i, j] * sum(K[i, k] * c[k, j] for k in range(N)) for i in range(N))
            kappa[j] = min(max(c[:, j]) ** 2 * square, rows) * (1 + (N + 16) * e) + allowed[0]
            V[j], eps[j] = grown(sizes[0][j], sizes[1][j], kappa[j], path, e)
            for i in range(N):
                reach = math.sqrt(sum((c[k, j] * K[i, k]) ** 2 for k in range(N))) * (1 + (N + 16) * e) + allowed[1]
                M[i, j] = reach * V[j] * (1 + 4 * e)
        for i, j in np.ndindex(N, h):
            least, greatest = between(z[i, j] - off[i, j] - M[i, j], z[i, j] + off[i, j] + M[i, j])
            c[i, j] = min(c[i, j], max(greatest, -least))
    return used, M, kappa, V, eps
