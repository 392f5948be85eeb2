"""The march of a verified flow: each step has a path, and a radius around it that contains the exact flow.

The radius after a step is `ρ_1 = (ρ_0 + ∫δ) exp(∫m + ½Λ_3 ρ_1 h)`, plus the rounding of the end. Proofs:
docs/verified.md, sections 2 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linflow.verified import compiled
from linflow.verified.arithmetic import DEGREES, FLOAT64, LOW, Arithmetic, Float64
from linflow.verified.elimination import best_cost
from linflow.verified.log_norm import Constants, Node, Tube, greatest, level_three, level_two
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import TINY, UP, frobenius, gamma, spectral
from linflow.verified.taylor import LONGEST, Expansion

LARGEST_HESSIAN = 1500
"""The Hessian itself bounds the logarithmic norm where that costs no more than for this many weights, dense."""

BUDGETS = ((300, 0.5, 0.5), (1500, 1.0, 3.0), (math.inf, 8.0, 8.0))
"""Total amounts that the bound by products may add to the exponents of a flow and of a descent, up to each number of
weights: a Hessian of more weights takes longer, and descents take more steps."""

CHEAP = 1e-4
"""The bound by products is always used in a step if it adds at most this to the exponent."""

OVERHEAD, FLOOR = 0.15, 3e-4
"""The bound between two Hessians may add this fraction of the exponent of a step, plus this amount."""


GAINS = (1.0, 1.7, 2.3)
"""How much longer the steps of each degree are, at least, where curvatures are far apart."""

RAISED, DEEP = 200, 8
"""The most weights and layers for which the degree is raised: steps store more numbers, and bounds add up more."""

REACHES = 8
"""Largest number of tubes tried for one step. Each is twice as wide as the radius that the last one gave."""

BITS = 20
"""Binary digits of the length of a step, so that times and lengths are sums without rounding."""

TOO_SHORT = "the step is too short to change the time reached"
NO_RADIUS = "no radius was confirmed, however short the step"
PAST_FLOAT64 = "the loss at the start leaves float64; rescale the data or the weights"


def budget(size: int, *, descent: bool = False) -> float:
    """Return the total amount that the bound by products may add to the exponent, for `size` weights."""
    return next(amounts[descent] for most, *amounts in BUDGETS if size <= most)


def reached(bounds: Callable[[float], tuple[float, float]]) -> dict[str, list[float]]:
    """Return the bounds for each power of ten, down to 10⁻¹², that is proved to be reached."""
    found = {}
    for exponent in range(1, 13):
        low, high = bounds(10.0**-exponent)
        if math.isinf(high):
            break
        found[f"1e-{exponent:02d}"] = [low, high]
    return found


@dataclass(frozen=True)
class EnclosureStep:
    """One step: the path on `[t, t + length]`, and the bounds on the tube around it.

    Attributes:
        t: start time.
        length: duration.
        tau: the unit of time of the path's variable.
        coefficients: coefficients of the layers' polynomials in float64, of shape `(order + 1, rows, columns)` each.
            A path that is computed with more digits differs from these by their rounding.
        lengths: upper bounds of their Frobenius norms, one row per layer.
        radius: upper bound of `‖θ − θ̃‖` over the step.
        constants: Lipschitz constants on the tube.
        exponent: upper bound of `∫ m` over the step.
        gap: bounds of the loss gap at the end of the step.
    """

    t: float
    length: float
    tau: float
    coefficients: tuple[np.ndarray, ...]
    lengths: np.ndarray
    radius: float
    constants: Constants
    exponent: float
    gap: tuple[float, float]

    def at(self, t: float) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the weights of the path at a time within the step, and a bound of the rounding of each layer."""
        s = (t - self.t) / self.tau
        order = self.lengths.shape[1] - 1
        errors = rounding_of_value(self.lengths, s)
        weights = []
        for series in self.coefficients:
            value = series[-1]
            for j in range(order - 1, -1, -1):
                value = value * s + series[j]
            weights.append(value)
        return weights, errors


def next_time(t: float, length: float, end: float) -> float | None:
    """Return the end of a step from t of at most this length, or None if there is no such step.

    Both the end and the length are exact in float64.
    """
    mantissa, exponent = math.frexp(length)
    after = min(t + math.ldexp(math.floor(math.ldexp(mantissa, BITS)), exponent - BITS), end)
    length = after - t
    return None if after <= t or t + length != after or after - length != t else after


def rounded_up(t: float) -> float:
    """Return the least number of 24 binary digits that is at least t. Sums of such times are exact."""
    if math.isinf(t):
        return t
    mantissa, exponent = math.frexp(t)
    return math.ldexp(math.ceil(math.ldexp(mantissa, 24)), exponent - 24)


def time_exponent(size: float, speed: float) -> int:
    """Return k so that weights of this size and speed change by about their size in the time `2^k`."""
    ratio = size / speed if speed > 0 else 1.0
    return round(math.log2(min(max(ratio, 1e-100), 1e100)))


