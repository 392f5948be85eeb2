"""A passage of a verified flow: pairs with a kink that is not convex cross 0 within a short time.

At such a kink two solutions can part. If they cross it at a speed of at least ζ, they part by a bounded factor only.
Proofs: docs/relu_verified.md, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from linflow.relu.pattern_path import Data
from linflow.relu.pattern_tube import PatternTube, inverse_square
from linflow.relu.pieces import SLIDING, Pattern
from linflow.verified.march import rounding_of_value
from linflow.verified.rounding import TINY, UP, frobenius, gamma

TUBES = 10
"""Largest number of tubes that are tried."""
ADJUSTED = 1e-9
"""The largest part of the size of the weights by which a path may be put onto the sides of its pattern in a step."""


@dataclass(frozen=True)
class Grown:
    """A radius that is confirmed: on the step, and the tube that it rests on; or the pairs that forbid it."""

    radius: float
    exponent: float
    reach: float
    blocking: np.ndarray | None = None

    @property
    def holds(self) -> bool:
        """Whether the radius is confirmed."""
        return self.radius < math.inf


def refused(blocking: np.ndarray | None = None) -> Grown:
    """Return the answer that no radius is confirmed."""
    return Grown(math.inf, 0.0, 0.0, blocking)


def grown(
    tubes: list[PatternTube],
    radius: float,
    jumps: float,
    crossing: Callable[[float, float], tuple[float, float] | None] | None = None,
) -> Grown:
    """Return a radius that the flow does not leave over one step, or over two that follow each other.

    Args:
        tubes: the steps.
        radius: upper bound of the distance at their start.
        jumps: the rounding of the path between and after them.
        crossing: what crossings add, an amount and the logarithm of a factor, from the radius of the tube and that
            before the first of them. None if one is not transversal.
    """
    own = sum(own_error(tube) for tube in tubes)
    aside = max(tube.adjusted[0] for tube in tubes)
    if not own <= ADJUSTED * tubes[0].path.norm():
        return refused()
    rounded = sum(float(np.linalg.norm(rounding_of_value(tube.path.lengths, tube.s))) for tube in tubes) * UP
    base = (radius + own + jumps) * UP
    reach = 1.5 * (base + aside + rounded)
    for _ in range(TUBES):
        blocking = np.any([tube.blocking(reach) for tube in tubes], axis=0)
        if blocking.any():
            return refused(blocking)
        exponent = sum(tube.exponent(reach) for tube in tubes) * UP
        turned = sum(t.constants(reach).third * t.adjusted[0] * t.s * t.path.tau for t in tubes)
        first = (base + turned) * math.exp(min(exponent, 300.0)) * UP * UP + aside
        more, factor = (0.0, 0.0) if crossing is None else crossing(reach, first) or (math.inf, 0.0)
        if not exponent + factor < 300 or not more < math.inf:
            return refused()
        found = (base + turned + more) * math.exp(exponent + factor) * UP * UP + aside
        after = (found + jumps + rounded) * UP
        if after <= reach:
            return Grown(found, exponent + factor, reach)
        reach = 1.5 * after
        if not reach < 1e3 * (1 + tubes[0].path.norm()):
            break
    return refused()


def own_error(tube: PatternTube) -> float:
    """Return what the path of one step adds to a radius: its defect, its correction and the forces out of range."""
    size, variation = tube.adjusted
    return (tube.path.added(tube.s) + 2 * size + variation + tube.forced) * UP


class Crossing:
    """What the crossings of a passage cost.

    Args:
        tubes: the step to the crossing, if there is one, and the step after it.
        layers: the computed weights at the crossing.
        pattern: the pattern after it.
        pairs: the pairs that cross, a mask.

    After an answer that is None, `slow` is the pair `(sample, neuron)` without a positive speed.
    """

    slow: tuple[int, int] | None = None

    def __init__(self, tubes: list[PatternTube], layers: list[np.ndarray], pattern: Pattern, pairs: np.ndarray):
        self.tubes, self.layers, self.pattern, self.pairs = tubes, layers, pattern, pairs
        self.data: Data = tubes[0].data
        self.way = sum(tube.way for tube in tubes)
        low = np.min([tube.low.min(axis=0) for tube in tubes], axis=0)
        self.beyond = np.maximum(0.0, -low)

    def __call__(self, reach: float, first: float) -> tuple[float, float] | None:
        """Return the amount and the logarithm of the factor that crossings add to a radius.

        Args:
            reach: radius of the tube.
            first: upper bound of the radius before any of the pairs crosses.
        """
        data, amount, factor = self.data, 0.0, 0.0
        unknown = np.any([tube.near(reach).any(axis=0) for tube in self.tubes], axis=0) | self.pairs
        pulls, moved = self._pulls(reach)
        own = sum(own_error(tube) for tube in self.tubes)
        time = self._clear_time(first)
        for j in np.flatnonzero(self.pairs.any(axis=0)):
            neuron = Neuron(self, int(j), unknown[:, j], pulls[:, j], float(moved[j]))
            for i in np.flatnonzero(self.pairs[:, j]):
                concave = max(0.0, float(moved[j] - pulls[i, j]))
                if not concave:
                    continue
                speed = neuron.speed(int(i), first, time)
                if not speed > 0 or any(tube.sliding[i, j] for tube in self.tubes):
                    self.slow = int(i), int(j)
                    return None
                cost = (1 - data.slope) * data.lengths[i] * concave / speed * UP
                amount += cost * 2 * (self.beyond[i, j] + data.lengths[i] * own) * UP
                factor += math.log1p(cost * data.lengths[i]) * UP
        return amount * UP, factor * UP

    def _clear_time(self, radius: float) -> float:
        """Return for how long all pairs that cross are clear of 0, from the start of the passage."""
        if len(self.tubes) < 2:
            return 0.0
        tube = self.tubes[0]
        close = (tube.low <= self.data.lengths[:, None] * radius * UP) & self.pairs
        near = np.append(close.any(axis=(1, 2)), True)
        return float(np.argmax(near)) * tube.s / len(close) * tube.path.tau * (1 - 1e-12)

    def _pulls(self, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Return `(R v_j)_i` at the crossing, and how far it can be from that within the tube, for each neuron."""
        data, (first, second) = self.data, self.layers
        R, error = data.residual([first, second], (0.0, 0.0))
        away, size = (reach + self.way) * UP, float(frobenius(R))
        rows = np.sqrt(np.sum(second**2, axis=1)) * UP
        features = float(frobenius(data.start.activate(data.X @ first))) * UP
        turned = math.hypot(data.norm * float(frobenius(second)), features) * away + 0.5 * data.norm * away**2
        moved = (turned + error) * (rows + away) + size * away + gamma(R.shape[1] + 2) * size * rows
        return R @ second.T, moved * UP + TINY


