"""Taylor series of the flow over one step, with a proved bound of the defect of the computed polynomial.

Time is scaled by `τ`: `θ' = −τ ∇L(θ)` in `s = t/τ`. The path of the step is the polynomial `Σ_{k≤p} θ_k s^k` with the
computed coefficients. Its defect `θ̃' + τ ∇L(θ̃)` is a polynomial too. Below degree p, its coefficients are rounding.
From degree p on, the convolution of the norms of the factors bounds them. Proofs: docs/verified.md, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow.verified.arithmetic import FLOAT64, Arithmetic, terms
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, spectral

LONGEST = 1e3
"""Upper limit on the scaled length of a step."""


OF_ROUNDING = 0.25
"""The truncation of a step may be this part of the bound of its rounding, so that it hardly adds to the radius."""


class MatrixSeries:
    """A matrix series `A_0 + A_1 s + …`: its coefficients below degree `order`, their norms and their errors.

    Attributes:
        values: the computed coefficients in float64, shape `(order, rows, columns)`.
        lengths: upper bounds of `‖A_k‖_F` of the computed coefficients.
        norms: upper bounds of `‖A_k‖₂`: sharp for `k = 0`, equal to `lengths` for the others.
        errors: upper bounds of the Frobenius distance of the computed coefficients to the exact ones.
        rest: relative distance of the float64 `values` to the computed coefficients; 0 if these are float64 too.
    """

    __slots__ = ("errors", "lengths", "norms", "rest", "values")

    def __init__(self, values: np.ndarray, errors: np.ndarray | None = None, rest: float = 0.0):
        self.values, self.rest = values, rest
        self.lengths = frobenius(values) * (1 + 2 * rest)
        self.norms = self.lengths.copy()
        self.norms[0] = spectral(values[0]) + 2 * rest * self.lengths[0]
        self.errors = np.zeros(len(values)) if errors is None else errors

    def exact_norms(self) -> np.ndarray:
        """Return upper bounds of the spectral norms of the exact coefficients."""
        return (self.norms + self.errors) * UP

    def exact_lengths(self) -> np.ndarray:
        """Return upper bounds of the Frobenius norms of the exact coefficients."""
        return (self.lengths + self.errors) * UP


class PolynomialPath:
    """A polynomial path over one step, whose defect has bounded coefficients.

    Attributes:
        arithmetic: the arithmetic of the coefficients.
        order: the degree p.
        tau: the unit of time of the path's variable.
        coefficients: the series of the weights in scaled time, with p + 1 coefficients each.
        weights: the same with their norms.
        defects: upper bounds of the coefficients of the defect from degree p on; 0 below.
        rounding: upper bounds of those below degree p.
    """

    arithmetic: Arithmetic
    order: int
    tau: float
    coefficients: list[Any]
    weights: list[MatrixSeries]
    defects: np.ndarray
    rounding: np.ndarray

    @property
    def values(self) -> tuple[np.ndarray, ...]:
        """The coefficients of the layers in float64."""
        return tuple(factor.values for factor in self.weights)

    @property
    def lengths(self) -> np.ndarray:
        """Upper bounds of the Frobenius norms of the layers' coefficients, one row per layer."""
        return np.array([factor.lengths for factor in self.weights])

    def norm(self) -> float:
        """Return `‖θ_0‖_F`."""
        return math.sqrt(sum(float(factor.lengths[0]) ** 2 for factor in self.weights))

    def truncation(self, s: float) -> float:
        """Return a bound of `∫_0^s` of the part of the defect from degree p on."""
        return integral(self.defects, s)

    def added(self, s: float) -> float:
        """Return a bound of `∫_0^s ‖θ̃' + τ∇L(θ̃)‖`: truncation and rounding."""
        return (self.truncation(s) + integral(self.rounding, s)) * UP

    def longest(self) -> float:
        """Return the scaled time over which the truncation stays below its share of `‖θ‖`."""
        return self._longest(self.arithmetic.truncation * self.norm() + TINY)

    def _longest(self, allowed: float) -> float:
        first = float(self.defects[self.order]) if len(self.defects) > self.order else 0.0
        s = (allowed * (self.order + 1) / first) ** (1 / (self.order + 1)) if first > 0 else LONGEST
        s = min(s, LONGEST)
        for _ in range(200):
            if self.truncation(s) <= allowed:
                return s
            s *= 0.93
        return s

    def at(self, s: float) -> tuple[list[np.ndarray], float]:
        """Return the rounded weights of the path at s, and a bound of their distance to the polynomial."""
        arithmetic, k = self.arithmetic, np.arange(self.order + 1)
        # The coefficient of degree k passes through k products and k + 1 sums.
        per = np.array([gamma(2 * int(j) + 1, arithmetic.unit) for j in k]) * s**k
        weights, jumps = [], 0.0
        for factor, series in zip(self.weights, self.coefficients, strict=True):
            value = series[-1]
            for j in range(self.order - 1, -1, -1):
                value = arithmetic.plus(arithmetic.times(value, s), series[j])
            weights.append(value)
            jumps += float(np.sum(per * factor.lengths)) ** 2
        return weights, math.sqrt(jumps) * UP + TINY


