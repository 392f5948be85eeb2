"""A verified descent of a ReLU network: every step is that of a polynomial, if the pattern is certain.

Proof: docs/relu_verified.md, section 8.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from linflow.relu.pattern_path import Data
from linflow.relu.pattern_tube import pulled_norms
from linflow.relu.pieces import OFF, ON
from linflow.relu.trajectory import WORDS, Flip
from linflow.verified.descent import StepMarch
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral

POWERS = 3
"""Products after which the largest eigenvalue of a nonnegative matrix is bounded."""


class PatternDescent(StepMarch):
    """State of a verified descent with the step η, whose slope at `z_ij = 0` is that of `z < 0`.

    Attributes:
        sides: `ON` or `OFF` of the computed iterate, shape `(N, h)`; where they are not certain, the march ends.
        flips: every change of a side.
    """

    def __init__(self, data: Data, eta: float):
        self.data = data
        self.flips: list[Flip] = []
        self.sides: np.ndarray | None = None
        self.absolute = np.abs(data.X)
        kernel = np.abs(data.X @ data.X.T) + gamma(data.X.shape[1]) * (self.absolute @ self.absolute.T)
        self.kernel = kernel * UP + TINY
        super().__init__(None, [np.array(data.start.extended), np.array(data.start.V)], 1.0, 0.0, eta)

    def _arrive(self, weights: list[np.ndarray]) -> None:
        """Compute the pattern at an iterate, the gradient on it with its rounding, and the gap."""
        self.weights = weights
        self.z, self.z_error = self.data.X @ weights[0], self.data.preactivation_error(weights[0])
        self._decide()
        self.gap = self.data.loss(weights, (0.0, 0.0), self.radius)
        V = np.abs(weights[1])
        a, h, N, m = self.slopes, len(V), len(self.z), V.shape[1]
        self.features = a * self.z
        features_error = a * self.z_error + U * np.abs(self.features)
        outputs = self.features @ weights[1]
        self.R = outputs - self.data.problem.Y
        R_error = gamma(h) * (np.abs(self.features) @ V) + features_error @ V + U * np.abs(self.R)
        pushes = a * (self.R @ weights[1].T)
        pushes_error = a * (R_error @ V.T + gamma(m + 1) * (np.abs(self.R) @ V.T))
        self.gradients = [self.data.X.T @ pushes, self.features.T @ self.R]
        errors = [
            self.absolute.T @ (pushes_error + gamma(N) * np.abs(pushes)),
            np.abs(self.features).T @ (R_error + gamma(N) * np.abs(self.R))
            + features_error.T @ (np.abs(self.R) + R_error),
        ]
        up = UP * (1 + gamma(2 * (N + h + m) + 16))  # of the sums above
        self.error = math.hypot(*(float(frobenius(E)) for E in errors)) * up + TINY
        self.residual_error = float(frobenius(R_error)) * up + TINY

    def _decide(self) -> None:
        """Set the sides, `slopes`, and `unclear`: the pairs whose side an iterate within the radius may not have.

        At the start nothing is rounded but the sum itself; there, sums that are near 0 are computed exactly.
        """
        before, data = self.sides, self.data
        self.sides = np.where(self.z > 0, ON, OFF)
        reach = self.z_error + data.lengths[:, None] * self.radius * UP
        self.unclear = ~(np.abs(self.z) > reach * UP) & ~data.void
        if before is None:
            for i, j in zip(*np.nonzero(self.unclear), strict=True):
                terms = zip(data.X[i].tolist(), self.weights[0][:, j].tolist(), strict=True)
                self.sides[i, j] = ON if sum(Fraction(x) * Fraction(u) for x, u in terms) > 0 else OFF
            self.unclear[:] = False
        else:
            t = len(self.taken) * self.taken[-1]
            for i, j in zip(*np.nonzero(self.sides != before), strict=True):
                words = WORDS[int(before[i, j])], WORDS[int(self.sides[i, j])]
                self.flips.append(Flip(t, int(j), int(i), *words))
        self.slopes = np.where(self.sides == ON, 1.0, data.slope)

    def advance(self) -> bool:
        """Take a step. Return False if the pattern is not certain, or the radius is too large (see `trouble`)."""
        if not (self.weights[0].any() or self.weights[1].any()):
            self.trouble = "nothing moves: all weights are 0"
            return False
        if self.unclear.any():
            i, j = (int(n[0]) for n in np.nonzero(self.unclear))
            self.trouble = (
                f"neuron {j} is so near 0 on sample {i} that the radius, {self.radius:.2g}, hides on which side it "
                "is, and two descents could part; a start that is moved a little, or another step, may pass"
            )
            return False
        return super().advance()

    def growth(self, eta: float) -> float:
        """Return `max(1 + ηm, ηM − 1)` on the ball of the radius around the iterate, on the present pattern."""
        data, V, radius = self.data, self.weights[1], self.radius
        # `m = max_j ‖XᵀD_{a_j}R‖₂`: as computed, its rounding, and what R moves by within the radius.
        size = float(frobenius(self.R))
        rounding = gamma(len(self.R) + 2) * data.norm * math.sqrt(min(data.X.shape)) * size
        length = (
            spectral(self.features)
            + float(frobenius(self.slopes * self.z_error))
            + U * float(frobenius(self.features))
        )
        moved = math.hypot(data.norm * float(frobenius(V)), length) * radius + 0.5 * data.norm * radius**2
        m = float(pulled_norms(data.X, self.slopes, self.R).max())
        m = (m + rounding + data.norm * (self.residual_error + moved)) * UP
        motion = math.sqrt(self._first_layer() + length**2) + data.norm * radius
        M = (motion**2 + m) * UP
        return max(1 + eta * m, eta * M - 1) * UP

    def _first_layer(self) -> float:
        """Return an upper bound of `‖R ↦ (XᵀD_{a_j}Rv_j)_j‖²`: of a nonnegative matrix, by Collatz and Wielandt."""
        squares = np.sum(self.weights[1] ** 2, axis=1)
        A = self.kernel * ((self.slopes * squares) @ self.slopes.T)
        x = np.ones(len(A))
        for _ in range(POWERS):
            x = A @ x
            x = x / x.max() + 1e-3 if 0 < x.max() < math.inf else np.ones(len(A))
        terms = len(A) + len(squares) + self.weights[1].shape[1] + 16
        return float(np.max(A @ x / x)) * (1 + gamma(terms)) * UP + TINY

    def step(self, eta: float) -> tuple[list[np.ndarray], float]:
        """Return the next iterate, and a bound of the rounding of the step, without that of the sum."""
        new = [W - eta * g for W, g in zip(self.weights, self.gradients, strict=True)]
        return new, eta * (self.error + 2 * U * math.hypot(*(float(frobenius(g)) for g in self.gradients)))
