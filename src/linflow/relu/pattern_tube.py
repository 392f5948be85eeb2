"""Bounds on the tube around the path of one step: which pairs keep their sign, and the logarithmic norm.

Polynomials are bounded on each piece of a step by their Bernstein coefficients. Proofs: docs/relu_verified.md,
sections 2 and 4.
"""

from __future__ import annotations

import math
from functools import cache, cached_property

import numpy as np

from linflow.relu.pattern_path import Data, PatternPath, clear_side
from linflow.relu.pieces import SLIDING
from linflow.verified.log_norm import Constants, jet
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, least_eigenvalue, spectral

PIECES = 8
"""Pieces of a step."""
WEIGHTS = 80
"""Roundings behind a Bernstein coefficient: of its weights, of its terms and of its sum (degrees up to 20)."""


@cache
def bernstein(degree: int) -> np.ndarray:
    """Return the maps from the coefficients on [0, 1] to the Bernstein coefficients on each piece.

    Shape `(PIECES, degree + 1, degree + 1)`. On `[a, b]` the i-th coefficient of `x^k` is its polar form at i times b
    and `degree − i` times a, `Σ_l C(i, l) C(degree − i, k − l) b^l a^{k−l}/C(degree, k)`. All are in [0, 1].
    """
    n, found = degree, np.zeros((PIECES, degree + 1, degree + 1))
    for piece in range(PIECES):
        a, b = piece / PIECES, (piece + 1) / PIECES
        for i in range(n + 1):
            for k in range(n + 1):
                terms = range(min(i, k) + 1)
                total = sum(math.comb(i, l) * math.comb(n - i, k - l) * b**l * a ** (k - l) for l in terms)
                found[piece, i, k] = total / math.comb(n, k)
    return found


