"""The operator T that turns the gradient of the objective into the motion of the product."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._arrays import Array, device, eigenvalues, from_numpy, namespace, to_numpy
from linflow.network import Network

DENSE_LIMIT = 900
"""Largest `nm` for which eigenvalues of T are found from its dense matrix."""


class TangentOperator:
    """`T(E) = c² Σ_l P_{l-1}P_{l-1}ᵀ E S_{l+1}ᵀS_{l+1}` on `R^{n×m}`, symmetric positive semidefinite.

    Along the gradient flow `Ẇ = −T ∇f(W)` and `dL/dt = −⟨T ∇f, ∇f⟩`; `λ_min(T)` times the constant `γ` bounds the
    instantaneous rate from below. For linear networks T is the neural tangent kernel.

    Args:
        network: a `Network` or its weights.

    Example:
        >>> import numpy as np, linflow as lf
        >>> T = lf.TangentOperator([np.diag([2.0, 1.0]), np.ones((2, 1))])
        >>> float(T.least_eigenvalue()), T.dense().shape
        (3.0, (2, 2))
    """

    def __init__(self, network: Network | Sequence[Any]):
        net = Network.of(network)
        self.shape = net.shape
        # Gram matrices of the prefixes (n×n) and suffixes (m×m); None stands for the identity.
        lefts = [None if P is None else P @ P.T for P in net.prefixes()]
        rights = [None if S is None else S.T @ S for S in net.suffixes()]
        self._scale = net.scale**2
        self._terms: list[tuple[Array, Array]] = list(zip(lefts, rights, strict=True))
        self._like = net.weights[0]

    @property
    def _two_term(self) -> tuple[Array, Array]:
        """The Gram matrices of the last and first terms, `P_{L-1}P_{L-1}ᵀ` and `S_2ᵀS_2`."""
        return self._terms[-1][0], self._terms[0][1]

    def apply(self, E: Array) -> Array:
        """Return `T(E)` for `E` of shape `(n, m)`, or a stack of shape `(…, n, m)`."""
        if tuple(E.shape[-2:]) != self.shape:
            raise ValueError(
                f"E has shape {tuple(E.shape)}; T acts on matrices of shape {self.shape} or stacks of them."
            )
        total: Array = None
        for A, B in self._terms:
            term = E if A is None else A @ E
            term = term if B is None else term @ B
            total = term if total is None else total + term
        return self._scale * total

    def dense(self) -> Array:
        """Return the `nm × nm` matrix `c² Σ_l (P_{l-1}P_{l-1}ᵀ) ⊗ (S_{l+1}ᵀS_{l+1})` for row-major `vec(E)`."""
        n, m = self.shape
        xp = namespace(self._like)
        basis = xp.eye(n * m, dtype=xp.float64, device=device(self._like))
        return xp.reshape(self.apply(xp.reshape(basis, (n * m, n, m))), (n * m, n * m))

    def least_eigenvalue(self) -> Array:
        """Return `λ_min(T)`; exactly `c²(λ_n(W_1W_1ᵀ) + λ_m(W_2ᵀW_2))` for two layers."""
        return self._extreme(largest=False)

    def greatest_eigenvalue(self) -> Array:
        """Return `λ_max(T)`; exactly `c²(λ_1(W_1W_1ᵀ) + λ_1(W_2ᵀW_2))` for two layers."""
        return self._extreme(largest=True)

    def _extreme(self, *, largest: bool) -> Array:
        n, m = self.shape
        at = 0 if largest else -1
        if len(self._terms) == 1:
            return self._like[0, 0] * 0.0 + self._scale
        if len(self._terms) == 2:
            left, right = self._two_term
            return self._scale * (eigenvalues(left)[at] + eigenvalues(right)[at])
        if n * m <= DENSE_LIMIT:
            return eigenvalues(self.dense())[at]
        return from_numpy(np.asarray(self._iterative(largest=largest)), self._like)

    def _iterative(self, *, largest: bool) -> float:
        """LOBPCG preconditioned by the exactly solvable first and last terms."""
        from scipy.sparse.linalg import lobpcg  # noqa: PLC0415 - slow to import, seldom needed

        n, m = self.shape
        left, right = (to_numpy(gram) for gram in self._two_term)

        def apply(x: np.ndarray) -> np.ndarray:
            E = from_numpy(x.T.reshape(-1, n, m), self._like)
            return to_numpy(self.apply(E)).reshape(-1, n * m).T / self._scale

        a, U = np.linalg.eigh(left)
        b, V = np.linalg.eigh(right)
        sums = a[:, None] + b[None, :]
        size = float(sums.max())
        order = np.argsort(sums, axis=None)
        block = min(8, n * m // 5)
        chosen = order[-block:] if largest else order[:block]
        start = np.stack([np.outer(U[:, i // m], V[:, i % m]).ravel() for i in chosen], axis=1)
        floor = max(size * 1e-12, np.finfo(float).tiny)

        def precondition(x: np.ndarray) -> np.ndarray:
            E = U.T @ x.T.reshape(-1, n, m) @ V
            return (U @ (E / np.maximum(sums, floor)) @ V.T).reshape(-1, n * m).T

        tolerance = 1e-9 * size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # non-convergence is judged by the residual below
            values, vectors, *_ = lobpcg(
                apply, start, M=None if largest else precondition, largest=largest, tol=tolerance, maxiter=500
            )
        best = int(np.argmax(values) if largest else np.argmin(values))
        residual = float(np.linalg.norm(apply(vectors[:, [best]]) - values[best] * vectors[:, [best]]))
        if residual > 100 * tolerance:
            raise RuntimeError(
                f"the {'greatest' if largest else 'least'} eigenvalue of T ({n}×{m}) did not converge: residual "
                f"{residual:.2g} where {tolerance:.2g} is needed. The weights are nearly singular; for a "
                "lower bound use linflow.bounds.best."
            )
        return self._scale * float(values[best])