class Expansion(PolynomialPath):
    """The path over one step from given weights, with all its bounds.

    Attributes:
        coefficients: the series of the layers `W_l` in scaled time, with p + 1 coefficients each.
        tau: `τ`.
        prefixes: `P_0 … P_L` (None for `P_0 = I`).
        suffixes: `S_1 … S_{L+1}` from index 1 (None for the identity).
        slope: the series of `G = c A (c P_L − V) B`, which includes one factor c of the chain rule.
        pulled: `Q_l = P_{l−1}ᵀ G`.
    """

    def __init__(
        self,
        problem: AffineGradient,
        weights: Sequence[np.ndarray],
        scale: float,
        tau: float,
        order: int | None = None,
        arithmetic: Arithmetic = FLOAT64,
    ):
        self.problem, self.scale, self.tau, self.arithmetic = problem, scale, tau, arithmetic
        gradient = arithmetic.gradient(problem)
        p = self.order = arithmetic.order if order is None else order
        L = self.depth = len(weights)
        weights = [arithmetic.start(w) for w in weights]
        zeros, cauchy, turned = arithmetic.zeros, arithmetic.cauchy, arithmetic.turned
        W = [zeros(p + 1, *w.shape[:2]) for w in weights]
        for series, w in zip(W, weights, strict=True):
            series[0] = w
        n, m = weights[0].shape[0], weights[-1].shape[1]
        P: list[Any] = [None, W[0], *(zeros(p, n, w.shape[1]) for w in weights[1:])]
        S: list[Any] = [None, *(zeros(p, w.shape[0], m) for w in weights[:-1]), W[-1], None]
        G = zeros(p, n, m)
        Q = [G, *(zeros(p, w.shape[1], m) for w in weights[:-1])]
        grads = [zeros(p, *w.shape[:2]) for w in weights]
        for k in range(p):
            for l in range(2, L + 1):
                P[l][k] = cauchy(P[l - 1], W[l - 1], k)
            for l in range(L - 1, 1, -1):
                S[l][k] = cauchy(W[l - 1], S[l + 1], k)
            E = arithmetic.times(P[L][k], scale)
            if k == 0:
                E = arithmetic.minus(E, gradient.V)
                self.distance = arithmetic.high(E)
            G[k] = arithmetic.times(gradient.apply(E), scale)
            for l in range(1, L):
                Q[l][k] = cauchy(turned(W[l - 1]), Q[l - 1], k)
            for l in range(L):
                grads[l][k] = Q[l][k] if S[l + 2] is None else cauchy(Q[l], turned(S[l + 2]), k)
                W[l][k + 1] = arithmetic.over(arithmetic.times(grads[l][k], -tau), k + 1)
        self.coefficients = W
        self._bound(P, S, Q, grads)

    def longest(self) -> float:
        """Return the scaled time over which the truncation stays below its share of `‖θ‖` or of the rounding."""
        s = super().longest()
        allowed = OF_ROUNDING * integral(self.rounding, s)
        return max(s, self._longest(allowed)) if allowed > 0 else s

    def _bound(self, P: list, S: list, Q: list, grads: list) -> None:
        """Compute the norms and errors of every series, then the bounds of the defect."""
        L, p, c, problem = self.depth, self.order, self.scale, self.problem
        exact = self.arithmetic.gradient(problem)
        high, unit, rest = self.arithmetic.high, self.arithmetic.unit, self.arithmetic.rest

        def product(values: np.ndarray, A: MatrixSeries, B: MatrixSeries, inner: int) -> MatrixSeries:
            counts = [terms(inner, k) for k in range(p)]
            return multiplied(high(values), A, B, np.array([gamma(n, unit) for n in counts]), rest)

        W = self.weights = [MatrixSeries(high(w), None, rest) for w in self.coefficients]
        head = [head_of(w, p) for w in W]
        self.prefixes: list[Any] = [None, head[0]]
        for l in range(2, L + 1):
            self.prefixes.append(product(P[l], self.prefixes[-1], head[l - 1], W[l - 1].values.shape[1]))
        self.suffixes: list[Any] = [None] * (L + 2)
        self.suffixes[L] = head[L - 1]
        for l in range(L - 1, 1, -1):
            self.suffixes[l] = product(S[l], head[l - 1], self.suffixes[l + 1], W[l - 1].values.shape[2])
        last = self.prefixes[L]
        lengths = c * last.lengths * (1 + 2 * U)
        errors = c * (last.errors + 2 * unit * last.lengths)
        offset = self.offset = float(frobenius(self.distance)) * (1 + 2 * rest)
        errors[0] += unit * offset
        lengths[0] = offset
        self.distance_error = float(errors[0] * UP + rest * offset + exact.shift + TINY)
        errors = c * (exact.error_of(lengths, errors) + 2 * unit * problem.smoothness * lengths)
        errors[0] += c * exact.residue
        self.slope = MatrixSeries(high(Q[0]), errors * UP + TINY, rest)
        self.pulled = [self.slope]
        for l in range(1, L):
            self.pulled.append(product(Q[l], head[l - 1], self.pulled[-1], W[l - 1].values.shape[1]))
        squares = np.zeros(p)
        gradients, columns = [], Q[0].shape[2]
        for l in range(L):
            suffix = self.suffixes[l + 2]
            gradient = self.pulled[l] if suffix is None else product(grads[l], self.pulled[l], suffix, columns)
            gradients.append(gradient)
            k = np.arange(1, p + 1)
            squares += (self.tau * gradient.errors + 3 * unit * k * W[l].lengths[1:]) ** 2
        self.gradients = gradients
        self.rounding = np.sqrt(squares) * UP + TINY
        self._tail()

    def _tail(self) -> None:
        """Compute bounds of all coefficients of the products, and of the defect from degree p on."""
        L, p, c = self.depth, self.order, self.scale
        one = np.ones(1)
        w = [factor.norms for factor in self.weights]
        prefix = [one, w[0]]
        for l in range(2, L + 1):
            prefix.append(extended(self.prefixes[l].exact_norms(), prefix[-1], w[l - 1]))
        suffix: list[np.ndarray] = [one] * (L + 2)
        suffix[L] = w[L - 1]
        for l in range(L - 1, 1, -1):
            suffix[l] = extended(self.suffixes[l].exact_norms(), w[l - 1], suffix[l + 1])
        # From degree p on, E is c P_L alone. The Frobenius norm of P_L would be sharper, but not enough to matter.
        rank = math.sqrt(min(self.slope.values.shape[1:]))
        slope = c * c * self.problem.smoothness * rank * prefix[L] * UP
        slope[:p] = self.slope.exact_lengths()
        pulled = [slope]
        for l in range(1, L):
            pulled.append(extended(self.pulled[l].exact_lengths(), w[l - 1], pulled[-1]))
        total = np.zeros(1)
        for l in range(L):
            full = convolved(pulled[l], suffix[l + 2]) if l + 2 <= L else pulled[l]
            total = sum_of(total, full * full)
        self.defects = self.tau * np.sqrt(total) * UP
        self.defects[:p] = 0.0
        self.prefix_norms, self.suffix_norms, self.slope_norms, self.pulled_norms = prefix, suffix, slope, pulled

    def gap(self, error: float) -> tuple[float, float]:
        """Return bounds of the loss gap for every product within `error` of the product at the start."""
        return self.problem.gap(self.distance, error)