def rounding_of_value(lengths: np.ndarray, s: float) -> np.ndarray:
    """Return a bound of the rounding of each layer when the polynomials are evaluated at a rounded s."""
    order = lengths.shape[1] - 1
    # (t − t_0)/τ is rounded twice, which changes the k-th power by 2k units. Horner's rule changes it by 2k + 1, and
    # coefficients of more digits are rounded once.
    return np.sum(lengths * gamma(4 * order + 2) * abs(s) ** np.arange(order + 1), axis=1) * UP + TINY


def product_error(weights: Sequence[np.ndarray], errors: Sequence[float] | np.ndarray) -> tuple[np.ndarray, float]:
    """Return the computed product, and a bound of its Frobenius distance to the product of the exact weights."""
    P, error, norm = weights[0], errors[0], spectral(weights[0])
    for W, e in zip(weights[1:], errors[1:], strict=True):
        w = spectral(W)
        length = float(frobenius(P))
        Z = P @ W
        error = (error * (w + e) + norm * e + gamma(W.shape[0]) * length * float(frobenius(W))) * UP + TINY
        P, norm = Z, spectral(Z)
    return P, error


@dataclass
class EnclosureMarch:
    """State of a verified flow.

    Attributes:
        problem: the affine gradient.
        scale: output scale c.
        t: time reached.
        radius: upper bound of the distance of the exact weights to the computed ones.
        exponent: `∫ m` so far.
        first: bounds of the initial loss gap.
        gap: bounds of the loss gap now.
        trouble: why the march cannot go on; empty while it can.
        fast: whether compiled code may be used. It is used if it is available and the matrices are small.
        coarse_from: the time from which a path in pairs goes on in float64.
    """

    problem: AffineGradient
    weights: list[np.ndarray]
    scale: float
    radius: float = 0.0
    t: float = 0.0
    exponent: float = 0.0
    trouble: str = ""
    hessians: int = 0
    loose: float = 0.0
    arithmetic: Arithmetic = FLOAT64
    fast: bool = False
    coarse_from: float = math.inf
    layout: compiled.Layout | None = field(default=None, init=False)
    bounded: tuple[Any, float] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.size = sum(W.shape[0] * W.shape[1] for W in self.weights)
        cost, _ = best_cost([*(W.shape[0] for W in self.weights), self.weights[-1].shape[1]])
        large = cost > LARGEST_HESSIAN**3 / 6
        self.curved = len(self.weights) > 1 and not large
        if large and self.arithmetic is FLOAT64:
            self.arithmetic = LOW
        self._lay_out()
        self.node = self._node(self._first_path())
        path = self.node.path
        motion = self._tube(0.0).constants(self.radius).motion
        self.first = self.gap = path.gap((path.distance_error + motion * self.radius) * UP)

    def _lay_out(self) -> None:
        """Choose between compiled and plain code."""
        fits = self.fast and isinstance(self.arithmetic, Float64)
        order = self.arithmetic.order
        self.layout = compiled.layout(self.problem, self.weights, self.scale, order) if fits else None

    def hurry(self, factor: float) -> None:
        """Raise the degree of the path if steps that are longer by a factor are needed.

        Where curvatures are far apart, a path of degree p follows the flow over a time of about `p/e` over the
        largest one. The degree is the least that gains the factor, or the largest.
        """
        before = self.arithmetic.order
        if factor <= 1 or not isinstance(self.arithmetic, Float64):
            return
        order = DEGREES[0]
        if self.size <= RAISED and len(self.weights) <= DEEP:
            least = factor * GAINS[DEGREES.index(before)]
            order = next((p for p, gain in zip(DEGREES, GAINS, strict=True) if gain >= least), DEGREES[-1])
        if order > before:
            path, kept = self.node.path, (self.arithmetic, self.layout)
            self.arithmetic = Float64(order)
            self._lay_out()
            longer = self._path([series[0] for series in path.coefficients], path.tau)
            if longer.longest() > path.longest():
                self.node = self._node(longer)
            else:  # its bounds left float64
                self.arithmetic, self.layout = kept

    def _coarsen(self) -> None:
        """Let a path in pairs go on in float64, from its weights rounded to that."""
        path, self.coarse_from = self.node.path, math.inf
        self.radius = (self.radius + self.arithmetic.rest * path.norm()) * UP
        self.arithmetic = FLOAT64
        self._lay_out()
        self.node = self._node(self._path([series[0] for series in path.values], path.tau))

    def _path(self, weights: Any, tau: float, order: int | None = None) -> Any:
        """Return the path from given weights: an `Expansion`, or its compiled equivalent."""
        if self.layout is not None:
            return compiled.CompiledPath(self.layout, weights, tau, order)
        return Expansion(self.problem, weights, self.scale, tau, order, self.arithmetic)

    def _node(self, path: Any) -> Any:
        return Node(path) if self.layout is None else compiled.CompiledNode(path)

    def _tube(self, s: float) -> Any:
        return Tube(self.node.path, s) if self.layout is None else compiled.CompiledTube(self.node, s)

    def _first_path(self) -> Any:
        """Return the path from the start, in a unit of time for which its coefficients neither grow nor shrink."""
        probe = self._path(self.weights, 1.0, 1)
        speed = math.sqrt(sum(float(np.sum(W[1] ** 2)) for W in probe.coefficients))
        exponent = time_exponent(probe.norm(), speed)
        path = probe
        for _ in range(100):
            path = self._path(self.weights, 2.0**exponent)
            if not np.isfinite(path.defects).all():
                exponent -= 8
                continue
            longest = path.longest()
            if 0.25 <= longest <= 8 or longest >= LONGEST:
                break
            exponent += round(math.log2(longest))
        return path

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        if self.t >= self.coarse_from:
            self._coarsen()
        path = self.node.path
        s = path.longest()
        for _ in range(40):
            after = next_time(self.t, s * path.tau, end)
            if after is None:
                self.trouble = TOO_SHORT
                return None
            s = (after - self.t) / path.tau  # exact: τ is a power of two
            tube = self._tube(s)
            level = self._level(tube)
            shorter = self._shorter(tube) if level == 3 else 1.0
            if shorter < 1:
                s *= shorter
                continue
            step = self._try(tube, level)
            if step is not None:
                return step
            s *= 0.5
        self.trouble = self.trouble or NO_RADIUS
        return None

    def _level(self, tube: Tube) -> int:
        """Return 2 if the products bound the log-norm well enough or the Hessian is too large, otherwise 3."""
        if not self.curved:
            return 2
        if self.bounded is None or self.bounded[0] is not self.node:
            x, m = self.node.products
            self.bounded = self.node, greatest(x * m)
        spent = self.bounded[1] * tube.s * tube.path.tau
        return 2 if spent <= CHEAP or self.loose + spent <= budget(self.size) else 3

    def _shorter(self, tube: Tube) -> float:
        """Return by which factor to shorten a step over which the Hessian could sag too far below its chord, or 1."""
        tau, s = tube.path.tau, tube.s
        allowed = OVERHEAD * tau * s * max(0.0, -self.node.least) + FLOOR
        share = allowed / (tau * tube.sag) if tube.sag > 0 else math.inf
        # The sag grows with the cube of the length or faster, and what is allowed at most in proportion to it.
        return 1.0 if share >= 1 else max(0.5, 0.98 * math.sqrt(share))

    def _try(self, tube: Tube, level: int) -> EnclosureStep | None:
        path, s = tube.path, tube.s
        tau = path.tau
        length = s * tau
        scale_of_time = 2.0 ** round(math.log2(length))
        weights, jump = path.at(s)
        node = self._node(self._path(weights, scale_of_time))
        products: Any = level_two if self.layout is None else compiled.level_two
        bound = products if level == 2 else level_three
        lengths = path.lengths
        # The tube also contains the rounded values of the path: bounds at times within the step start from them.
        rounded = float(np.linalg.norm(rounding_of_value(lengths, s))) * UP
        reach = 4 * (self.radius + tube.path.added(s) + rounded)
        for _ in range(REACHES):
            # One set of constants is enough if the tube turns out to contain the radius.
            constants = tube.constants(reach)
            exponent = tau * bound(self.node, node, tube, jump, constants) * UP
            radius = self._closed(tube, constants, exponent, length)
            if radius is None:
                return None
            after = (radius + jump) * UP
            if after + rounded <= reach:
                break
            reach = 2 * (after + rounded)
        else:
            return None
        self.hessians += level == 3
        self.loose += exponent if level == 2 else 0.0
        error = (node.path.distance_error + constants.motion * after) * UP
        gap = node.path.gap(error)
        step = EnclosureStep(
            self.t,
            length,
            tau,
            path.values,
            lengths,
            radius,
            constants,
            exponent,
            gap,
        )
        self.t, self.radius, self.exponent, self.gap, self.node = (
            self.t + length,
            after,
            self.exponent + exponent,
            gap,
            node,
        )
        return step

    def _closed(self, tube: Tube, constants: Constants, exponent: float, length: float) -> float | None:
        """Return a radius that the step does not leave if the constants hold on it, or None."""
        added = self.radius + tube.path.added(tube.s)
        if exponent > 300:
            self.trouble = f"the logarithmic norm would multiply the radius by e^{exponent:.0f} in one step"
            return None
        guess = added * math.exp(exponent) * (1 + 1e-6)
        for _ in range(30):
            if guess > 1e3 * (1 + tube.path.norm()):
                break
            growth = exponent + 0.5 * constants.third * guess * length
            if growth > 300:
                break
            radius = added * math.exp(growth) * UP * UP
            if radius <= guess:
                return radius
            guess = radius * (1 + 1e-9) + (radius - guess)
        self.trouble = (
            f"the radius of the enclosure, {added:.2g}, is too large for the curvature of the loss (a disturbance "
            f"may have grown by e^{self.exponent:.3g})"
        )
        return None
