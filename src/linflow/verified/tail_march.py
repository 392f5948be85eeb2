"""The march of a verified flow of an exponential or a logistic loss.

The path of a step is a Taylor polynomial in float64. No proof depends on its accuracy. Its defect is an analytic
function of time. The defect is computed at Chebyshev nodes; between the nodes, its size on an ellipse around the step
bounds it. The logarithmic norm is bounded by the products of the layers, both at the nodes and between them. Proofs:
docs/verified.md, section 11.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow.verified.classification import LARGEST_TURN, TailGradient
from linflow.verified.convex_march import SHORTER, ConvexMarch, ConvexPath
from linflow.verified.march import NO_RADIUS, TOO_SHORT, EnclosureStep, next_time, time_exponent
from linflow.verified.rounding import TINY, UP, U, frobenius

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


@dataclass
class TailMarch(ConvexMarch):
    """State of a verified flow of an exponential or a logistic loss.

    Attributes:
        length: duration of the last step; 0 before the first.
    """

    problem: TailGradient

    def __post_init__(self) -> None:
        super().__post_init__()
        self.length = 0.0

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
                self.trouble = TOO_SHORT
                return None
            s = (after - self.t) / tau  # exact: τ is a power of two
            step = self._try(tau, s, series)
            if step is not None:
                return step
            s *= 0.7
        self.trouble = self.trouble or NO_RADIUS
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
        step = self._confirmed(path, path.defect() * s)
        self.length = self.length if step is None else step.length
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


class _Path(ConvexPath):
    """A polynomial path over one step, with its bounds at nodes and on an ellipse around the step."""

    def __init__(self, problem: TailGradient, series: list[np.ndarray], c: float, tau: float, s: float):
        super().__init__(problem, series, c, tau, s)
        k = np.arange(self.lengths.shape[1])
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
        self.knots = np.linspace(0.0, s, PIECES + 1)
        self.widths = (np.diff(self.knots) * (1 + 4 * U)).tolist()

    def defect(self) -> float:
        """Return an upper bound of `‖dθ̃/ds + τ∇L(θ̃)‖` over the step."""
        weights, off = self.at(self.nodes)
        velocity, rounding = self.velocity(self.nodes)
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

    @cached_property
    def bends(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Upper bounds of how far the two norms of `cross` exceed their chords between two knots.

        That is at most Δ²/8 times the second derivative. With size M on the ellipse, the second derivative is at most
        2M over the squared distance to the ellipse.
        """
        widest = float(np.diff(self.knots).max()) * (1 + 8 * U)
        bend, x, found = 0.25 * (widest / (APART * self.s)) ** 2 * UP, self.wide, {}
        for i, j in itertools.combinations(range(self.depth), 2):
            outer = self.slope * math.prod(x[:i]) * math.prod(x[j + 1 :])
            found[i, j] = bend * outer, bend * math.prod(x[i + 1 : j]) if j > i + 1 else 0.0
        return found
