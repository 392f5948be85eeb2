"""The two arithmetics of a path: float64, and pairs of float64 for starts that magnify every disturbance.

A pair is the unevaluated sum of a number and its remainder, stored along the last axis. The operations on pairs have
a relative error below `8u²` (Joldes, Muller & Popescu 2017; the division is of the same kind).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from linflow.verified.fine import UNIT, FineGradient, loops, pair, total
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import U

FINE = 1e-8
"""Largest residue of a gradient in pairs, over that in float64, for which a path in pairs is worth its time."""


def terms(inner: int, k: int) -> int:
    """Return the most operations behind an entry of the Cauchy product `Σ_{i≤k} A_i B_{k−i}`, in any order."""
    return inner * (k + 1) + 1


class Arithmetic(Protocol):
    """The operations that the recursion for the Taylor coefficients needs."""

    unit: float
    """Relative error of one operation."""
    order: int
    """Degree of the path."""
    truncation: float
    """Fraction of `‖θ‖` that the omitted terms may add to the radius in one step."""
    rest: float
    """Relative error of the float64 part of a value."""

    def zeros(self, *shape: int) -> np.ndarray: ...  # noqa: D102
    def start(self, W: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def turned(self, series: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def cauchy(self, A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray: ...  # noqa: D102
    def times(self, A: np.ndarray, factor: float) -> np.ndarray: ...  # noqa: D102
    def over(self, A: np.ndarray, divisor: int) -> np.ndarray: ...  # noqa: D102
    def plus(self, A: np.ndarray, B: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def minus(self, A: np.ndarray, V: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def gradient(self, problem: AffineGradient) -> AffineGradient | FineGradient: ...  # noqa: D102
    def high(self, A: np.ndarray) -> np.ndarray: ...  # noqa: D102


class Float64:
    """Plain float64, with products by BLAS."""

    unit, truncation, rest = U, 1e-16, 0.0

    def __init__(self, order: int):
        self.order = order

    def zeros(self, *shape: int) -> np.ndarray:
        """Return zeros of this shape, to hold a series."""
        return np.zeros(shape)

    def start(self, W: np.ndarray) -> np.ndarray:
        """Return a float64 matrix in this arithmetic."""
        return W

    def turned(self, series: np.ndarray) -> np.ndarray:
        """Return the series of transposes, without a copy."""
        return series.transpose(0, 2, 1)

    def cauchy(self, A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray:
        """Return `Σ_{i≤k} A_i B_{k−i}`."""
        if k == 0:
            return A[0] @ B[0]
        return np.matmul(A[: k + 1], B[k::-1]).sum(axis=0)

    def times(self, A: np.ndarray, factor: float) -> np.ndarray:
        """Return A times a number."""
        return A * factor

    def over(self, A: np.ndarray, divisor: int) -> np.ndarray:
        """Return A divided by an integer."""
        return A / divisor

    def plus(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return `A + B`."""
        return A + B

    def minus(self, A: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `A − V`."""
        return A - V

    def gradient(self, problem: AffineGradient) -> AffineGradient:
        """Return the gradient as it is."""
        return problem

    def high(self, A: np.ndarray) -> np.ndarray:
        """Return the float64 part."""
        return A


class Pairs:
    """Pairs of float64, in compiled loops. They need an objective whose gradient is known to twice the digits."""

    unit, rest = UNIT, U

    def __init__(self, order: int, truncation: float):
        self.order, self.truncation = order, truncation

    def zeros(self, *shape: int) -> np.ndarray:
        """Return zeros of this shape, to hold a series."""
        return np.zeros((*shape, 2))

    def start(self, W: np.ndarray) -> np.ndarray:
        """Return a float64 matrix in this arithmetic; a matrix of pairs is returned unchanged."""
        return W if W.ndim == 3 else pair(W)

    def turned(self, series: np.ndarray) -> np.ndarray:
        """Return the series of transposes, without a copy."""
        return series.transpose(0, 2, 1, 3)

    def cauchy(self, A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray:
        """Return `Σ_{i≤k} A_i B_{k−i}`."""
        out = np.empty((A.shape[1], B.shape[2], 2))
        loops().cauchy(A, B, k, out)
        return out

    def times(self, A: np.ndarray, factor: float) -> np.ndarray:
        """Return A times a number."""
        out = np.empty(A.shape)
        loops().times(A.reshape(-1, 2), factor, out.reshape(-1, 2))
        return out

    def over(self, A: np.ndarray, divisor: int) -> np.ndarray:
        """Return A divided by an integer."""
        out = np.empty(A.shape)
        loops().over(A.reshape(-1, 2), float(divisor), out.reshape(-1, 2))
        return out

    def plus(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return `A + B`."""
        return total(A, B)

    def minus(self, A: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `A − V`."""
        return total(A, -V)

    def gradient(self, problem: AffineGradient) -> FineGradient:
        """Return the gradient in pairs."""
        assert problem.fine is not None
        return problem.fine

    def high(self, A: np.ndarray) -> np.ndarray:
        """Return the float64 part."""
        return np.ascontiguousarray(A[..., 0])

    @staticmethod
    def fits(problem: AffineGradient) -> bool:
        """Return whether the gradient of a problem is known to twice the digits and the loops can be compiled."""
        try:
            loops()
            return problem.fine is not None and problem.fine.residue <= FINE * problem.residue
        except ImportError:
            return False


DEGREES = (20, 40, 60)
"""Degrees of a path in float64. The first is the cheapest for each unit of time; the others take longer steps."""

FLOAT64, LOW = Float64(DEGREES[0]), Float64(16)
"""For most networks, and for those that are too large for Hessians: their coefficients are all that takes time."""
PAIRS, FIRST_PAIRS = Pairs(34, 1e-31), Pairs(24, 1e-22)
"""For a whole path in pairs, and for the first part of a path that goes on in float64."""
