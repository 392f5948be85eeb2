"""The march of a verified flow of an exponential or a logistic loss.

The path of a step is a Taylor polynomial in float64. No proof depends on its accuracy. Its defect is an analytic
function of time. The defect is computed at Chebyshev nodes; between the nodes, its size on an ellipse around the step
bounds it. The logarithmic norm is bounded by the products of the layers, both at the nodes and between them. Proofs:
docs/verified.md, section 11.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from linflow.verified.classification import LARGEST_TURN, TailGradient
from linflow.verified.log_norm import greatest
from linflow.verified.march import EnclosureStep, next_time, product_error, rounding_of_value, time_exponent
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral
from linflow.verified.smooth import ProductTube, cross, grown

ORDER = 20
"""Degree of the path."""

TRUNCATION = 1e-16
"""The step is so long that the last terms of the path reach this fraction of the weights."""

NODES, RHO = 32, 4.0
"""Number of nodes of a step, and the sum of the half axes of the ellipse for a step of length 2."""

REACH = 0.5 + (RHO + 1 / RHO) / 4
"""The ellipse lies within this many steps from the start of the step."""

APART = 0.5 * ((RHO + 1 / RHO) / 2 - 1)
"""The ellipse keeps this many steps away from the times of the step."""

LEBESGUE = 1 + 2 / math.pi * math.log(NODES)
"""Values between the nodes are at most this factor times the largest value at the nodes."""

PIECES = 32
"""Number of pieces of a step on which the logarithmic norm is bounded."""

TUBES, SHORTER = 8, 30
"""Largest number of tubes that are tried, and of shorter steps."""


@dataclass
class TailMarch:
    """State of a verified flow, with the same interface as `EnclosureMarch`.

    Attributes:
        problem: the gradient of the loss.
        weights: the weights that the path has reached.
        scale: output scale c.
        radius: upper bound of the distance of the exact weights to `weights`.
        t: time reached.
        exponent: `∫ m` so far.
        first: bounds of the first loss gap.
        gap: bounds of the loss gap now.
        trouble: why the march cannot go on; empty while it can.
    """

    problem: TailGradient
    weights: list[np.ndarray]
    scale: float
    radius: float = 0.0
    t: float = 0.0
    exponent: float = 0.0
    trouble: str = ""
    hessians: int = 0
    first: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.gap = self._gap(self.weights, self.radius)
        self.length = 0.0

    def _gap(self, weights: list[np.ndarray], radius: float) -> tuple[float, float]:
        P, error = product_error(weights, [0.0] * len(weights))
        moved = grown([spectral(W) for W in weights], [radius] * len(weights))
        return self.problem.value(self.scale * P, self.scale * (error + 2 * U * float(frobenius(P)) + moved) * UP)

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        tau, series = self._series()
        size = math.sqrt(sum(float(np.sum(W * W)) for W in self.weights))
        last = max(math.sqrt(sum(float(np.sum(c[k] ** 2)) for c in series)) ** (1 / k) for k in (ORDER - 1, ORDER))
        s = (TRUNCATION * size) ** (1 / ORDER) / last if last > 0 and size > 0 else 1.0
        if not 0 < s < math.inf or not all(np.isfinite(c).all() for c in series):
            self.trouble = "the derivatives of the flow are past float64"
            return None
        for _ in range(SHORTER):
            after = next_time(self.t, s * tau, end)
            if after is None:
                self.trouble = "the step is too short to change the time reached"
                return None
            s = (after - self.t) / tau  # exact: τ is a power of two
            step = self._try(tau, s, series)
            if step is not None:
                return step
            s *= 0.7
        self.trouble = self.trouble or "no radius was confirmed, however short the step"
        return None

    def _series(self) -> tuple[float, list[np.ndarray]]:
        """Return the unit of time and the computed Taylor coefficients of the path."""
        if self.length > 0:
            tau = 2.0 ** round(math.log2(self.length))
        else:
            gradients = taylor(self.problem, self.weights, self.scale, 1.0, 1)
            speed = math.sqrt(sum(float(np.sum(c[1] ** 2)) for c in gradients))
            size = math.sqrt(sum(float(np.sum(W * W)) for W in self.weights))
            tau = 2.0 ** time_exponent(size, speed)
        return tau, taylor(self.problem, self.weights, self.scale, tau, ORDER)

    def _try(self, tau: float, s: float, series: list[np.ndarray]) -> EnclosureStep | None:
        path = _Path(self.problem, series, self.scale, tau, s)
        if not path.usable:
            self.trouble = "the derivatives of the loss are not bounded around so long a step"
            return None
        weights, jump = path.end()
        rounded = float(np.linalg.norm(rounding_of_value(path.lengths, s))) * UP
        added = (self.radius + path.defect() * s) * UP
        reach = 4 * (added + rounded)
        for _ in range(TUBES):
            exponent = tau * path.exponent(reach) * UP
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
        gap = self._gap(weights, after)
        length = s * tau
        step = EnclosureStep(
            self.t, length, tau, tuple(series), path.lengths, radius, path.constants(reach), exponent, gap
        )
        self.t, self.length, self.radius, self.exponent = self.t + length, length, after, self.exponent + exponent
        self.weights, self.gap = weights, gap
        return step


def taylor(problem: TailGradient, weights: list[np.ndarray], c: float, tau: float, order: int) -> list[np.ndarray]:
    """Return the Taylor coefficients of the flow in the time `t/τ`, in float64, without any error bound."""
    L, (n, m) = len(weights), (weights[0].shape[0], weights[-1].shape[1])
    W = [np.zeros((order + 1, *w.shape)) for w in weights]
    for layer, w in zip(W, weights, strict=True):
        layer[0] = w
    P = [W[0], *(np.zeros((order, n, w.shape[1])) for w in weights[1:])]
    S = [*(np.zeros((order, w.shape[0], m)) for w in weights[:-1]), W[-1]]
    Z = np.zeros((order, *problem.Y.shape))
    q, r = np.zeros_like(Z), np.zeros_like(Z)
    Q = [np.zeros((order, n, m)), *(np.zeros((order, w.shape[1], m)) for w in weights[:-1])]
    for k in range(order):
        for l in range(1, L):
            P[l][k] = _cauchy(P[l - 1], W[l], k)
        for l in range(L - 2, -1, -1):
            S[l][k] = _cauchy(W[l], S[l + 1], k)
        Z[k] = problem.Y * (problem.X @ (c * P[-1][k]))
        if k == 0:
            q[0] = problem.slopes(Z[0])
        elif problem.exponential:  # q = e^{−z}, q' = −q z'
            q[k] = -sum(j * Z[j] * q[k - j] for j in range(1, k + 1)) / k
        else:  # q = 1/(1 + e^z), q' = −(q − q²) z'
            q[k] = -sum(j * Z[j] * r[k - j] for j in range(1, k + 1)) / k
        r[k] = q[k] - sum(q[i] * q[k - i] for i in range(k + 1))
        Q[0][k] = -c * (problem.X.T @ (problem.Y * q[k]))
        for l in range(1, L):
            Q[l][k] = _cauchy(W[l - 1].transpose(0, 2, 1), Q[l - 1], k)
        for l in range(L):
            gradient = Q[l][k] if l == L - 1 else _cauchy(Q[l], S[l + 1].transpose(0, 2, 1), k)
            W[l][k + 1] = -tau * gradient / (k + 1)
    return W


def _cauchy(A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray:
    return A[0] @ B[0] if k == 0 else np.matmul(A[: k + 1], B[k::-1]).sum(axis=0)


class _Path(ProductTube):
    """A polynomial path over one step, with its bounds at nodes and on an ellipse around the step."""

    def __init__(self, problem: TailGradient, series: list[np.ndarray], c: float, tau: float, s: float):
        self.series, self.tau, self.s, self.order = series, tau, s, len(series[0]) - 1
        self.lengths = np.array([frobenius(layer) for layer in series])
        super().__init__(problem, [layer[0] for layer in series], c)
        k = np.arange(self.order + 1)
        # On the ellipse, and on the step itself: how far each layer may be from its value at the start.
        far, near = (np.sum(self.lengths[:, 1:] * (length * s) ** k[1:], axis=1) * UP for length in (REACH, 1.0))
        self.wide = [(a + b) * UP for a, b in zip(self.start, far, strict=True)]
        self.layers = [(a + b) * UP for a, b in zip(self.start, near, strict=True)]
        speed = np.sum(self.lengths[:, 1:] * k[1:] * (REACH * s) ** (k[1:] - 1), axis=1)
        moved = c * (math.prod(self.wide) * UP - math.prod(self.start) / UP)
        turn = float(problem.lengths.max()) * moved * UP
        slope, _ = problem.around(self.state, moved)
        self.usable = math.isfinite(slope) and (problem.exponential or turn <= LARGEST_TURN)
        self.slope = c * slope * UP
        others = [math.prod(self.wide[:l] + self.wide[l + 1 :]) for l in range(self.depth)]
        gradients = tau * self.slope * math.sqrt(sum(x * x for x in others))
        # Upper bound of the defect on the ellipse.
        self.most = (math.sqrt(float(np.sum(speed * speed))) * UP + gradients) * UP
        u = np.cos((2 * np.arange(NODES)[::-1] + 1) * math.pi / (2 * NODES))
        self.nodes = 0.5 * s * (1 + u)

    def end(self) -> tuple[list[np.ndarray], float]:
        """Return the rounded weights at the end, and a bound of their distance to the polynomial."""
        weights, off = self._at(np.array([self.s]))
        return [np.ascontiguousarray(W[0]) for W in weights], math.sqrt(float(np.sum(off * off))) * UP + TINY

    def _at(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the weights at several times, and a bound of the rounding of each layer, shape `(L, times)`."""
        k = np.arange(self.order + 1)
        per = np.array([gamma(2 * int(j) + 1) for j in k])[:, None] * s ** k[:, None]
        return [self._horner(layer, s) for layer in self.series], self.lengths @ per * UP + TINY

    def _velocity(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return `dθ̃/ds` at several times, and a bound of its rounding in each layer."""
        k = np.arange(1, self.order + 1)
        per = (np.array([gamma(2 * int(j) + 2) for j in k]) * k)[:, None] * s ** (k - 1)[:, None]
        found = [self._horner(layer[1:] * k[:, None, None], s) for layer in self.series]
        return found, self.lengths[:, 1:] @ per * UP + TINY

    @staticmethod
    def _horner(series: np.ndarray, s: np.ndarray) -> np.ndarray:
        x = s[:, None, None]
        value = series[-1] + 0.0 * x
        for coefficient in series[-2::-1]:
            value = value * x + coefficient
        return value

    def defect(self) -> float:
        """Return an upper bound of `‖dθ̃/ds + τ∇L(θ̃)‖` over the step."""
        weights, off = self._at(self.nodes)
        velocity, rounding = self._velocity(self.nodes)
        _, _, gradients, errors = self.problem.loss_gradient(weights, off, self.c)
        total = np.zeros(NODES)
        for l in range(self.depth):
            slope = self.tau * gradients[l]
            near = frobenius(velocity[l] + slope) + 3 * U * (frobenius(velocity[l]) + frobenius(slope))
            total += (near + rounding[l] + self.tau * errors[l] * UP) ** 2
        largest = math.sqrt(float(total.max())) * UP
        # The nodes are rounded, but the interpolation uses the exact nodes next to them.
        shifted = 8 * U * self.most / APART
        between = 4 * self.most * RHO ** (1 - NODES) / (RHO - 1)
        return ((largest + shifted) * LEBESGUE + between) * UP + TINY

    def exponent(self, radius: float) -> float:
        """Return an upper bound of `∫ m ds` over the step, on the tube of this radius."""
        L, grown_by = self.depth, self.moved(radius)
        if L == 1:
            return 0.0
        times, found = self.times, self.cross
        total = 0.0
        for k, (a, b) in enumerate(itertools.pairwise(times.tolist())):
            # Between two times, a function deviates from its straight line by at most Δ²/8 times its second
            # derivative. With size M on the ellipse, that is at most 2M over the squared distance to the ellipse.
            bend = 0.25 * ((b - a) * (1 + 8 * U) / (APART * self.s)) ** 2 * UP
            C = np.zeros((L, L))
            for i, j in itertools.combinations(range(L), 2):
                x_most = self.slope * math.prod(self.wide[:i]) * math.prod(self.wide[j + 1 :])
                m_most = math.prod(self.wide[i + 1 : j]) if j > i + 1 else 0.0
                (x, mid), (x_more, mid_more) = found[i, j], grown_by[i, j]
                x_here = max(x[k], x[k + 1]) + bend * x_most + x_more
                mid_here = max(mid[k], mid[k + 1]) + bend * m_most + mid_more
                C[i, j] = C[j, i] = x_here * mid_here * UP
            total += (b - a) * (1 + 4 * U) * greatest(C)
        return total * UP

    @cached_property
    def times(self) -> np.ndarray:
        """The times of the step at which the products are computed."""
        return np.linspace(0.0, self.s, PIECES + 1)

    @cached_property
    def cross(self) -> dict[tuple[int, int], tuple[list[float], list[float]]]:
        """Upper bounds of `‖P_{i−1}ᵀ G S_{j+1}ᵀ‖₂` and `‖W_{i+1} ⋯ W_{j−1}‖₂` at the times."""
        weights, off = self._at(self.times)
        return cross(self.problem, weights, off, self.c)
