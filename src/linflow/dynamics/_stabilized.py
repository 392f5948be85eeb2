"""One step of the Runge–Kutta–Chebyshev method of order 2: long steps on stiff flows, without linear algebra.

The Jacobian of a gradient flow is symmetric, so its spectrum is real. A step of s stages is stable for a spectrum of
length about `⅔ s²`, while a common explicit method reaches about `6 s/12` with s stages. The method serves tails in
which the loss falls slowly while most directions have long settled.

Source: Sommeijer, Shampine & Verwer, J. Comput. Appl. Math. 88 (1998) 315–326.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from linflow._support.arrays import Array, norm
from linflow.dynamics.field import GradientField, Point
from linflow.model.network import Network

ORDER = 3
"""Power of the step in the local error."""
STRICTER = 0.1
"""Fraction of the allowed error that a step may use: there are fewer steps, but the errors of a tail all add up."""
NEGLIGIBLE = 1e-3
"""Length times spectral radius of a rejected step below which the method is abandoned. The first steps after a switch
can be short: they damp what the other method, at its stability limit, leaves in fast directions."""
LIMIT = 5.0
"""Length times spectral radius up to which the method of order 8 is stable, with a small margin (it reaches 6)."""

DAMPING = 2 / 13
MOST_STAGES = 250


def stages_for(h: float, radius: float) -> int:
    """Return the number of stages, at least 2, that makes a step h stable for a spectrum in `[−radius, 0]`."""
    return max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * h * radius)))


def longest_step(stages: int, radius: float) -> float:
    """Return the longest step that is stable with this number of stages; the inverse of `stages_for`."""
    return ((stages - 1) ** 2 - 1) / (1.54 * radius) if radius > 0 else math.inf


def spectral_radius(network: Network, K: float, gradient_norm: float) -> float:
    """Return an upper bound on the norm of the Hessian of `f(c W_1 ⋯ W_L)` at these weights.

    `K λ_max(T) + ‖∇f‖ c λ_max(C)`, `C_ij = Π_{k≠i,j} ‖W_k‖` with zero diagonal (docs/descent.md, Lemma 1), with
    `λ_max(T) ≤ c² Σ_l Π_{k≠l} ‖W_k‖²`.
    """
    xp = network.xp
    sizes = np.array([float(xp.linalg.matrix_norm(W, ord=2)) for W in network.weights])
    L, c = len(sizes), network.scale
    others = np.array([np.prod(np.delete(sizes, l)) for l in range(L)])
    # λ_max(C) is at most its largest row sum; for two layers it is 1.
    rows = [sum(np.prod(np.delete(sizes, [i, j])) for j in range(L) if j != i) for i in range(L)]
    return float(K * c**2 * np.sum(others**2) + gradient_norm * c * max(rows))


@lru_cache(maxsize=MOST_STAGES)
def coefficients(s: int) -> tuple[np.ndarray, ...]:
    """Return `μ, ν, μ̃, γ̃` of the stages 1 … s (entry j of each; the first has μ̃_1 only)."""
    w0 = 1 + DAMPING / s**2
    T, dT, ddT = np.zeros(s + 1), np.zeros(s + 1), np.zeros(s + 1)  # Chebyshev polynomials and derivatives at w0
    T[0], T[1], dT[1] = 1.0, w0, 1.0
    for j in range(2, s + 1):
        T[j] = 2 * w0 * T[j - 1] - T[j - 2]
        dT[j] = 2 * T[j - 1] + 2 * w0 * dT[j - 1] - dT[j - 2]
        ddT[j] = 4 * dT[j - 1] + 2 * w0 * ddT[j - 1] - ddT[j - 2]
    w1 = dT[s] / ddT[s]
    b = np.zeros(s + 1)
    b[2:] = ddT[2:] / dT[2:] ** 2
    b[0] = b[1] = b[2]
    a = 1 - b * T
    mu, nu, mu_t, gamma_t = np.zeros(s + 1), np.zeros(s + 1), np.zeros(s + 1), np.zeros(s + 1)
    mu_t[1] = b[1] * w1
    for j in range(2, s + 1):
        mu[j], nu[j], mu_t[j] = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
        gamma_t[j] = -a[j - 1] * mu_t[j]
    return mu, nu, mu_t, gamma_t


def step(
    field: Callable[[Array], Array], y: Array, slope: Array, h: float, stages: int
) -> tuple[Array, Array, float]:
    """Advance `ẏ = field(y)` by h from y, whose slope is known.

    Returns:
        The new vector, its slope, and an estimate of the norm of the local error.
    """
    mu, nu, mu_t, gamma_t = coefficients(stages)
    before, now = y, y + mu_t[1] * h * slope
    for j in range(2, stages + 1):
        rest = (1 - mu[j] - nu[j]) * y + gamma_t[j] * h * slope
        before, now = now, rest + mu[j] * now + nu[j] * before + mu_t[j] * h * field(now)
    new_slope = field(now)
    return now, new_slope, norm(0.8 * (y - now) + 0.4 * h * (slope + new_slope))


class Stiffness:
    """Choice between the two methods of a march, reviewed from time to time by the cost per unit of time.

    Attributes:
        radius: bound on the spectrum while the stabilised method is in use, 0 while that of order 8 is.
    """

    def __init__(self, field: GradientField):
        self.field, self.radius = field, 0.0
        self._K = field.objective.smoothness
        self.possible = math.isfinite(self._K)

    def review(self, point: Point, h: float, allowed: Callable[[float], float]) -> float:
        """Choose the method for the coming steps, and return the next step length.

        Args:
            point: the current point of the march, with its slope.
            h: the length that the march would attempt.
            allowed: the error allowed for a step of a given length.
        """
        if not self.possible or point.speed == 0.0:
            return h
        network = self.field.network_at(point.y)
        steepness = norm(self.field.objective.gradient(network.product()))
        radius = 1.05 * spectral_radius(network, self._K, steepness)  # weights move until the next review
        if self.radius > 0:
            stays = stages_for(h, radius) / h <= 12 * radius / LIMIT
            self.radius = radius if stays else 0.0
            return h if stays else LIMIT / radius
        if h * radius > 0.6 * LIMIT:
            length = self._length(point, min(8 * h, longest_step(MOST_STAGES, radius)), radius, allowed)
            if length > 0 and stages_for(length, radius) / length < 0.6 * 12 / h:
                self.radius = radius
                return length
        return h

    def _length(self, point: Point, trial: float, radius: float, allowed: Callable[[float], float]) -> float:
        """Return the length of a stabilised step that the error of a trial suggests."""
        _, _, error = step(self.field, point.y, point.slope, trial, stages_for(trial, radius))
        if not math.isfinite(error):
            return trial / 8
        factor = 0.8 * (STRICTER * allowed(trial) / max(error, 5e-324)) ** (1 / ORDER)
        return min(trial * min(factor, 100.0), longest_step(MOST_STAGES, radius))
