"""Products, gradients, imbalance and the tangent operator of `W = c · W_1 W_2 ⋯ W_L`, formed explicitly."""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def pos(x: float) -> float:
    """`[x]_+ = max(x, 0)`."""
    return max(float(x), 0.0)


def lam(A: Matrix, k: int) -> float:
    """k-th largest eigenvalue of a symmetric matrix: `+∞` for k ≤ 0, `−∞` past the size (so its `[·]_+` is 0)."""
    if k <= 0:
        return np.inf
    if k > A.shape[0]:
        return -np.inf
    return _descending(A.tobytes(), A.dtype.str, A.shape[0])[k - 1]


@lru_cache(maxsize=64)
def _descending(content: bytes, kind: str, side: int) -> list[float]:
    """The eigenvalues of a symmetric matrix, largest first; formulas ask for several, at many points."""
    return np.sort(np.linalg.eigvalsh(np.frombuffer(content, kind).reshape(side, side)))[::-1].tolist()


def sigma(W: Matrix, k: int) -> float:
    """k-th largest singular value; 0 when k > min(n, m)."""
    if k > min(W.shape):
        return 0.0
    return float(np.sort(np.linalg.svd(W, compute_uv=False))[::-1][k - 1])


def spectral_norm(A: Matrix) -> float:
    """Largest singular value."""
    return sigma(A, 1)


def prefixes(weights: Sequence[Matrix]) -> list[Matrix]:
    """`[P_0, …, P_L]` with `P_l = W_1 ⋯ W_l` and `P_0 = I_n`."""
    result = [np.eye(weights[0].shape[0])]
    for W in weights:
        result.append(result[-1] @ W)
    return result


def suffixes(weights: Sequence[Matrix]) -> list[Matrix]:
    """`[S_1, …, S_{L+1}]` with `S_l = W_l ⋯ W_L` and `S_{L+1} = I_m`; `S_l` stands at index l − 1."""
    result = [np.eye(weights[-1].shape[1])]
    for W in reversed(weights):
        result.append(W @ result[-1])
    return result[::-1]


def product(weights: Sequence[Matrix], scale: float = 1.0) -> Matrix:
    """`W = c · W_1 W_2 ⋯ W_L`."""
    return scale * prefixes(weights)[-1]


def reverse(weights: Sequence[Matrix]) -> list[Matrix]:
    """The mirrored network `[W_Lᵀ, …, W_1ᵀ]`, whose product is `Wᵀ` and whose imbalances are `−D_{L−l}`."""
    return [W.T for W in reversed(weights)]


def layer_gradients(G: Matrix, weights: Sequence[Matrix], scale: float = 1.0) -> list[Matrix]:
    """Chain rule `∂L/∂W_l = c · P_{l−1}ᵀ G S_{l+1}ᵀ`, with `G = ∇f(W)` taken at the scaled product."""
    P, S = prefixes(weights), suffixes(weights)
    return [scale * P[l - 1].T @ G @ S[l].T for l in range(1, len(weights) + 1)]


def layer_gradients_numerical(
    f: Callable[[Matrix], float], weights: Sequence[Matrix], scale: float = 1.0, step: float = 1e-5
) -> list[Matrix]:
    """Central differences of `f(c · W_1 ⋯ W_L)` in every entry of every layer."""
    gradients = []
    for l, W in enumerate(weights):
        gradient = np.zeros(W.shape)
        for i in range(W.shape[0]):
            for j in range(W.shape[1]):
                values = []
                for sign in (1.0, -1.0):
                    moved = [V.copy() for V in weights]
                    moved[l][i, j] += sign * step
                    values.append(f(product(moved, scale)))
                gradient[i, j] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def imbalance_matrices(weights: Sequence[Matrix]) -> list[Matrix]:
    """`D_l = W_lᵀ W_l − W_{l+1} W_{l+1}ᵀ` for l = 1..L−1; the scale does not enter."""
    return [A.T @ A - B @ B.T for A, B in itertools.pairwise(weights)]


def tangent_apply(E: Matrix, weights: Sequence[Matrix], scale: float = 1.0) -> Matrix:
    """`T(E) = c² Σ_l P_{l−1} P_{l−1}ᵀ E S_{l+1}ᵀ S_{l+1}`."""
    P, S = prefixes(weights), suffixes(weights)
    result = np.zeros(E.shape)
    for l in range(1, len(weights) + 1):
        result = result + P[l - 1] @ P[l - 1].T @ E @ S[l].T @ S[l]
    return scale**2 * result


def tangent_dense(weights: Sequence[Matrix], scale: float = 1.0, trained: Sequence[bool] | None = None) -> Matrix:
    """`T = c² Σ_l (P_{l−1} P_{l−1}ᵀ) ⊗ (S_{l+1}ᵀ S_{l+1})`, l trained, acting on the row-major `vec(E)`."""
    P, S = prefixes(weights), suffixes(weights)
    size = weights[0].shape[0] * weights[-1].shape[1]
    result = np.zeros((size, size))
    for l in range(1, len(weights) + 1):
        if trained is None or trained[l - 1]:
            result = result + np.kron(P[l - 1] @ P[l - 1].T, S[l].T @ S[l])
    return scale**2 * result


def tangent_numerical(weights: Sequence[Matrix], scale: float = 1.0) -> Matrix:
    """`T = J Jᵀ`, J the Jacobian of row-major `vec(W)` in all weights, one column at a time.

    The product is linear in each layer, so `∂W/∂(W_l)_ij` is exactly the product with `W_l` replaced by the unit
    matrix `E_ij`: the difference made by adding 1 to that entry, without its cancellation.
    """
    columns = []
    for l, W in enumerate(weights):
        for i in range(W.shape[0]):
            for j in range(W.shape[1]):
                unit = np.zeros(W.shape)
                unit[i, j] = 1.0
                moved = [*weights[:l], unit, *weights[l + 1 :]]
                columns.append(product(moved, scale).reshape(-1))
    J = np.stack(columns, axis=1)
    return J @ J.T


def least_tangent_eigenvalue(weights: Sequence[Matrix], scale: float = 1.0) -> float:
    """`λ_min(T)` from the dense matrix."""
    T = tangent_dense(weights, scale)
    return lam(T, T.shape[0])