def extremes(series: np.ndarray, error: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds from below and above of polynomials `Σ c_k x^k` on the pieces of [0, s], shape `(PIECES, …)`.

    Args:
        series: coefficients, shape `(degree + 1, …)`.
        error: upper bounds of the error of each coefficient, of the same shape or one that broadcasts to it.
        s: length of the step.
    """
    powers = (s ** np.arange(len(series))).reshape(len(series), *[1] * (series.ndim - 1))
    off = np.sum((error + gamma(WEIGHTS) * np.abs(series)) * powers, axis=0) * UP
    values = np.tensordot(bernstein(len(series) - 1), series * powers, 1)
    return values.min(axis=1) - off, values.max(axis=1) + off


class PatternTube:
    """Bounds over a step of scaled length s.

    Attributes:
        path: the path.
        s: the length.
        low: lower bounds of `±x_iᵀu_j` on the path, with the sign of the pattern, shape `(PIECES, N, h)`.
        exempt: pairs whose sign need not be known: the march accounts for them.
    """

    def __init__(self, path: PatternPath, s: float, exempt: np.ndarray | None = None):
        self.path, self.s, self.data = path, s, path.data
        self.side = clear_side(path.pattern)
        self.exempt = np.zeros(self.side.shape, dtype=bool) if exempt is None else exempt
        self.sliding = path.pattern.sides == SLIDING
        low, high = self._preactivations()
        self.low = np.where(self.side > 0, low, np.where(self.side < 0, -high, np.minimum(low, -high)))
        self.low[:, self.data.void] = math.inf
        lengths = path.lengths
        self.sizes = [jet(factor.norms, s)[0] for factor in path.weights]
        self.features, self.residual = jet(path.features, s)[0], jet(path.residual, s)
        rows = np.sqrt(np.sum(path.coefficients[1] ** 2, axis=2)) * (1 + gamma(path.values[1].shape[2] + 4))
        self.rows = (s ** np.arange(path.order + 1)) @ rows * UP + TINY  # of ‖v_j‖
        self.way = float(np.sum(np.hypot(*lengths)[1:] * s ** np.arange(1, path.order + 1))) * UP

    def _preactivations(self) -> tuple[np.ndarray, np.ndarray]:
        """Bound the pre-activations of the path on each piece; far from 0, by the sizes of their terms."""
        z, error, s = self.path.z, self.path.z_error, self.s
        powers = (s ** np.arange(len(z)))[:, None, None]
        reach = np.sum((np.abs(z) * powers)[1:], axis=0) * UP + np.sum(error * powers, axis=0) * UP
        low, high = np.repeat((z[0] - reach)[None], PIECES, 0), np.repeat((z[0] + reach)[None], PIECES, 0)
        close = np.abs(z[0]) <= 1.5 * reach
        if close.any():
            low[:, close], high[:, close] = extremes(z[:, close], error[:, close], s)
        return low, high

    @cached_property
    def pulls(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of `(R v_j)_i` on the path, on each piece."""
        path, s = self.path, self.s
        k = np.arange(len(path.pulled))
        rest = float(np.sum((path.pulled * s**k)[path.order :])) * UP
        low, high = extremes(path.pulls, path.pull_error[:, None, None], s)
        return low - rest, high + rest

    @cached_property
    def adjusted(self) -> tuple[float, float]:
        """Bounds of the correction that puts the path on the sides of its pattern: its size, and its variation.

        On every pair that is beyond 0 by at most ε, and on those that slide, u_j is changed by the shortest vector
        that undoes it. A polynomial of degree p has fewer than p turning points.
        """
        low = self.low.min(axis=0)
        beyond = np.where(self.data.void, 0.0, np.maximum(0.0, -low))
        z, error, s, order = self.path.z, self.path.z_error, self.s, self.path.order
        powers = (s ** np.arange(len(z)))[:, None, None]
        varied = np.sum(((np.abs(z) + error) * powers)[1:], axis=0) * UP
        varied = np.where(self.sliding, np.minimum(varied, 2 * order * beyond), order * beyond)
        size = variation = 0.0
        for j in np.flatnonzero((beyond > 0).any(axis=0)):
            S, own, inverse = np.flatnonzero(beyond[:, j] > 0), math.inf, math.inf
            for _ in range(4):
                inverse = inverse_square(self.data, S)
                own = math.sqrt(float(np.sum(beyond[S, j] ** 2)) * inverse) * UP
                # Pairs that this might push across 0 are held, too.
                wider = np.flatnonzero(~(low[:, j] > self.data.lengths * own * UP))
                if len(wider) == len(S):
                    break
                S = wider
            else:
                own = math.inf
            size, variation = size + own**2, variation + inverse * float(np.sum(varied[S, j])) ** 2
        return math.sqrt(size) * UP, math.sqrt(variation) * UP

    @cached_property
    def forced(self) -> float:
        """Bound of `∫` of how far the forces of sliding pairs are outside `[slope, 1]` times the pull, in norm."""
        if not self.sliding.any():
            return 0.0
        path, data = self.path, self.data
        pairs = np.nonzero(self.sliding)
        f, q = path.forces[:, *pairs], path.pulls[:, *pairs]
        k = np.arange(len(path.pulled))
        rest = float(np.sum((path.pulled * self.s**k)[path.order :])) * UP
        error = path.pull_error[:, None] + 2 * U * (np.abs(f) + np.abs(q))
        above = -extremes(q - f, error, self.s)[0] + rest
        below = -extremes(f - data.slope * q, error, self.s)[0] + rest
        moved = self.pull_moved(self.adjusted[0])[pairs[1]]
        concave = np.maximum(0.0, -extremes(q, error, self.s)[0] + rest + moved)
        outside = (np.maximum(0.0, np.maximum(above, below) + moved) + concave).max(axis=0)
        return float(np.sum(outside * data.lengths[pairs[0]])) * self.path.tau * self.s * UP

    def near(self, radius: float) -> np.ndarray:
        """Return the pairs that may have another sign within the radius of the path, on each piece."""
        return ~(self.low > self.data.lengths[:, None] * radius * UP) & ~self.data.void

    def pull_moved(self, radius: float) -> np.ndarray:
        """Return how far `(R v_j)_i` can move within the radius of the path, for each neuron."""
        moved = self.residual_moved(radius)
        return (moved * (self.rows + radius) + self.residual[0] * radius) * UP

    def residual_moved(self, radius: float) -> float:
        """Return how far R can move within the radius of the path."""
        first = self.data.norm
        return (math.hypot(first * self.sizes[1], self.features) * radius + 0.5 * first * radius**2) * UP

    def blocking(self, radius: float) -> np.ndarray:
        """Return the pairs whose sign is not known on the tube, and whose kink is not known to be convex."""
        concave = self.pulls[0] - self.pull_moved(radius) < 0
        return (self.near(radius) & concave).any(axis=0) & ~self.exempt & ~self.sliding

    def constants(self, radius: float) -> Constants:
        """Return Lipschitz constants on the tube. The field `third` holds a bound of `‖∇²L‖`."""
        X = self.data.norm
        motion = math.hypot(X * (self.sizes[1] + radius), self.features + X * radius) * UP
        slope = (self.residual[0] + motion * radius) * UP
        return Constants(motion, X, slope, (motion**2 + X * slope) * UP)

    @cached_property
    def knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds at the ends of the pieces: of `‖XᵀD_{a_j}R‖` for each neuron, and of `‖r_i‖`."""
        path, data, s = self.path, self.data, self.s
        slopes = np.where(self.sliding, 0.5 * (1 + data.slope), path.pattern.slopes)
        k, times = np.arange(path.order + 1), np.arange(PIECES + 1) * (s / PIECES)
        tensor = [np.tensordot(times[:, None] ** k, series, 1) for series in path.coefficients]
        off = path.lengths @ (gamma(4 * path.order + 2) * s**k) * UP + TINY
        found, rows = np.zeros((len(times), len(self.rows))), np.zeros((len(times), len(data.lengths)))
        for at in range(len(times)):
            first, second = tensor[0][at], tensor[1][at]
            R = (path.pattern.slopes * (data.X @ first)) @ second - data.problem.Y
            error = self._residual_error(first, second, off)
            rows[at] = np.sqrt(np.sum(R**2, axis=1)) * (1 + gamma(R.shape[1] + 4)) + error
            rounding = gamma(len(R) + 2) * data.norm * math.sqrt(min(data.X.shape)) * float(frobenius(R))
            found[at] = pulled_norms(data.X, slopes, R) + (data.norm * error + rounding) * UP
        return found * UP, rows * UP

    def _residual_error(self, first: np.ndarray, second: np.ndarray, off: np.ndarray) -> float:
        """Return how far R computed from rounded layers is from that of the path."""
        data, h = self.data, len(second)
        moved = data.norm * off[0] + (1 + 2 * U) * float(frobenius(data.preactivation_error(first)))
        moved += 2 * U * self.features * math.sqrt(h)
        sizes = (self.features + moved) * float(frobenius(second)) * math.sqrt(h)
        outer = self.features * off[1] + moved * (self.sizes[1] + off[1])
        return (outer + gamma(h + 2) * (sizes + float(frobenius(data.problem.Y)))) * UP + TINY

    def exponent(self, radius: float) -> float:
        """Return an upper bound of `∫ m` over the step, on the tube of this radius."""
        m, rows = self.knots
        path, data, s = self.path, self.data, self.s
        width = s / PIECES
        bend = 0.125 * width**2 * self.residual[2]
        ends = np.maximum(m[:-1], m[1:])
        # Samples on whose side of 0 nothing is known have any slope between.
        r = np.maximum(rows[:-1], rows[1:]) + bend
        unknown = (self.near(radius) | self.exempt) * np.where(self.sliding, 0.5, 1.0) * (1 - data.slope)
        extra = np.einsum("pij,pi->pj", unknown, data.lengths * r)
        flat = ~unknown.any(axis=(1, 2))
        chords = 0.5 * (m[:-1].max(axis=1) + m[1:].max(axis=1))
        per = np.where(flat, chords, (ends + extra).max(axis=1))
        more = data.norm * (bend + self.residual_moved(radius))
        return float(np.sum(per + more)) * width * path.tau * UP


def pulled_norms(X: np.ndarray, slopes: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return upper bounds of the computed `‖XᵀD_{a_j}R‖₂` for each neuron; only those that matter are sharp."""
    if R.shape[1] == 1:
        return np.sqrt(np.sum((X.T @ (slopes * R)) ** 2, axis=0)) * (1 + gamma(X.shape[1] + 4))
    products = np.einsum("id,ij,im->jdm", X, slopes, R, optimize=True)
    found, best = frobenius(products), 0.0
    for j in np.argsort(-found):
        if found[j] <= best:
            break
        found[j] = spectral(products[j])
        best = max(best, float(found[j]))
    return found


def inverse_square(data: Data, S: np.ndarray) -> float:
    """Return an upper bound of `‖X_S⁺‖²`; samples that are equal up to their sign count once."""
    rows = data.X[S]
    first = np.array([np.sign(row[np.flatnonzero(row)[0]]) for row in rows])
    rows = np.unique(rows * first[:, None], axis=0)
    if len(rows) == 1:
        return (1 + gamma(rows.shape[1] + 4)) / float(np.sum(rows**2))
    gram = rows @ rows.T
    error = gamma(rows.shape[1]) * float(np.sum(rows**2)) * UP
    least = least_eigenvalue(gram, error)
    return 1 / least if least > 0 else math.inf
