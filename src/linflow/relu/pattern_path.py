"""Taylor series of the flow on one pattern, with a proved bound of the defect of the computed polynomial.

On a pattern `φ_ij = a_ij x_iᵀu_j` with constant slopes, so the field is a polynomial of degree 3 in U and V. A pair
that slides has no `φ`, and its force on the neuron is a series of its own, which keeps `x_iᵀu_j` at 0. Proofs:
docs/relu_verified.md, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow.relu.network import Network
from linflow.relu.pieces import ON, SLIDING, Field, Pattern
from linflow.relu.problem import Regression
from linflow.verified.arithmetic import FLOAT64
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral
from linflow.verified.taylor import MatrixSeries, PolynomialPath, convolved, extended, head_of, multiplied, sum_of


@dataclass(frozen=True)
class Data:
    """The inputs and targets of a verified run, with upper bounds of their sizes.

    Attributes:
        problem: the regression.
        start: the network at the start.
    """

    problem: Regression
    start: Network

    @cached_property
    def field(self) -> Field:
        """The flow of the network on a pattern, as computed by `gradient_flow`."""
        return Field(self.problem, self.start, self.start.slope)

    @property
    def X(self) -> np.ndarray:
        """The inputs, with a column of ones if there is a bias, shape `(N, d)`."""
        return self.field.X

    @property
    def slope(self) -> float:
        """The slope of σ left of 0."""
        return self.start.slope

    @cached_property
    def lengths(self) -> np.ndarray:
        """Upper bounds of `‖x_i‖`, shape `(N,)`."""
        return np.sqrt(np.sum(self.X**2, axis=1)) * (1 + gamma(self.X.shape[1] + 4)) + TINY

    @cached_property
    def norm(self) -> float:
        """Upper bound of `‖X‖₂`."""
        return spectral(self.X)

    @cached_property
    def void(self) -> np.ndarray:
        """Pairs whose `x_iᵀu_j` is 0 for ever: `x_i` is 0, or the whole neuron is. Shape `(N, h)`."""
        dead = ~(self.start.extended.any(axis=0) | self.start.V.any(axis=1))
        return np.logical_or.outer(~self.X.any(axis=1), dead)

    def preactivation_error(self, layer: np.ndarray) -> np.ndarray:
        """Return upper bounds of the rounding of each `x_iᵀu_j`."""
        return gamma(self.X.shape[1] + 1) * (np.abs(self.X) @ np.abs(layer)) * UP + TINY

    def residual(self, layers: list[np.ndarray], off: tuple[float, float]) -> tuple[np.ndarray, float]:
        """Return the computed `σ(XU)V − Y`, and a bound of its error for layers within `off` of these."""
        first, V = layers
        features = self.start.activate(self.X @ first)
        rounded = float(frobenius(self.preactivation_error(first))) + U * float(frobenius(features))
        moved = (self.norm * off[0] + rounded) * UP
        outputs = features @ V
        size = float(frobenius(np.abs(features) @ np.abs(V)))
        R = outputs - self.problem.Y
        error = moved * (spectral(V) + off[1]) + spectral(features) * off[1]
        error += gamma(V.shape[0] + 1) * size + U * float(frobenius(R))
        return R, error * UP + TINY

    def loss(self, layers: list[np.ndarray], off: tuple[float, float], radius: float) -> tuple[float, float]:
        """Return bounds of the loss at all weights within the radius of layers that are within `off` of these.

        R moves by at most `√(‖X‖²‖V‖² + ‖Φ‖²) ρ + ½‖X‖ρ²`: σ is 1-Lipschitz, whatever the pattern.
        """
        R, error = self.residual(layers, off)
        size = float(np.linalg.norm(R))
        features = float(frobenius(self.start.activate(self.X @ layers[0]))) * (1 + gamma(self.X.shape[1] + 4))
        features += float(frobenius(self.preactivation_error(layers[0]))) + self.norm * off[0]
        second = float(frobenius(layers[1])) + off[1]
        moved = math.hypot(self.norm * second, features) * radius + 0.5 * self.norm * radius**2
        away = (error + moved + gamma(R.size + 4) * size) * UP
        low = max(0.0, size - away) * (1 - 2 * U)
        return 0.5 * low * low * (1 - 4 * U), 0.5 * (size + away) ** 2 * (1 + 8 * U)


class PatternPath(PolynomialPath):
    """The path over one step on a pattern, with all its bounds.

    Attributes:
        data: inputs and targets.
        pattern: how each neuron stands to each sample.
        z: coefficients of `x_iᵀu_j`, shape `(p + 1, N, h)`, each off by at most `z_error`.
        pulls: coefficients of `(R v_j)_i`, shape `(p, N, h)`, off by at most `pull_error`, in norm over all pairs.
        forces: coefficients of the forces of the sliding pairs, exact, shape `(p, N, h)`; 0 for the others.
        features, residual, pulled: upper bounds of the norms of all coefficients of `Φ`, `R` and `RVᵀ`.
    """

    def __init__(self, data: Data, pattern: Pattern, layers: list[np.ndarray], tau: float, order: int | None = None):
        self.data, self.pattern, self.tau, self.arithmetic = data, pattern, tau, FLOAT64
        p = self.order = FLOAT64.order if order is None else order
        X, Y, a, (N, h) = data.X, data.problem.Y, pattern.slopes, pattern.sides.shape
        first, second = np.zeros((p + 1, *layers[0].shape)), np.zeros((p + 1, *layers[1].shape))
        first[0], second[0] = layers
        F, R, Q = np.zeros((p, N, h)), np.zeros((p, N, Y.shape[1])), np.zeros((p, N, h))
        self.forces = np.zeros((p, N, h))
        balances = [(j, S, _balance(X, S)) for j, S in pattern.sliding]
        cauchy, turned = FLOAT64.cauchy, FLOAT64.turned(second)
        for k in range(p):
            F[k] = a * (X @ first[k])
            R[k] = cauchy(F, second, k) - (Y if k == 0 else 0.0)
            Q[k] = cauchy(R, turned, k)
            pushes = a * Q[k]
            for j, S, balance in balances:
                self.forces[k, S, j] = balance @ pushes[:, j]
            first[k + 1] = X.T @ (pushes + self.forces[k]) * (-tau / (k + 1))
            second[k + 1] = cauchy(FLOAT64.turned(F), R, k) * (-tau / (k + 1))
        self.coefficients, self.pulls = [first, second], Q
        self._bound(F, R)

    def _bound(self, F: np.ndarray, R: np.ndarray) -> None:
        """Compute norms and errors of every series, then the bounds of the defect."""
        data, p, tau = self.data, self.order, self.tau
        X, (N, h) = data.X, self.pattern.sides.shape
        self.z = np.matmul(X, self.coefficients[0])
        self.z_error = np.array([data.preactivation_error(layer) for layer in self.coefficients[0]])
        self.weights = [MatrixSeries(series) for series in self.coefficients]
        second = head_of(self.weights[1], p)

        def units(inner: int) -> np.ndarray:
            return np.array([gamma(inner + k + 1) for k in range(p)])  # each product of matrices is summed alone

        features = MatrixSeries(F, frobenius(self.z_error[:p]) * UP + U * frobenius(F) + TINY)
        residual = multiplied(R, features, second, units(h))
        residual.errors[0] += U * residual.lengths[0]
        pulls = multiplied(self.pulls, residual, second, units(second.values.shape[2]))
        pushes = self.pattern.slopes * self.pulls
        error = pulls.errors + U * frobenius(pushes)
        self.pull_error = pulls.errors
        whole = np.abs(pushes + self.forces)
        absolute = np.abs(X)
        rounding = np.array([(gamma(N + 2) * float(frobenius(absolute.T @ B))) for B in whole])
        first_error = data.norm * (error + U * frobenius(whole)) + rounding
        second_error = _turned_product(features, residual, units(N))
        k = np.arange(1, p + 1)
        squares = (tau * first_error + 3 * U * k * self.weights[0].lengths[1:]) ** 2
        squares += (tau * second_error + 3 * U * k * self.weights[1].lengths[1:]) ** 2
        self.rounding = np.sqrt(squares) * UP + TINY
        self._tail(features, residual, pulls)

    def _tail(self, features: MatrixSeries, residual: MatrixSeries, pulls: MatrixSeries) -> None:
        """Compute bounds of all coefficients of the products, and of the defect from degree p on."""
        first, second = (factor.norms for factor in self.weights)
        norm = self.data.norm
        phi = norm * first * UP
        phi[: self.order] = np.minimum(phi[: self.order], features.exact_norms())
        self.features = phi
        self.residual = extended(residual.exact_lengths(), phi, second)
        self.pulled = extended(pulls.exact_lengths(), self.residual, second)
        back = convolved(phi, self.residual)
        total = sum_of((norm * self.pulled) ** 2 * UP, back**2)
        self.defects = self.tau * np.sqrt(total) * UP
        self.defects[: self.order] = 0.0


def _turned_product(A: MatrixSeries, B: MatrixSeries, units: np.ndarray) -> np.ndarray:
    """Return the errors of the coefficients of `AᵀB`: norms are those of A."""
    return multiplied(np.zeros((len(units), 1, 1)), A, B, units).errors


def _balance(X: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Return the matrix from all forces on a neuron to those on the samples S that keep these at 0: `(|S|, N)`."""
    return -np.linalg.pinv(X[S] @ X[S].T, rcond=1e-12, hermitian=True) @ (X[S] @ X.T)


def clear_side(pattern: Pattern) -> np.ndarray:
    """Return 1 where `x_iᵀu_j ≥ 0` on a pattern, −1 where it is `≤ 0`, 0 where it slides."""
    return np.where(pattern.sides == ON, 1.0, np.where(pattern.sides == SLIDING, 0.0, -1.0))
