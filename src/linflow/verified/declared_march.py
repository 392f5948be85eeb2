"""The march of a verified flow of an objective that is given by functions.

The path of a step is a polynomial whose slope is that of the flow at a few times. Its defect is computed at more
times, and between them a bound of its second derivative bounds it. Proofs: docs/verified.md, section 12.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from linflow.verified.declared import DeclaredGradient
from linflow.verified.log_norm import Jet, greatest, jet, times
from linflow.verified.march import EnclosureStep, next_time, rounding_of_value, time_exponent
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma
from linflow.verified.smooth import ProductTube, cross, grown

DEGREE, SWEEPS = 8, 16
"""Degree of the path, and the largest number of sweeps that compute it."""

PIECES, COARSE = 32, 8
"""Pieces of a step between which the defect is computed, and the number of pieces for one of the logarithmic norm."""

ACCURACY = 3e-4
"""The defect of a step may add this times the root of the target to the radius, as a part of the way of the step."""

TUBES, SHORTER = 8, 30
"""Largest number of tubes that are tried, and of shorter steps."""


def _collocation() -> tuple[np.ndarray, np.ndarray]:
    """Return times in [0, 1], and the matrix from slopes there to the coefficients 1 to DEGREE of the path."""
    s = 0.5 - 0.5 * np.cos(np.pi * np.arange(DEGREE) / (DEGREE - 1))
    return s, np.linalg.inv(s[:, None] ** np.arange(DEGREE)) / np.arange(1, DEGREE + 1)[:, None]


@dataclass
class DeclaredMarch:
    """State of a verified flow, with the same interface as `EnclosureMarch`.

    Attributes:
        problem: the gradient of the loss.
        weights: the weights that the path has reached.
        scale: output scale c.
        radius: upper bound of the distance of the exact weights to `weights`.
        accuracy: part of the way of a step that its defect may add to the radius.
        t: time reached.
        exponent: `∫ m` so far.
        first: bounds of the first loss gap.
        gap: bounds of the loss gap now.
        trouble: why the march cannot go on; empty while it can.
    """

    problem: DeclaredGradient
    weights: list[np.ndarray]
    scale: float
    radius: float = 0.0
    accuracy: float = 1e-6
    t: float = 0.0
    exponent: float = 0.0
    trouble: str = ""
    hessians: int = 0
    first: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.gap = self._gap(self.weights, self.radius)
        gradients = self.problem.loss_gradient(self.weights, np.zeros(len(self.weights)), self.scale)[2]
        size = math.hypot(*(float(np.linalg.norm(W)) for W in self.weights))
        self.length = 2.0 ** (time_exponent(size, math.hypot(*(float(np.linalg.norm(g)) for g in gradients))) - 5)

    def _gap(self, weights: list[np.ndarray], radius: float) -> tuple[float, float]:
        tube = ProductTube(self.problem, weights, self.scale)
        away = grown(tube.start, [radius] * len(weights))
        return self.problem.gap(tube.W, (tube.W_error + self.scale * away) * UP)

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        for _ in range(SHORTER):
            after = next_time(self.t, self.length, end)
            if after is None:
                self.trouble = "the step is too short to change the time reached"
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
        self.trouble = self.trouble or "no radius was confirmed, however short the step"
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

    def _confirmed(self, path: DeclaredPath, added: float) -> EnclosureStep | None:
        """Return the step with a radius that is confirmed, or None."""
        weights, jump = path.end()
        rounded = float(np.linalg.norm(rounding_of_value(path.lengths, path.s))) * UP
        added = (self.radius + added) * UP
        reach = 4 * (added + rounded)
        for _ in range(TUBES):
            exponent = path.tau * path.exponent(reach) * UP
            if exponent > 300:
                self.trouble = f"the logarithmic norm would multiply the radius by e^{exponent:.0f} in one step"
                return None
            radius = added * math.exp(exponent) * UP * UP
            after = (radius + jump) * UP
            if after + rounded <= reach:
                break
            reach = 2 * (after + rounded)
        else:
            self.trouble = f"the radius of the enclosure, {added:.2g}, is too large for the curvature of the loss"
            return None
        length, gap = path.s * path.tau, self._gap(weights, after)
        constants = path.constants(reach)
        step = EnclosureStep(
            self.t, length, path.tau, tuple(path.series), path.lengths, radius, constants, exponent, gap
        )
        self.t, self.radius, self.exponent = self.t + length, after, self.exponent + exponent
        self.weights, self.gap = weights, gap
        return step


class DeclaredPath(ProductTube):
    """A polynomial path over one step, its defect and its logarithmic norm."""

    def __init__(self, problem: DeclaredGradient, series: list[np.ndarray], c: float, tau: float, s: float):
        super().__init__(problem, [layer[0] for layer in series], c)
        self.series, self.tau, self.s = series, tau, s
        self.lengths = np.array([frobenius(layer) for layer in series])
        self.jets = [jet(np.array([x, *row[1:]]), s) for x, row in zip(self.start, self.lengths, strict=True)]
        self.layers = [x[0] for x in self.jets]
        self.times = np.arange(PIECES + 1) * (s / PIECES)  # exact: s has 20 binary digits

    @cached_property
    def slope(self) -> Jet:
        """Upper bounds of `‖c∇f‖_F` and of its first two derivatives, over the step."""
        K, H = self.problem.objective.smoothness, self.problem.objective.hessian_lipschitz
        _, first, second = times((self.c, 0.0, 0.0), *self.jets)
        value = self.sizes(0.0)[0]
        return value, self.c * K * first * UP, self.c * (H * first * first + K * second) * UP

    def second_derivative(self) -> float:
        """Return an upper bound of the second derivative of the defect over the step."""
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
        derivative.
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
        return (ends + self.s * width * width / 12 * self.second_derivative()) * UP + TINY, fixed

    def way(self) -> float:
        """Return about the length of the path."""
        return self.s * math.hypot(*(float(x) for x in self.lengths[:, 1]))

    def end(self) -> tuple[list[np.ndarray], float]:
        """Return the rounded weights at the end, and a bound of their distance to the polynomial."""
        weights, off = self.at(np.array([self.s]))
        return [np.ascontiguousarray(W[0]) for W in weights], math.sqrt(float(np.sum(off * off))) * UP + TINY

    def at(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the weights at several times, and a bound of the rounding of each layer, shape `(L, times)`."""
        k = np.arange(DEGREE + 1)
        per = np.array([gamma(2 * int(j) + 1) for j in k])[:, None] * s ** k[:, None]
        return [_horner(layer, s) for layer in self.series], self.lengths @ per * UP + TINY

    def velocity(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return `dθ̃/ds` at several times, and a bound of its rounding in each layer."""
        k = np.arange(1, DEGREE + 1)
        per = (np.array([gamma(2 * int(j) + 2) for j in k]) * k)[:, None] * s ** (k - 1)[:, None]
        found = [_horner(layer[1:] * k[:, None, None], s) for layer in self.series]
        return found, self.lengths[:, 1:] @ per * UP + TINY

    @cached_property
    def cross(self) -> dict[tuple[int, int], tuple[list[float], list[float]]]:
        """Upper bounds of `‖P_{i−1}ᵀ G S_{j+1}ᵀ‖₂` and `‖W_{i+1} ⋯ W_{j−1}‖₂` at every COARSE-th time."""
        weights, off = self.at(self.times[::COARSE])
        return cross(self.problem, weights, off, self.c)

    def exponent(self, radius: float) -> float:
        """Return an upper bound of `∫ m ds` over the step, on the tube of this radius."""
        L, more = self.depth, self.moved(radius)
        if L == 1:
            return 0.0
        width = self.s / PIECES * COARSE
        total = 0.0
        for k in range(PIECES // COARSE):
            C = np.zeros((L, L))
            for i, j in itertools.combinations(range(L), 2):
                (x, mid), (x_more, mid_more) = self.cross[i, j], more[i, j]
                x_bend = times(self.slope, *self.jets[:i], *self.jets[j + 1 :])[2]
                mid_bend = times(*self.jets[i + 1 : j])[2] if j > i + 1 else 0.0
                # Between two times, a norm exceeds the straight line by at most Δ²/8 times the second derivative.
                x_here = max(x[k], x[k + 1]) + width * width / 8 * x_bend + x_more
                mid_here = max(mid[k], mid[k + 1]) + width * width / 8 * mid_bend + mid_more
                C[i, j] = C[j, i] = x_here * mid_here * UP
            total += width * greatest(C)
        return total * UP


def _horner(series: np.ndarray, s: np.ndarray) -> np.ndarray:
    x = s[:, None, None]
    value = series[-1] + 0.0 * x
    for coefficient in series[-2::-1]:
        value = value * x + coefficient
    return value