class Neuron:
    """One neuron at a crossing, and what forces act on it at all weights of the tube.

    The force of a sample is between `least` and `most`, each off by at most `error`.
    """

    def __init__(self, crossing: Crossing, j: int, unknown: np.ndarray, pulls: np.ndarray, moved: float):
        self.data, self.sides = crossing.data, crossing.pattern.sides[:, j]
        before = crossing.tubes[0].path.pattern.sides[:, j]
        self.held = np.flatnonzero((self.sides == SLIDING) & (before == SLIDING) & ~crossing.pairs[:, j])
        X, (N, d) = self.data.X, self.data.X.shape
        self.K, self.pulls = X @ X.T, pulls
        self.error = moved + gamma(N + d + 8) * np.abs(pulls)
        low = np.where(unknown, self.data.slope, crossing.pattern.slopes[:, j])
        self.slopes = low, np.where(unknown, 1.0, low)

    def speed(self, i: int, radius: float, time: float) -> float:
        """Return a lower bound of the speed at which a pair goes to its new side, at all weights of the tube.

        The speed is an affine function of the pair's own slope. So are the forces on the pairs that slide, if they do
        so in every solution; else their slopes are anything between the two of σ.

        Args:
            i: the sample.
            radius: upper bound of the radius before any of the pairs crosses.
            time: for how long the pairs that cross are clear of 0 before.
        """
        own = np.arange(len(self.pulls)) == i
        cases = [[np.where(own, a, slope) * self.pulls for slope in self.slopes] for a in (self.data.slope, 1.0)]
        bounds = [(np.minimum(*case), np.maximum(*case), self.error) for case in cases]
        settled = [self._settled(least, most) for least, most, _ in bounds]
        closing = min(closing for _, _, closing in settled)
        if closing > 0 and radius / closing * UP < time:
            bounds = [self._with(case, forces, off) for case, (forces, off, _) in zip(bounds, settled, strict=True)]
        row = -(1.0 if self.sides[i] > 0 else -1.0) * self.K[i]
        lengths = self.data.lengths
        return min(
            float(np.sum(np.minimum(row * least, row * most)) - lengths[i] * float(lengths @ error) * UP)
            for least, most, error in bounds
        )

    def _with(
        self, case: tuple[np.ndarray, np.ndarray, np.ndarray], forces: np.ndarray, off: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        least, most, error = (x.copy() for x in case)
        least[self.held] = most[self.held] = forces
        error[self.held] = off + gamma(8) * np.abs(forces)
        return least, most, error

    def _settled(self, least: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Return the forces that keep the sliding pairs at 0, their error, and how fast a solution comes there.

        Let f* be these forces. If `slope q + μ ≤ f* ≤ q − μ`, the distance of u_j to the plane where these samples
        are at 0 falls at a speed of at least `μ σ_min(X_S)`, and is 0 from then on.
        """
        S, data, K, q = self.held, self.data, self.K, self.pulls
        if not len(S) or len(np.unique(np.abs(data.X[S]), axis=0)) < len(S):
            return np.zeros(len(S)), 0.0, 0.0
        inverse, rest = inverse_square(data, S), ~np.isin(np.arange(len(q)), S)
        middle, half = 0.5 * (least + most) * rest, 0.5 * (most - least) * rest
        forces = np.linalg.lstsq(K[np.ix_(S, S)], -K[S] @ middle, rcond=1e-12)[0]
        spread = half + self.error * rest
        spread[S] = gamma(len(q) + K.shape[0] + data.X.shape[1] + 8) * np.abs(forces)
        missing = np.abs(K[np.ix_(S, S)] @ forces + K[S] @ middle) + data.lengths[S] * float(data.lengths @ spread)
        off = float(np.linalg.norm(missing)) * inverse * UP
        margin = np.minimum(q[S] - forces, forces - data.slope * q[S]) - off - 2 * self.error[S]
        return forces, off, float(margin.min()) / math.sqrt(inverse) if inverse < math.inf else 0.0