def head_of(factor: MatrixSeries, count: int) -> MatrixSeries:
    """Return the first `count` coefficients of a series."""
    head = object.__new__(MatrixSeries)
    head.values, head.lengths = factor.values[:count], factor.lengths[:count]
    head.norms, head.errors, head.rest = factor.norms[:count], factor.errors[:count], factor.rest
    return head


def multiplied(
    values: np.ndarray, A: MatrixSeries, B: MatrixSeries, units: np.ndarray, rest: float = 0.0
) -> MatrixSeries:
    """Return the series of a computed Cauchy product, with the errors of its factors and its own rounding.

    `units` holds the `γ` of each coefficient. The error is `fl(AB) − A*B* = (fl(AB) − AB) + (A − A*)B + A(B − B*) −
    (A − A*)(B − B*)`.
    """
    p = len(values)
    own = np.convolve(A.lengths, B.lengths)[:p] * units
    carried = np.convolve(A.errors, B.norms + B.errors)[:p] + np.convolve(A.norms, B.errors)[:p]
    return MatrixSeries(values, (own + carried) * UP + TINY, rest)


def convolved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the convolution of two series of non-negative numbers, rounded up."""
    return np.convolve(a, b) * UP


def extended(known: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the convolution of a and b, with its first entries lowered to known bounds."""
    full = convolved(a, b)
    count = min(len(known), len(full))
    full[:count] = np.minimum(full[:count], known[:count])
    return full


def sum_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum of two series of any lengths."""
    if len(a) < len(b):
        a, b = b, a
    total = a.copy()
    total[: len(b)] += b
    return total


def integral(series: np.ndarray, s: float) -> float:
    """Return `Σ a_k s^{k+1}/(k+1)`, rounded up."""
    k = np.arange(1, len(series) + 1)
    with np.errstate(under="ignore"):
        return float(np.sum(series * s**k / k)) * UP
