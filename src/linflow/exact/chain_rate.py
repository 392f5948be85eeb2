"""The least rate of scalar chains under any exposure: what diagonal and circulant layers keep for ever."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from linflow._support.arrays import EPS
from linflow.exact._exposure import ExposedChains

_SLACK, _NEAR = 1e-9, 1e-6
"""Relative allowance for the rounding of a rate, and how near a bound of a minimum is to it."""


def least_slope(layers: np.ndarray, *, opposite: bool) -> float:
    """Return a lower bound on `min_i T_i`, `T_i = Σ_l Π_{k≠l} |w_{k,i}|²`, that holds along every flow of the chains.

    The flow conserves `|w_{l,i}|² − |w_{k,i}|²`, so a chain has its least T where its product is 0, `Π_{l≥2} o_l` of
    the offsets. If two chains have opposite exposures, the mean of their T counts, which is convex in the exposure.

    Args:
        layers: the weights, shape `(L, k)`, real, or complex as the spectra of filters are.
        opposite: whether the second half of the chains have the exposures of the first, negated.

    Source: docs/small_starts.md.

    Example:
        >>> import numpy as np
        >>> from linflow.exact.chain_rate import least_slope
        >>> round(least_slope(np.array([[2.0, 3.0], [1.0, 1.0]]), opposite=False), 6)  # 2² − 1²
        3.0
        >>> round(least_slope(np.array([[0.5, 0.5], [0.5, 0.5]]), opposite=True), 6)  # u² − v² from α: 2α²
        0.5
    """
    if not opposite:
        sizes = np.abs(layers)
        # Spectra carry the rounding of a transform, a few ε log k of the squares of all weights.
        off = 64 * EPS * (1 + math.log2(sizes.shape[1])) * float(np.sum(sizes**2))
        offsets = np.maximum(ExposedChains(sizes).offsets[:, 1:] - off, 0.0)
        return float(np.prod(offsets, axis=1).min()) * (1 - _SLACK)
    flow = ExposedChains(layers)
    half = layers.shape[1] // 2

    def mean(s: np.ndarray) -> np.ndarray:
        slopes = flow.slope(flow.product(np.concatenate([s, -s])))
        return 0.5 * (slopes[:half] + slopes[half:])

    return float(_least_convex(mean, half).min()) * (1 - _SLACK)


def _least_convex(function: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Return lower bounds on the minima of convex functions of one number.

    If the middle of three points has the least value, the lines through the middle and either end bound the function
    from below between the other two: by `2f(middle) − f(end)`.
    """
    middle, width, found = np.zeros(count), np.ones(count), np.zeros(count)
    for _ in range(200):
        left, here, right = function(middle - width), function(middle), function(middle + width)
        inside = (here <= left) & (here <= right)
        with np.errstate(invalid="ignore"):
            found = np.where(inside, 2 * here - np.maximum(left, right), 0.0)
        if np.all(inside & (found >= (1 - _NEAR) * here)):
            break
        middle = np.where(inside, middle, np.where(left < right, middle - width, middle + width))
        width = np.where(inside, width / 2, 2 * width)
    return np.maximum(found, 0.0)
