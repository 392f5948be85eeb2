"""What the marches of convex smooth losses share: a polynomial path over a step, and the radius around it.

Each march has its own path, and its own bounds of the defect and of what lies between the times at which it computes.
Proofs: docs/verified.md, sections 11 and 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from linflow.verified.log_norm import greatest
from linflow.verified.march import EnclosureStep, rounding_of_value
from linflow.verified.rounding import TINY, UP, frobenius, gamma
from linflow.verified.smooth import ProductTube, cross

TUBES, SHORTER = 8, 30
"""Largest number of tubes that are tried, and of shorter steps."""


@dataclass
class ConvexMarch:
    """State of a verified flow, with the same interface as `EnclosureMarch`.

    Attributes:
        problem: the gradient of the loss.
        weights: the weights that the path has reached.
        scale: output scale c.
        radius: upper bound of the distance of the exact weights to `weights`.
        t: time reached.
        exponent: `∫ m` so far.
        first: bounds of the initial loss gap.
        gap: bounds of the loss gap now.
        trouble: why the march cannot go on; empty while it can.
    """

    problem: Any
    weights: list[np.ndarray]
    scale: float
    radius: float = 0.0
    t: float = field(default=0.0, init=False)
    exponent: float = field(default=0.0, init=False)
    trouble: str = field(default="", init=False)
    hessians: int = field(default=0, init=False)
    first: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.gap = self._gap(self.weights, self.radius)

    def _gap(self, weights: list[np.ndarray], radius: float) -> tuple[float, float]:
        return ProductTube(self.problem, weights, self.scale).gap(radius)

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        raise NotImplementedError

    def hurry(self, factor: float) -> None:
        """Go on as before: the degree of the path is always the same."""

    def _confirmed(self, path: ConvexPath, added: float) -> EnclosureStep | None:
        """Return the step with a radius that is confirmed, or None. The defect of the path adds `added` to it."""
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
        constants, series = path.constants(reach), tuple(path.series)
        step = EnclosureStep(self.t, length, path.tau, series, path.lengths, radius, constants, exponent, gap)
        self.t, self.radius, self.exponent = self.t + length, after, self.exponent + exponent
        self.weights, self.gap = weights, gap
        return step


class ConvexPath(ProductTube):
    """A polynomial path over one step.

    Attributes:
        series: the coefficients of each layer's polynomial.
        lengths: upper bounds of their Frobenius norms, one row per layer.
        tau: the unit of time of the path's variable.
        s: the length of the step in this unit.
        knots: the times at which the products are computed, from 0 to s.
        widths: upper bounds of the distances between them.
    """

    knots: np.ndarray
    widths: Sequence[float]

    def __init__(self, problem: Any, series: list[np.ndarray], c: float, tau: float, s: float):
        super().__init__(problem, [layer[0] for layer in series], c)
        self.series, self.tau, self.s = series, tau, s
        self.lengths = np.array([frobenius(layer) for layer in series])

    @cached_property
    def bends(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Upper bounds of how far the two norms of `cross` exceed their chords between two knots."""
        raise NotImplementedError

    @cached_property
    def cross(self) -> dict[tuple[int, int], tuple[list[float], list[float]]]:
        """Upper bounds of `‖P_{i−1}ᵀ G S_{j+1}ᵀ‖₂` and `‖W_{i+1} ⋯ W_{j−1}‖₂` at the knots."""
        weights, off = self.at(self.knots)
        G, G_error, _, _ = self.problem.loss_gradient(weights, off, self.c)
        return cross(weights, off, G, G_error)

    def exponent(self, radius: float) -> float:
        """Return an upper bound of `∫ m ds` over the step, on the tube of this radius."""
        L, more, total = self.depth, self.moved(radius), 0.0
        if L == 1:
            return 0.0
        for k, width in enumerate(self.widths):
            C = np.zeros((L, L))
            for (i, j), (x, mid) in self.cross.items():
                (x_bend, mid_bend), (x_more, mid_more) = self.bends[i, j], more[i, j]
                x_here = max(x[k], x[k + 1]) + x_bend + x_more
                mid_here = max(mid[k], mid[k + 1]) + mid_bend + mid_more
                C[i, j] = C[j, i] = x_here * mid_here * UP
            total += width * greatest(C)
        return total * UP

    def end(self) -> tuple[list[np.ndarray], float]:
        """Return the rounded weights at the end, and a bound of their distance to the polynomial."""
        weights, off = self.at(np.array([self.s]))
        return [np.ascontiguousarray(W[0]) for W in weights], math.sqrt(float(np.sum(off * off))) * UP + TINY

    def at(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the weights at several times, and a bound of the rounding of each layer, shape `(L, times)`."""
        k = np.arange(self.lengths.shape[1])
        per = np.array([gamma(2 * int(j) + 1) for j in k])[:, None] * s ** k[:, None]
        return [_horner(layer, s) for layer in self.series], self.lengths @ per * UP + TINY

    def velocity(self, s: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return `dθ̃/ds` at several times, and a bound of its rounding in each layer."""
        k = np.arange(1, self.lengths.shape[1])
        per = (np.array([gamma(2 * int(j) + 2) for j in k]) * k)[:, None] * s ** (k - 1)[:, None]
        found = [_horner(layer[1:] * k[:, None, None], s) for layer in self.series]
        return found, self.lengths[:, 1:] @ per * UP + TINY


def _horner(series: np.ndarray, s: np.ndarray) -> np.ndarray:
    x = s[:, None, None]
    value = series[-1] + 0.0 * x
    for coefficient in series[-2::-1]:
        value = value * x + coefficient
    return value
