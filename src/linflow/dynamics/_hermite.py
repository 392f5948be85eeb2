"""Piecewise Hermite interpolation."""

from __future__ import annotations

import numpy as np


def interpolate(
    t: np.ndarray,
    nodes: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray | None = None,
    curvatures: np.ndarray | None = None,
) -> np.ndarray:
    """Interpolate at t: quintic from value, slope and curvature; linear from values alone."""
    if slopes is None or curvatures is None:
        return np.interp(t, nodes, values)
    if len(nodes) == 1:
        return np.full(np.shape(t), values[0])
    i = np.clip(np.searchsorted(nodes, t, side="right") - 1, 0, len(nodes) - 2)
    h = nodes[i + 1] - nodes[i]
    s = (t - nodes[i]) / h
    # Newton form on the nodes 0, 0, 0, 1, 1, 1 of the unit interval.
    a, b, c = values[i], slopes[i] * h, curvatures[i] * h * h / 2
    d = values[i + 1] - a - b - c
    e = slopes[i + 1] * h - b - 2 * c - 3 * d
    g = curvatures[i + 1] * h * h / 2 - c - 3 * d - 3 * e
    r = s - 1
    return a + s * (b + s * (c + s * (d + r * (e + r * g))))
