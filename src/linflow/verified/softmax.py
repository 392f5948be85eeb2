"""Softmax cross-entropy in a verified run: bounds of its value, its gradient and its curvature.

Proofs: docs/losses.md, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import Array, to_numpy
from linflow.model.softmax import SoftmaxLoss
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma
from linflow.verified.rows import RowsGradient

EXP = 32 * U
"""Relative error allowed for `exp`, `log`, `log1p` and the few operations around them, all together."""


@dataclass(frozen=True)
class SoftmaxGradient(RowsGradient):
    """The gradient of a softmax loss, with constants and errors that are proved, not declared."""

    @classmethod
    def over(cls, objective: SoftmaxLoss, like: Array) -> SoftmaxGradient:
        """Return the gradient of an objective."""
        return cls(objective, like)

    @property
    def _loss(self) -> SoftmaxLoss:
        assert isinstance(self.objective, SoftmaxLoss)
        return self.objective

    @cached_property
    def _inputs(self) -> np.ndarray:
        return to_numpy(self._loss.inputs)

    @property
    def smoothness(self) -> float:
        """Upper bound of `K = ‖X‖²/2`, over N for the mean."""
        return 0.5 * self._norm * self._norm * self._loss.share * UP

    @property
    def hessian_lipschitz(self) -> float:
        """Upper bound of `H = √2 K max_i ‖x_i‖`."""
        return math.sqrt(2) * self.smoothness * float(self._lengths.max()) * UP

    @property
    def least(self) -> float:
        """0: there is no gradient dominance."""
        return 0.0

    def _moved(self, W: np.ndarray) -> np.ndarray:
        """Return a bound of the error of each difference of two scores and of its exponent, as a column."""
        return (2 * gamma(W.shape[0]) + 16 * U) * self._lengths * float(frobenius(W)) * UP + TINY

    def value_error(self, W: Array) -> float:
        """Return a bound of `|computed f(W) − f(W)|`."""
        losses, _, _ = (to_numpy(part) for part in self._loss.odds(W))
        relative = 2 * np.expm1(self._moved(to_numpy(W))) + 4 * (gamma(losses.shape[0] + W.shape[1] + 4) + EXP)
        return float(np.sum(losses * relative)) * self._loss.share * UP + TINY

    def gradient_error(self, W: Array) -> float:
        """Return a bound of `‖computed ∇f(W) − ∇f(W)‖_F`."""
        _, p, missed = (to_numpy(part) for part in self._loss.odds(W))
        relative = np.expm1(2 * self._moved(to_numpy(W))) + 2 * (gamma(p.shape[1] + 4) + EXP) + gamma(len(p) + 4)
        error = float(np.sum(self._lengths * missed * relative * (1 + relative)))
        return math.sqrt(2) * error * self._loss.share * UP + TINY

    def at(self, W: np.ndarray, error: float) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return upper bounds of `‖∇f‖_F` and f at the exact product."""
        G, off = self.gradient(W, error)
        return (float(frobenius(G)) + float(off)) * UP, self.gap(W, error)[1]

    def around(self, state: tuple[float, float], moved: float) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return upper bounds of `‖∇f‖_F` and `‖∇²f‖` at all products within `moved` of that of `at`.

        With `R = max_i ‖x_i‖`, `‖∇f‖_F ≤ √2 R f` and `‖∇²f‖ ≤ 2R² f` on each level of f.
        """
        slope, value = state
        K, R = self.smoothness, float(self._lengths.max())
        value = (value + slope * moved + 0.5 * K * moved * moved) * UP
        return min((slope + K * moved) * UP, math.sqrt(2) * R * value * UP), min(K, 2 * R * R * value * UP)
