"""Exponential and logistic loss in a verified run: their gradient with proved errors, and bounds of the loss.

`f(W) = Σ_ij φ(z_ij)`, `z_ij = y_ij ⟨w_j, x_i⟩`. For both, `0 < φ'' ≤ |φ'| ≤ φ` and `|φ'''| ≤ φ''`. If z moves by d,
`|φ'|` changes at most by the factor `e^d`. Proofs: docs/verified.md, section 11.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support.arrays import is_numpy, to_numpy
from linflow.model.classification import ExponentialLoss, ExponentialTail
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral

EXP = 32 * U
"""Relative error allowed for `exp`, `log1p` and the few operations around them, all together."""

LARGEST_TURN = 1.5
"""Largest imaginary part of z, below π/2, at which `|φ'|` of the logistic loss is bounded."""


@dataclass(frozen=True)
class TailGradient:
    """`∇f(W) = −Xᵀ(Y ∘ |φ'(Z)|)` of an exponential or a logistic loss.

    Attributes:
        X: inputs, shape `(N, n)`.
        Y: labels ±1, shape `(N, m)`.
        exponential: whether φ is `e^{−z}`; otherwise it is `log(1 + e^{−z})`.
        notes: what a reader must know about the problem.
    """

    X: np.ndarray
    Y: np.ndarray
    exponential: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, objective: ExponentialTail) -> TailGradient:
        """Return the gradient of an objective."""
        X, Y = (
            np.ascontiguousarray(A if is_numpy(A) else to_numpy(A), dtype=np.float64)
            for A in (objective._X, objective._Y)
        )
        return cls(X, Y, isinstance(objective, ExponentialLoss))

    @cached_property
    def V(self) -> np.ndarray:
        """The matrix from which W is measured: 0."""
        return np.zeros((self.X.shape[1], self.Y.shape[1]))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Upper bounds of `‖x_i‖`, shape `(N,)`."""
        return frobenius(self.X[:, None, :])

    @cached_property
    def norm(self) -> float:
        """Upper bound of `‖X‖₂`."""
        return spectral(self.X)

    def signed(self, W: np.ndarray) -> np.ndarray:
        """Return the computed `Z` for a matrix W or a stack of matrices."""
        return self.Y * (self.X @ W)

    def rounding(self, size: np.ndarray | float) -> np.ndarray:
        """Return a bound of the rounding of each row of Z for `‖W‖_F ≤ size`, shape `(…, N)`."""
        return gamma(self.X.shape[1]) * self.lengths * np.asarray(size)[..., None] * UP + TINY

    def slopes(self, Z: np.ndarray) -> np.ndarray:
        """Return the computed `|φ'(Z)|`."""
        with np.errstate(over="ignore", under="ignore"):
            if self.exponential:
                return np.exp(-Z)
            e = np.exp(-np.abs(Z))
            return np.where(Z < 0, 1.0, e) / (1 + e)

    def most(self, Z: np.ndarray, off: np.ndarray) -> np.ndarray:
        """Return upper bounds of `|φ'(z)|` for all real z within `off` of Z, with one `off` per row.

        They also bound φ''. They hold for complex z too, if the real part is within `off` and the imaginary part is
        below π/2: there `|1 + e^z|² ≥ 1 + e^{2 Re z}`.
        """
        lowest = Z - off[:, None]
        lowest = lowest - 4 * U * (np.abs(Z) + off[:, None])
        with np.errstate(over="ignore", under="ignore"):
            e = np.exp(-lowest)
            bound = e if self.exponential else np.minimum(1.0, e)
        return bound * (1 + EXP) + TINY

    def value(self, W: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of `f` at all weights within `error` of W in Frobenius norm."""
        off = (self.rounding(float(frobenius(W))) + self.lengths * error) * UP
        Z = self.signed(W)
        sums = [float(np.sum(self._losses(Z + sign * off[:, None]))) for sign in (1.0, -1.0)]
        slack = gamma(Z.size + 4) + EXP + 4 * U
        # The rounding of Z ± off adds a relative error of the loss, proportional to |z|.
        moved = float(np.expm1(2 * U * (np.abs(Z).max() + off.max()))) * UP
        low = sums[0] * (1 - slack - moved) * (1 - 1e-15) - TINY
        # If the loss overflows float64, the lower bound 0 is returned: no target is a fraction of infinity.
        return (max(0.0, low) if low < math.inf else 0.0), sums[1] * (1 + slack + moved) * UP + TINY

    def _losses(self, Z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            if self.exponential:
                return np.exp(-Z)
            return np.log1p(np.exp(-np.abs(Z))) + np.maximum(-Z, 0.0)

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of the loss gap, like `AffineGradient.gap`. The minimum of the loss is 0."""
        return self.value(E, error)

    def apply(self, W: np.ndarray) -> np.ndarray:
        """Return the computed `∇f(W)`."""
        return -(self.X.T @ (self.Y * self.slopes(self.signed(W))))

    def gradient(self, W: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the `∇f` computed from W, and a bound of its Frobenius distance to `∇f` at the exact product.

        Args:
            W: the computed product, or a stack of computed products.
            off: upper bound of the Frobenius distance of each W to its exact product.
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            Z = self.signed(W)
            A = self.slopes(Z)
            rows = np.sqrt(np.sum(A * A, axis=-1)) * UP + TINY
            # |φ'| changes at most by the factor e^d; exp adds its own rounding.
            moved = self.lengths * np.asarray(off)[..., None] + self.rounding(frobenius(W))
            relative = np.expm1(moved * UP) * (1 + EXP) + EXP
            weighted = self.lengths * rows
            errors = np.sum(weighted * relative, axis=-1) + gamma(self.X.shape[0] + 1) * np.sum(weighted, axis=-1)
            return -(self.X.T @ (self.Y * A)), errors * UP * UP + TINY

    def loss_gradient(
        self, weights: list[np.ndarray], off: np.ndarray, c: float
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Return the computed `G = c∇f(cW_1 ⋯ W_L)` and `∇_l L = P_{l−1}ᵀ G S_{l+1}ᵀ`, each with its error.

        Args:
            weights: the layers, or stacks of layers.
            off: upper bounds of the distances of the exact layers to `weights`, shape `(L, …)`.
            c: output scale.

        Returns:
            G, its error, the gradients and their errors. Errors are in the Frobenius norm.
        """
        P, S = products(weights)
        sizes = [frobenius(W) for W in weights]
        whole = c * product(sizes)
        W_error = (c * grown(sizes, off) + (gamma(sides(weights)) + 2 * U) * whole) * UP
        G, error = self.gradient(c * P[-1], W_error)
        G, G_error = c * G, c * (error + 2 * U * frobenius(G)) * UP
        length, gradients, errors = frobenius(G), [], []
        for l in range(len(weights)):
            part = G if l == 0 else np.swapaxes(P[l - 1], -1, -2) @ G
            gradients.append(part if l == len(weights) - 1 else part @ np.swapaxes(S[l + 1], -1, -2))
            others, moved = sizes[:l] + sizes[l + 1 :], np.delete(off, l, axis=0)
            rest, more = product(others), grown(others, moved)
            errors.append((G_error * (rest + more) + length * (more + gamma(sides(weights)) * rest)) * UP)
        return G, G_error, gradients, errors

    def sizes(self, Z: np.ndarray, off: np.ndarray) -> tuple[float, float]:
        """Return upper bounds of `‖∇f‖_F` and `‖∇²f‖` that hold if each row of z is within `off` of Z.

        `‖∇f‖_F ≤ Σ_i ‖x_i‖ ‖φ'(z_i)‖`, and `‖∇²f‖` is at most both `Σ_i ‖x_i‖² max_j φ''(z_ij)` and
        `‖X‖² max φ''`. The first bound holds for complex z too.
        """
        bound = self.most(Z, off)
        slope = float(np.sum(self.lengths * np.sqrt(np.sum(bound * bound, axis=1)))) * UP
        per = bound.max(axis=1) if self.exponential else np.minimum(bound.max(axis=1), 0.25)
        curvature = min(float(np.sum(self.lengths**2 * per)), self.norm * self.norm * float(per.max())) * UP
        return slope, curvature


def products(weights: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return `W_1 ⋯ W_l` and `W_l ⋯ W_L` for every l."""
    P = list(itertools.accumulate(weights, np.matmul))
    S = list(itertools.accumulate(reversed(weights), lambda after, W: W @ after))[::-1]
    return P, S


def sides(weights: list[np.ndarray]) -> int:
    """Return an upper bound of the number of operations behind each entry of a product of layers."""
    return sum(W.shape[-2] + W.shape[-1] for W in weights) + len(weights)


def product(sizes: list) -> Any:
    """Return the product of norms, or 1 if there are none."""
    return math.prod(sizes, start=1.0) * UP


def grown(sizes: list, errors: Any) -> Any:
    """Return a bound of how far a product moves if its factors, of norms `sizes`, move by `errors`.

    The bound is `Π(x + e) − Πx`. It is summed over the first factor that moves, so that small errors are not lost.
    """
    total, before = 0.0, 1.0
    for k, (x, e) in enumerate(zip(sizes, errors, strict=True)):
        after = math.prod((v + d for v, d in zip(sizes[k + 1 :], errors[k + 1 :], strict=True)), start=1.0)
        total = total + before * e * after
        before = before * x
    return total * UP
