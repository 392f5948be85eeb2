"""The march of a verified flow of an objective that is given by functions.

The path of a step is a polynomial whose slope is that of the flow at a few times. Its defect is computed at more
times, and between them a bound of its second derivative bounds it. Proofs: docs/verified.md, section 12.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow.verified.convex_march import SHORTER, ConvexMarch, ConvexPath
from linflow.verified.declared import DeclaredGradient
from linflow.verified.log_norm import Jet, jet, times
from linflow.verified.march import NO_RADIUS, TOO_SHORT, EnclosureStep, next_time, time_exponent
from linflow.verified.rounding import TINY, UP, U, frobenius
from linflow.verified.smooth import whole_error

DEGREE, SWEEPS = 8, 16
"""Degree of the path, and the largest number of sweeps that compute it."""

PIECES, COARSE = 32, 8
"""Pieces of a step between which the defect is computed, and the number of pieces for one of the logarithmic norm."""

ACCURACY = 3e-4
"""The defect of a step may add this times the root of the target to the radius, as a part of the way of the step."""


@functools.cache
def _collocation() -> tuple[np.ndarray, np.ndarray]:
    """Return times in [0, 1], and the matrix from slopes there to the coefficients 1 to DEGREE of the path."""
    s = 0.5 - 0.5 * np.cos(np.pi * np.arange(DEGREE) / (DEGREE - 1))
    return s, np.linalg.inv(s[:, None] ** np.arange(DEGREE)) / np.arange(1, DEGREE + 1)[:, None]


@dataclass
class DeclaredMarch(ConvexMarch):
    """State of a verified flow of an objective that is given by functions.

    Attributes:
        accuracy: part of the way of a step that its defect may add to the radius.
        length: duration of the step that is tried next.
    """

    problem: DeclaredGradient
    accuracy: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        gradients = self.problem.loss_gradient(self.weights, np.zeros(len(self.weights)), self.scale)[2]
        size = math.hypot(*(float(np.linalg.norm(W)) for W in self.weights))
        self.length = 2.0 ** (time_exponent(size, math.hypot(*(float(np.linalg.norm(g)) for g in gradients))) - 5)

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        for _ in range(SHORTER):
            after = next_time(self.t, self.length, end)
            if after is None:
                self.trouble = TOO_SHORT
                return None
            tau = 2.0 ** round(math.log2(self.length))
            s = (after - self.t) / tau  # exact: τ is a power of two
            series = self._series(tau, s)
            if series is None:
                self.length *= 0.5
                continue
            path = DeclaredPath(self.problem, series, self.scale, tau, s)
            added, fixed = path.defect()
            # What the errors do not add falls with the square of the length of the step, as a part of the way.
            part = (added - fixed) / (self.accuracy * path.way() + TINY)
            self.length *= min(2.0, max(0.25, 0.9 / math.sqrt(part))) if part > 0 else 2.0
            if not part <= 2.0:
                continue
            step = self._confirmed(path, added)
            if step is not None:
                return step
            self.length = 0.5 * s * tau
        self.trouble = self.trouble or NO_RADIUS
        return None

    def _series(self, tau: float, s: float) -> list[np.ndarray] | None:
        """Return the coefficients of the path in the time `t/τ`, or None if the sweeps do not settle."""
        times, matrix = _collocation()
        count, powers = len(self.weights), (times[:, None] * s) ** np.arange(1, DEGREE + 1)
        matrix = matrix * s ** -np.arange(DEGREE)[:, None]
        coefficients = [np.zeros((DEGREE, *W.shape)) for W in self.weights]
        weigh, last = (s ** np.arange(DEGREE))[:, None, None], math.inf
        for _ in range(SWEEPS):
            weights = [W + np.tensordot(powers, k, 1) for W, k in zip(self.weights, coefficients, strict=True)]
            with np.errstate(all="ignore"):
                slopes = self.problem.loss_gradient(weights, np.zeros((count, DEGREE)), self.scale)[2]
                new = [-tau * np.tensordot(matrix, slope, 1) for slope in slopes]
            if not all(np.isfinite(k).all() for k in new):
                return None
            change = max(float((np.abs(a - b) * weigh).max()) for a, b in zip(new, coefficients, strict=True))
            coefficients, size = new, max(float(np.abs(k[0]).max()) for k in new)
            if change <= 1e-2 * self.accuracy * size and change <= last:
                return [np.concatenate([W[None], k]) for W, k in zip(self.weights, coefficients, strict=True)]
            last = change
        return None


class DeclaredPath(ConvexPath):
    """A polynomial path over one step, its defect and its logarithmic norm."""

    def __init__(self, problem: DeclaredGradient, series: list[np.ndarray], c: float, tau: float, s: float):
        super().__init__(problem, series, c, tau, s)
        self.jets = [jet(np.array([x, *row[1:]]), s) for x, row in zip(self.start, self.lengths, strict=True)]
        self.layers = [x[0] for x in self.jets]
        # 0 and s are exact. The rounding of the times between them changes a width by 2 PIECES units, within UP.
        self.times = np.arange(PIECES + 1) * (s / PIECES)
        self.knots, self.widths = self.times[::COARSE], [s / PIECES * COARSE] * (PIECES // COARSE)

    @cached_property
    def slope(self) -> Jet:
        """Upper bounds of `‖c∇f‖_F` and of its first two derivatives, over the step."""
        K, H = self.problem.smoothness, self.problem.hessian_lipschitz
        _, first, second = times((self.c, 0.0, 0.0), *self.jets)
        value = self.sizes(0.0)[0]
        return value, self.c * K * first * UP, self.c * (H * first * first + K * second) * UP

    @cached_property
    def kinked(self) -> np.ndarray:
        """Whether `∇f` may have a kink between two neighbours of `times`."""
        weights, off = self.at(self.times)
        W = self.c * functools.reduce(np.matmul, weights)
        moved = times((self.c, 0.0, 0.0), *self.jets)[1] * (self.s / PIECES) * UP
        return self.problem.kinked(W, whole_error(weights, off, self.c), moved)

    def first_derivative(self) -> float:
        """Return an upper bound of how fast the defect changes over the step, kinks included."""
        squares = 0.0
        for l, row in enumerate(self.lengths):
            k = np.arange(2, len(row))
            second = float(np.sum(k * (k - 1) * row[2:] * self.s ** (k - 2)))
            squares += (second + self.tau * times(self.slope, *self.jets[:l], *self.jets[l + 1 :])[1]) ** 2
        return math.sqrt(squares) * UP * UP

    def second_derivative(self) -> float:
        """Return an upper bound of the second derivative of the defect over the step, between kinks."""
        squares = 0.0
        for l, row in enumerate(self.lengths):
            k = np.arange(3, len(row))
            third = float(np.sum(k * (k - 1) * (k - 2) * row[3:] * self.s ** (k - 3)))
            pull = times(self.slope, *self.jets[:l], *self.jets[l + 1 :])[2]
            squares += (third + self.tau * pull) ** 2
        return math.sqrt(squares) * UP * UP

    def defect(self) -> tuple[float, float]:
        """Return an upper bound of `∫ ‖dθ̃/ds + τ∇L(θ̃)‖ ds` over the step, and about what errors add to it.

        Between two times at a distance Δ, the norm exceeds the straight line by at most `½ s(Δ − s)` times the second
        derivative, or, where there may be a kink, by at most `min(s, Δ − s)` times the first.
        """
        weights, off = self.at(self.times)
        velocity, rounding = self.velocity(self.times)
        _, _, gradients, errors = self.problem.loss_gradient(weights, off, self.c)
        total, fixed = np.zeros(len(self.times)), 0.0
        for l in range(self.depth):
            slope = self.tau * gradients[l]
            error = rounding[l] + self.tau * errors[l] * UP + 3 * U * (frobenius(velocity[l]) + frobenius(slope))
            total += (frobenius(velocity[l] + slope) + error) ** 2
            fixed += self.s * float(error.max())
        sizes, width = np.sqrt(total) * UP, self.s / PIECES
        ends = float(np.sum(sizes[:-1] + sizes[1:])) * 0.5 * width
        smooth = self.s * width * width / 12 * self.second_derivative()
        bent = int(np.sum(self.kinked)) * width * width / 4
        return (ends + smooth + (bent * self.first_derivative() if bent else 0.0)) * UP + TINY, fixed

    def way(self) -> float:
        """Return about the length of the path."""
        return self.s * math.hypot(*(float(x) for x in self.lengths[:, 1]))

    @cached_property
    def bends(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Upper bounds of how far the two norms of `cross` exceed their chords between two knots.

        That is at most Δ²/8 times the second derivative; if there may be a kink, Δ/2 times the first.
        """
        bend, found, kinked = self.widths[0] ** 2 / 8, {}, bool(self.kinked.any())
        for i, j in itertools.combinations(range(self.depth), 2):
            _, first, second = times(self.slope, *self.jets[:i], *self.jets[j + 1 :])
            outer = 0.5 * self.widths[0] * first * UP if kinked else bend * second
            found[i, j] = outer, bend * times(*self.jets[i + 1 : j])[2]
        return found
