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
    the length of the steps, above that of the steps themselves.
    """
    if slopes is None or curvatures is None:
        return np.interp(t, nodes, values)
    t = np.asarray(t)
    if len(nodes) == 1:
        return np.full(t.shape, values[0])
    data, lengths = np.stack([values, slopes, curvatures / 2]), np.diff(nodes)
    i = np.clip(np.searchsorted(nodes, t, side="right") - 1, 0, len(lengths) - 1)
    first, count = _windows(lengths)
    result = np.empty(t.shape)
    for size in np.unique(count[i]):
        some = count[i] == size
        intervals, which = np.unique(i[some], return_inverse=True)
        places = first[intervals, None] + np.arange(size)
        result[some] = hermite(t[some], nodes[places], data[:, places], which)
    return result


def _windows(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first node and the number of nodes to use on each interval: those around it, but for short steps."""
    last = len(lengths) - 1
    i = np.arange(last + 1)
    before = (i > 0) & (lengths[i - 1] >= COMPARABLE * lengths)
    after = (i < last) & (lengths[np.minimum(i + 1, last)] >= COMPARABLE * lengths)
    first, count = i - before, 2 + before + after
    if last >= 2:  # at the ends, two on the one side there is
        window = np.clip(i - 1, 0, last - 2)
        whole = np.min(lengths[window[:, None] + np.arange(3)], axis=1) >= COMPARABLE * lengths
        first, count = np.where(whole, window, first), np.where(whole, 4, count)
    return first, count


def hermite(x: np.ndarray, nodes: np.ndarray, data: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Evaluate the polynomials that have given Taylor coefficients at given nodes.

    Args:
        x: where, shape `(N,)`.
        nodes: of each polynomial, ascending, shape `(M, k)`.
        data: values, slopes, halves of curvatures and so on, shape `(r, M, k)`.
        which: the polynomial to take at each x, shape `(N,)`.
    """
    order, _, count = data.shape
    first, length = nodes[:, :1], nodes[:, -1:] - nodes[:, :1]
    z = np.repeat((nodes - first) / length, order, axis=1)
    scaled = [np.repeat(d * length**p, order, axis=1) for p, d in enumerate(data)]
    total, column = order * count, scaled[0]
    coefficients = np.empty((total, len(nodes)))
    coefficients[0] = column[:, 0]
    for m in range(1, total):  # divided differences, where nodes coincide derivatives
        gap, rise = z[:, m:] - z[:, : total - m], column[:, 1:] - column[:, :-1]
        if m < order:
            same = np.arange(total - m) % order + m < order
            gap[:, same] = 1.0
            rise[:, same] = scaled[m][:, : total - m][:, same]
        column = rise / gap
        coefficients[m] = column[:, 0]
    s = (x - first[which, 0]) / length[which, 0]
    coefficients, z = coefficients[:, which], z.T[:, which]
    result = coefficients[-1]
    for m in range(total - 2, -1, -1):
        result = coefficients[m] + (s - z[m]) * result
    return result
