"""Exponential and logistic loss in a verified run: their gradient with proved errors, and bounds of the loss.

`f(W) = Σ_ij φ(z_ij)`, `z_ij = y_ij ⟨w_j, x_i⟩`. For both, `0 < φ'' ≤ |φ'| ≤ φ` and `|φ'''| ≤ φ''`. If z moves by d,
`|φ'|` changes at most by the factor `e^d`. Proofs: docs/verified.md, section 11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import is_numpy, to_numpy
from linflow.model.classification import ExponentialLoss, ExponentialTail
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, known, spectral
from linflow.verified.smooth import ConvexGradient

EXP = 32 * U
"""Relative error allowed for `exp`, `log1p` and the few operations around them, all together."""

LARGEST_TURN = 1.5
"""Largest imaginary part of z, below π/2, at which `|φ'|` of the logistic loss is bounded."""


@dataclass(frozen=True)
class TailGradient(ConvexGradient):
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
        low = sums[0] * (1 - slack - moved) / UP - TINY
        # If the loss overflows float64, the lower bound 0 is returned: no target is a fraction of infinity.
        return known(max(0.0, low) if low < math.inf else 0.0, sums[1] * (1 + slack + moved) * UP + TINY)

    def _losses(self, Z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            if self.exponential:
                return np.exp(-Z)
            return np.log1p(np.exp(-np.abs(Z))) + np.maximum(-Z, 0.0)

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of the loss gap, like `AffineGradient.gap`. The minimum of the loss is 0."""
        return self.value(E, error)

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

    def at(self, W: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the computed Z of a product, and a bound of the distance of each row to the exact one."""
        off = self.rounding(float(frobenius(W))) + self.lengths * error
        return self.signed(W), off * UP

    def around(self, state: tuple[np.ndarray, np.ndarray], moved: float) -> tuple[float, float]:
        """Return upper bounds of `‖∇f‖_F` and `‖∇²f‖` at all products within `moved` of that of `at`."""
        Z, off = state
        return self.sizes(Z, off + self.lengths * moved * UP)

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
