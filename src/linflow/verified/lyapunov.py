"""A metric in which no step of a descent with momentum lets an error grow.

One step maps the error of weights and velocity by `M = [[I − aH, −bI], [cH, μI]]`. With
`S_k ≈ M_kᵀ S_{k+1} M_k + ω_k I`, backwards from the last step, `‖M_k y‖_{S_{k+1}} ≤ ‖y‖_{S_k}`. No property of the
computed S is trusted: only the rounding of that equation counts. Proofs: docs/verified.md, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linflow.verified.rounding import TINY, UP, U, frobenius, gamma

SPREAD = 1e-6
"""The metric gives each direction at least this fraction of the weight of the heaviest one."""


@dataclass(frozen=True)
class Factors:
    """The numbers of `M = [[I − aH, −bI], [cH, μI]]` for the error of `(θ, cv)`. a and b are off by at most 4u.

    The step is `v ← μv + ∇L`, `θ ← θ − ηv`, or in Nesterov's form `θ ← θ − η(∇L + μv)`. c is a power of two.
    """

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    mu: float = 0.0

    @classmethod
    def of(cls, eta: float, mu: float, nesterov: bool, unit: float) -> Factors:
        """Return the factors of a step η, for velocities in units of 1/`unit`."""
        return (
            cls(eta * (1 + mu), eta * mu * mu / unit, unit, mu) if nesterov else cls(eta, eta * mu / unit, unit, mu)
        )

    def off(self, h: float, error: float) -> float:
        """Return a bound of `‖M − M(H)‖` for every Hessian within `error` of H, with `h ≥ ‖H‖`."""
        return (np.hypot(self.a, self.c) * UP * error + 4 * U * (self.a * (h + error) + self.b)) * UP


@dataclass(frozen=True)
class Metric:
    """The symmetric matrix `S = [[A, B], [Bᵀ, C]]`, as computed.

    Attributes:
        A, B, C: its blocks, of shape `(N, N)`; A and C are symmetric to the last bit.
        floor: ω.
        error: bound of `‖S − MᵀS'M − ωI‖` for the metric S' after the step.
    """

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    floor: float = 1.0
    error: float = 0.0

    @classmethod
    def euclidean(cls, size: int) -> Metric:
        """Return the identity."""
        return cls(np.eye(size), np.zeros((size, size)), np.eye(size))

    @property
    def least(self) -> float:
        """Lower bound of `λ_min(S)`, and of what a step takes from `‖y‖²_S` for each `‖y‖²`; at most 0 if unknown."""
        return self.floor - self.error - 4 * U * self.floor

    @property
    def norm(self) -> float:
        """Upper bound of `‖S‖₂`: the lesser of the largest sum of a row and the Frobenius norm."""
        A, B, C = self.A, self.B, self.C
        top = float((np.abs(A).sum(axis=1) + np.abs(B).sum(axis=1)).max())
        bottom = float((np.abs(B).sum(axis=0) + np.abs(C).sum(axis=1)).max())
        a, b, c = (float(frobenius(X)) for X in (A, B, C))
        rows = max(top, bottom) * (1 + gamma(2 * len(A) + 2))
        return min(rows, float(np.sqrt(a * a + 2 * b * b + c * c)) * UP) + TINY

    def before(self, H: np.ndarray, factors: Factors, norm: float) -> Metric:
        """Return the metric one step earlier, where the Hessian is H. `norm` is that of this metric."""
        A, B, C = self.A, self.B, self.C
        a, b, c, mu = factors.a, factors.b, factors.c, factors.mu
        floor = max(1.0, SPREAD * norm)
        both = B + B.T
        F = c * B.T - a * A
        T = F + 0.5 * ((a * (a * A - c * both) + (c * c) * C) @ H)
        turned = H @ T
        first = A + (turned + turned.T)
        X, Y = mu * B - b * A, mu * C - b * B.T
        cross = X + H @ (c * Y - a * X)
        last = b * (b * A - mu * both) + (mu * mu) * C
        for block in (first, last):
            block.flat[:: len(H) + 1] += floor
        return Metric(first, cross, last, floor, self._rounding(H, factors, floor))

    def _rounding(self, H: np.ndarray, factors: Factors, floor: float) -> float:
        """Return `γ` times the norm of the sum of all terms of `MᵀSM + ωI` in absolute value.

        Each term passes through at most 2N + 16 operations.
        """
        a, b, c, mu = factors.a, factors.b, factors.c, factors.mu
        A, B, C, h = (float(frobenius(X)) for X in (self.A, self.B, self.C, H))
        kept, turned = 1 + a * h, c * h
        first = kept * kept * A + 2 * kept * turned * B + turned * turned * C
        cross = kept * (b * A + mu * B) + turned * (b * B + mu * C)
        last = b * b * A + 2 * b * mu * B + mu * mu * C
        return gamma(2 * len(H) + 16) * (first + cross + last + floor) * UP + TINY
