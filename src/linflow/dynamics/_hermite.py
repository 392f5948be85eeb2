"""Piecewise Hermite interpolation."""

from __future__ import annotations

import numpy as np

COMPARABLE = 0.1
"""Length over that of the interval asked from which a neighbouring interval has something to say: shorter ones, as at
a step cut short, only magnify rounding."""


def interpolate(
    t: np.ndarray,
    nodes: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray | None = None,
    curvatures: np.ndarray | None = None,
) -> np.ndarray:
    """Interpolate at t from value, slope and curvature at up to four nodes around it; linear from values alone.

    The ends of the interval and one node beyond each give a polynomial of degree 11, whose error is of order 12 in
    the length of the steps, above that of the steps themselves; at the ends of the range it is of degree 8.
    """
    if slopes is None or curvatures is None:
        return np.interp(t, nodes, values)
    t = np.asarray(t)
    if len(nodes) == 1:
        return np.full(t.shape, values[0])
    data = np.stack([values, slopes, curvatures / 2])
    lengths = np.diff(nodes)
    i = np.clip(np.searchsorted(nodes, t, side="right") - 1, 0, len(nodes) - 2)
    least = COMPARABLE * lengths[i]
    before = np.where((i > 0) & (lengths[i - 1] >= least), 1, 0)
    after = np.where((i < len(nodes) - 2) & (lengths[np.minimum(i + 1, len(nodes) - 2)] >= least), 1, 0)
    result = np.empty(t.shape)
    for back in (0, 1):
        for on in (0, 1):
            some = (before == back) & (after == on)
            places = (i[some] - back)[:, None] + np.arange(2 + back + on)
            result[some] = hermite(t[some], nodes[places], data[:, places])
    return result


def hermite(x: np.ndarray, nodes: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Evaluate the polynomials that have given Taylor coefficients at given nodes.

    Args:
        x: where, shape `(N,)`.
        nodes: of each polynomial, different from each other, shape `(N, k)`.
        data: values, slopes, halves of curvatures and so on, shape `(r, N, k)`.
    """
    order, _, count = data.shape
    first, length = nodes[:, :1], np.ptp(nodes, axis=1, keepdims=True)
    z = np.repeat((nodes - first) / length, order, axis=1)
    scaled = [np.repeat(d * length**p, order, axis=1) for p, d in enumerate(data)]
    total, column = order * count, scaled[0]
    coefficients = [column[:, 0]]
    for m in range(1, total):  # divided differences, where nodes coincide derivatives
        gap = z[:, m:] - z[:, : total - m]
        same = gap == 0
        derivative = scaled[m][:, : total - m] if m < order else 0.0
        column = np.where(same, derivative, np.diff(column, axis=1) / np.where(same, 1.0, gap))
        coefficients.append(column[:, 0])
    s = (x - first[:, 0]) / length[:, 0]
    result = coefficients[-1]
    for m in range(total - 2, -1, -1):
        result = coefficients[m] + (s - z[:, m]) * result
    return result
