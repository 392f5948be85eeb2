"""One column of a Huber regression: its minimum by Newton's method, and where it is strongly convex."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS

STEPS = 200
"""Most steps of Newton's method for one threshold; random data need 3 to 10."""

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the samples with the smallest residuals among which pieces are looked for."""


def clipped(r: np.ndarray, threshold: float) -> np.ndarray:
    """Return the slope of the Huber function: r, at most the threshold in size."""
    return np.clip(r, -threshold, threshold)


def huber(r: np.ndarray, threshold: float) -> np.ndarray:
    """Return the Huber function: `½r²` up to the threshold, `δ|r| − ½δ²` beyond."""
    s = np.abs(clipped(r, threshold))
    return s * (np.abs(r) - 0.5 * s)


@dataclass(frozen=True)
class Piece:
    """Samples whose residuals stay within δ while the gap of their column is at most `level`.

    There `f − f*` is strongly convex with `curvature`, and everywhere `‖∇f‖² ≥ 2 curvature · min(f − f*, level)`.
    """

    curvature: float
    level: float

    def dominance(self, gap: np.ndarray) -> np.ndarray:
        """Return γ with `‖∇f‖² ≥ γ (f − f*)` wherever the gap is at most `gap`: `2μ min(1, level/gap)`."""
        return 2 * self.curvature * self._share(gap) / (1 + 8 * EPS)

    def growth(self, gap: np.ndarray) -> np.ndarray:
        """Return μ with `f − f* ≥ ½μ‖w − w*‖²` wherever the gap is at most `gap`: `4μs/(1 + s)²`, s as above."""
        s = self._share(gap)
        return 4 * self.curvature * s / (1 + s) ** 2 / (1 + 8 * EPS)

    def _share(self, gap: np.ndarray) -> np.ndarray:
        return self.level / np.maximum(gap, self.level)


def fitted(X: np.ndarray, y: np.ndarray, threshold: float) -> np.ndarray:
    """Return a minimiser of `Σ h(Xw − y)` for X of full column rank.

    From least squares, the threshold comes down by factors of two (Clark & Osborne 1986), each time by Newton's
    method with an exact search along the step (Madsen & Nielsen 1990).
    """
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    now = float(np.abs(X @ w - y).max())
    while now > threshold:
        now = max(threshold, now / 2)
        w = _newton(X, y, w, now, EPS if now == threshold else 1e-3)
    return w


def _newton(X: np.ndarray, y: np.ndarray, w: np.ndarray, threshold: float, close: float) -> np.ndarray:
    """Return a minimiser from w, once its gradient is `close` to 0 relative to its terms, or no step improves it."""
    lengths = np.linalg.norm(X, axis=1)
    r, best, kept, least = X @ w - y, math.inf, w, math.inf
    for _ in range(STEPS):
        slopes = clipped(r, threshold)
        g, value = X.T @ slopes, math.fsum(huber(r, threshold))
        size = float(np.linalg.norm(g))
        if value >= best and size >= least:
            break
        if size < least or value < best * (1 - 8 * EPS):
            kept, least = w, size
        best = min(best, value)
        if size <= close * float(lengths @ np.abs(slopes)):
            break
        p = -_solved(X, r, threshold, g)
        w = w + _searched(r, X @ p, threshold) * p
        r = X @ w - y
    return kept


def _solved(X: np.ndarray, r: np.ndarray, threshold: float, g: np.ndarray) -> np.ndarray:
    """Return `H⁻¹g` with the Hessian H; where it is singular, with the weights `min(1, δ/|r|)` of all samples."""
    some = X[np.abs(r) <= threshold]
    for rows in (some, np.sqrt(threshold / np.maximum(np.abs(r), threshold))[:, None] * X):
        if len(rows) < X.shape[1]:
            continue
        upper = np.asarray(np.linalg.qr(rows, mode="r"))
        diagonal = np.abs(np.diag(upper))
        if diagonal.min() > 1e-10 * diagonal.max():
            return np.linalg.solve(upper, np.linalg.solve(upper.T, g))
    return g / float(np.linalg.norm(X)) ** 2


def _searched(r: np.ndarray, d: np.ndarray, threshold: float) -> float:
    """Return the t at which `Σ h(r + td)` is least: the zero of its slope, which is linear between its kinks."""

    def slope(t: float) -> float:
        return float(clipped(r + t * d, threshold) @ d)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kinks = np.concatenate([(threshold - r) / d, (-threshold - r) / d])
    kinks = np.unique(np.concatenate([[0.0], kinks[np.isfinite(kinks) & (kinks > 0)]]))
    low, high = 0, len(kinks) - 1
    if slope(kinks[high]) <= 0:  # flat beyond the last kink
        return float(kinks[high])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if slope(kinks[middle]) <= 0 else (low, middle)
    a, b = slope(kinks[low]), slope(kinks[high])
    return float(kinks[low] + (kinks[high] - kinks[low]) * (a / (a - b) if a < b else 0.0))


@dataclass(frozen=True)
class HuberFit:
    """A computed minimiser of one column, and what is known of the exact one.

    Attributes:
        slope: upper bound of the norm of the gradient there.
        distance: upper bound of the distance to the exact minimiser; inf if it is not known to be the only one.
        excess: upper bound of the excess of its value over the minimum.
        pieces: where the column is strongly convex; empty if that is not known.
    """

    slope: float
    distance: float
    excess: float
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray, w: np.ndarray, threshold: float, least: float) -> HuberFit:
        """Return the fit of one column.

        Args:
            X: inputs of full column rank.
            y: outputs.
            w: the computed minimiser.
            threshold: δ.
            least: the least singular value of X.
        """
        r, lengths = X @ w - y, np.linalg.norm(X, axis=1)
        off = 4 * EPS * (lengths * np.linalg.norm(w) + np.abs(y))  # rounding of r
        slopes = clipped(r, threshold)
        free = np.abs(r) <= threshold + off
        turned = free * np.minimum(off, 2 * threshold)  # how far the slope of a sample may be off
        slope = float(np.linalg.norm(X.T @ slopes)) + float(lengths @ (4 * EPS * np.abs(slopes) + turned))
        slack = threshold - np.abs(r) - off
        found = [_piece(X, slack, lengths, slope, int(share * np.sum(slack > 0))) for share in SHARES]
        pieces = tuple({piece.level: piece for piece in found if piece is not None}.values())
        if pieces:
            curvature = max(piece.curvature for piece in pieces)
            return cls(slope, slope / curvature, slope * slope / curvature, pieces)
        value = float(np.sum(huber(np.abs(r) + off, threshold)))
        farthest = value / threshold + threshold / 2  # the largest residual: h(r) ≥ δ|r| − ½δ², of small ones, too
        away = 2 * math.sqrt(2 * value * max(1.0, farthest / threshold)) / least
        return cls(slope, math.inf, slope * away, ())


def _piece(X: np.ndarray, slack: np.ndarray, lengths: np.ndarray, slope: float, count: int) -> Piece | None:
    """Return the piece of the `count` samples with the most slack, or None if it shows nothing."""
    n = X.shape[1]
    if count < n:
        return None
    chosen = np.argsort(-slack, kind="stable")[:count]
    U, s, _ = np.linalg.svd(X[chosen], full_matrices=False)
    curvature = max(float(s[-1]) - 16 * max(X.shape) * EPS * float(s[0]), 0.0) ** 2
    if curvature == 0:
        return None
    room = slack[chosen] - 2 * lengths[chosen] * (slope / curvature)
    if room.min() <= 0:
        return None
    leverage = np.sum(U * U, axis=1) * (1 + 16 * n * EPS) + 16 * EPS
    return Piece(curvature, float(np.min(room * room / leverage)) / 2 / (1 + 8 * EPS))
