"""The two arithmetics of a path: float64, and pairs of float64 for starts that magnify every disturbance.

A pair is the unevaluated sum of a number and its remainder, stored along the last axis. The operations on pairs have
a relative error below `8u²` (Joldes, Muller & Popescu 2017; the division is of the same kind).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np

from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import U


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

    def terms(self, inner: int, k: int) -> int: ...  # noqa: D102
    def zeros(self, *shape: int) -> np.ndarray: ...  # noqa: D102
    def start(self, W: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def turned(self, series: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def cauchy(self, A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray: ...  # noqa: D102
    def times(self, A: np.ndarray, factor: float) -> np.ndarray: ...  # noqa: D102
    def over(self, A: np.ndarray, divisor: int) -> np.ndarray: ...  # noqa: D102
    def plus(self, A: np.ndarray, B: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def minus(self, A: np.ndarray, V: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def apply(self, problem: AffineGradient, E: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def high(self, A: np.ndarray) -> np.ndarray: ...  # noqa: D102


class Float64:
    """Plain float64, with products by BLAS."""

    unit, order, truncation, rest = U, 20, 1e-16, 0.0

    def terms(self, inner: int, k: int) -> int:
        """Return the number of operations behind each entry of a Cauchy product."""
        return inner + k + 1

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
        """Return `A − V` for a float64 matrix V."""
        return A - V

    def apply(self, problem: AffineGradient, E: np.ndarray) -> np.ndarray:
        """Return `A E B`."""
        return problem.apply(E)

    def high(self, A: np.ndarray) -> np.ndarray:
        """Return the float64 part."""
        return A


class Pairs:
    """Pairs of float64, in compiled loops. They need an objective whose gradient has no error of its own."""

    unit, order, truncation, rest = 8 * U * U, 34, 1e-31, U

    def terms(self, inner: int, k: int) -> int:
        """Return the number of operations behind each entry of a Cauchy product."""
        return inner * (k + 1) + 1

    def zeros(self, *shape: int) -> np.ndarray:
        """Return zeros of this shape, to hold a series."""
        return np.zeros((*shape, 2))

    def start(self, W: np.ndarray) -> np.ndarray:
        """Return a float64 matrix in this arithmetic; a matrix of pairs is returned unchanged."""
        return W if W.ndim == 3 else np.stack([W, np.zeros_like(W)], axis=-1)

    def turned(self, series: np.ndarray) -> np.ndarray:
        """Return the series of transposes, without a copy."""
        return series.transpose(0, 2, 1, 3)

    def cauchy(self, A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray:
        """Return `Σ_{i≤k} A_i B_{k−i}`."""
        out = np.empty((A.shape[1], B.shape[2], 2))
        _loops().cauchy(A, B, k, out)
        return out

    def times(self, A: np.ndarray, factor: float) -> np.ndarray:
        """Return A times a number."""
        out = np.empty(A.shape)
        _loops().times(A.reshape(-1, 2), factor, out.reshape(-1, 2))
        return out

    def over(self, A: np.ndarray, divisor: int) -> np.ndarray:
        """Return A divided by an integer."""
        out = np.empty(A.shape)
        _loops().over(A.reshape(-1, 2), float(divisor), out.reshape(-1, 2))
        return out

    def plus(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return `A + B`."""
        out = np.empty(A.shape)
        _loops().plus(A.reshape(-1, 2), B.reshape(-1, 2), out.reshape(-1, 2))
        return out

    def minus(self, A: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `A − V` for a float64 matrix V."""
        return self.plus(A, np.stack([-V, np.zeros_like(V)], axis=-1))

    def apply(self, problem: AffineGradient, E: np.ndarray) -> np.ndarray:
        """Return E, which is the gradient of a matrix factorization."""
        return E

    def high(self, A: np.ndarray) -> np.ndarray:
        """Return the float64 part."""
        return np.ascontiguousarray(A[..., 0])

    @staticmethod
    def fits(problem: AffineGradient) -> bool:
        """Return whether the gradient of a problem is known to twice the digits and the loops can be compiled."""
        if problem.A is not None or problem.B is not None or problem.residue > 0:
            return False
        try:
            _loops()
        except ImportError:
            return False
        return True


@cache
def _loops() -> Any:
    from linflow.verified import _pairs  # noqa: PLC0415 - numba is slow to import

    return _pairs


FLOAT64, PAIRS = Float64(), Pairs()
